package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
)

// pluginPath is where the plugin is.
func (l *testLab) pluginPath() string {
	return filepath.Join(filepath.Dir(l.KubectlArgs()[0]), "kubectl-berth")
}

// plugin runs the plugin as administrator and returns what it writes and its exit
// status.
func (e *env) plugin(args ...string) (out string, status int) {
	e.Helper()
	cmd := exec.CommandContext(e.ctx, e.lab.pluginPath(), args...)
	cmd.Env = e.lab.KubectlEnv()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.Fatal(err)
	}
	if stderr.Len() > 0 {
		e.Logf("kubectl berth %s: %s", strings.Join(args, " "), stderr.String())
	}
	return stdout.String(), cmd.ProcessState.ExitCode()
}

// expectSaid runs the plugin and expects that it succeeds and says all of the texts.
func (e *env) expectSaid(args []string, texts ...string) {
	e.Helper()
	out, status := e.plugin(args...)
	if status != 0 {
		e.Errorf("kubectl berth %s ends with %d", strings.Join(args, " "), status)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			e.Errorf("kubectl berth %s does not say %q:\n%s", strings.Join(args, " "), text, out)
		}
	}
}

// testPlugin: what kubectl berth says of a Service is so, before and after the node
// that owns its addresses is drained.
func testPlugin(e *env) {
	e.usePool(4)
	e.createDeployment(deployment{app: "web", replicas: 2})
	e.createService("web")
	e.createService("idle", forPods("nobody"))
	addresses := e.waitAnnounced("web")
	owner := e.waitOwner(addresses[0])

	out, _ := e.plugin("services", "-n", e.namespace, "-o", "json")
	var services struct {
		Services []struct{ Name, State string }
	}
	if err := json.Unmarshal([]byte(out), &services); err != nil || len(services.Services) != 2 {
		e.Fatalf("kubectl berth services says %s (%v)", out, err)
	}
	e.expectSaid([]string{"services", "-n", e.namespace}, append(texts(addresses), owner+" (ARP)", "Announced")...)
	e.expectSaid([]string{"nodes"}, owner, "ready")
	e.expectSaid([]string{"pools"}, e.namespace)
	e.expectSaid([]string{"explain", "svc/web", "-n", e.namespace}, owner+": owner, on eth0", "2 ready", "Nothing to fix.")
	e.expectSaid([]string{"explain", "ip/" + addresses[0].String()}, e.namespace+"/web", "Nothing to fix.")
	e.waitCondition("idle", "berth.dev/Announced", "False", "NoEndpoints")
	e.expectSaid([]string{"explain", "svc/idle", "-n", e.namespace}, "no endpoint of the Service serves", "Fix:")
	e.expectSaid([]string{"status", "-n", e.namespace}, "leads", "3 of 3 nodes ready", "NoEndpoints", "Berth is healthy")

	defer e.undrain(owner) // whatever becomes of the test
	e.expectSaid([]string{"drain", owner, "--timeout", "20s"}, "is drained")
	e.waitOwners(addresses, func(node string) bool { return node != owner })
	e.expectSaid([]string{"nodes"}, "drained")
	e.expectSaid([]string{"undrain", owner}, "in service again")
	e.expectSaid([]string{"rebalance", e.namespace, "--timeout", "25s"}, "BEFORE", owner)
}
