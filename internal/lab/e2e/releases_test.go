package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// defaultChart is the chart, as seen from the root of the source tree.
const defaultChart = "deploy/chart"

// release is Berth as installed once.
type release struct {
	*env
	// name, inside and chart take the place of those in the documentation: the
	// release, its namespace and the folder of the chart.
	name, inside, chart string
	// before are the objects that there were before it.
	before map[string]bool
	// commands is a folder with kubectl and helm.
	commands string
}

// newRelease says how something is going to be installed. If the test fails, what is
// left of a release of the chart is taken away, so that the next test has a chance.
func (e *env) newRelease(name, namespace string) *release {
	e.Helper()
	r := &release{env: e, name: name, inside: namespace, chart: defaultChart, before: e.objects(), commands: e.TempDir()}
	helm, err := filepath.Abs(helmBinary)
	if err != nil {
		e.Fatal(err)
	}
	for command, argv := range map[string][]string{"kubectl": e.lab.KubectlArgs(), "helm": {helm}} {
		script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", strings.Join(argv, " "))
		if err := os.WriteFile(filepath.Join(r.commands, command), []byte(script), 0o700); err != nil {
			e.Fatal(err)
		}
	}
	e.Cleanup(func() {
		if !e.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 20*time.Second)
		defer cancel()
		_, err := r.shell(ctx, "helm uninstall --ignore-not-found "+name+" --namespace "+namespace)
		e.Log("after a failure, helm uninstall:", err)
	})
	return r
}

// makeNamespace is what comes before an installation by Helm, unless an earlier
// release was there.
func (r *release) makeNamespace() {
	r.Helper()
	if _, err := r.lab.kube.CoreV1().Namespaces().Get(r.ctx, r.inside, metav1.GetOptions{}); err == nil {
		return
	}
	r.run(namespaceCommand)
	r.run(labelCommand)
}

// run runs a command of docs/install.md, with more arguments.
func (r *release) run(command string, more ...string) {
	r.Helper()
	if out, err := r.try(command, more...); err != nil {
		r.Fatal(err, out)
	}
}

// try is run for what may fail. It makes sure that the documentation has the command,
// and replaces in it what this release has otherwise.
func (r *release) try(command string, more ...string) (string, error) {
	r.Helper()
	page, err := os.ReadFile(repository + "/docs/install.md")
	if err != nil {
		r.Fatal(err)
	}
	if !strings.Contains(string(page), "\n"+command) {
		r.Fatalf("docs/install.md has no line %q", command)
	}
	own := strings.NewReplacer("berth-system", r.inside, " berth ", " "+r.name+" ", defaultChart, r.chart)
	return r.shell(r.ctx, own.Replace(command), more...)
}

// shell runs a command where users are said to.
func (r *release) shell(ctx context.Context, command string, more ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", command + ` "$@"`, "sh"}, more...)...)
	cmd.Dir = repository
	cmd.Env = append(r.lab.KubectlEnv(), "PATH="+r.commands+":"+os.Getenv("PATH"),
		"HELM_CACHE_HOME="+r.commands, "HELM_CONFIG_HOME="+r.commands, "HELM_DATA_HOME="+r.commands)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", command, strings.Join(more, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// values are the arguments that give helm values.
func (r *release) values(text string) []string {
	r.Helper()
	file := filepath.Join(r.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
	return []string{"--values", file, "--timeout", installLimit.String()}
}

func (r *release) uninstall() {
	r.Helper()
	r.lab.checkLogsIn(r.T, r.inside)
	r.run(uninstallCommand)
}

// waitRollout returns when no Pod is of an earlier template.
func (r *release) waitRollout() {
	r.Helper()
	r.run(controllerRollout)
	r.run(speakerRollout)
}

// waitReady returns when as many controllers and all speakers are ready and nothing
// else is there: helm is content when one speaker is still missing.
func (r *release) waitReady(controllers int) {
	r.Helper()
	want := controllers + nodesOf(r.lab)
	r.waitFor(fmt.Sprintf("%d Pods in %s to be ready", want, r.inside), installLimit, func(ctx context.Context) (bool, string) {
		pods, err := r.lab.kube.CoreV1().Pods(r.inside).List(ctx, listAll)
		if err != nil {
			return false, err.Error()
		}
		var missing []string
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp != nil || !podReady(&pod) {
				missing = append(missing, pod.Name)
			}
		}
		return len(missing) == 0 && len(pods.Items) == want, fmt.Sprintf("%d Pods, not ready %v", len(pods.Items), missing)
	})
}
