package gobgp

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/netnstest"
)

// A daemon is a real router: FRR or BIRD in a network namespace.
type daemon struct {
	t      testing.TB
	ns     *netnstest.NS
	folder string
	ask    func(command string) *exec.Cmd
}

// find fails the test if a program is not installed, because tests that are
// skipped unnoticed prove nothing.
func find(t testing.TB, program string) string {
	t.Helper()
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%s is not installed: run `make packages`", program)
	}
	return program
}

// shortFolder returns one whose path leaves room for the names of sockets.
func shortFolder(t testing.TB) string {
	folder, err := os.MkdirTemp("", "bgp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return folder
}

func (d *daemon) file(name string) string { return filepath.Join(d.folder, name) }

// start runs a program in the namespace until the end of the test.
func (d *daemon) start(socket string, name string, args ...string) {
	d.t.Helper()
	log, err := os.Create(d.file(filepath.Base(name) + ".log"))
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.Command(find(d.t, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	d.ns.MustDo(cmd.Start)
	d.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if d.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			d.t.Logf("%s:\n%s", name, text)
		}
	})
	netnstest.Eventually(d.t, name, func() bool {
		conn, err := new(net.Dialer).DialContext(context.Background(), "unix", socket)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// startFRR runs zebra and bgpd.
func (n *network) startFRR(t testing.TB, config string) *daemon {
	t.Helper()
	d := &daemon{t: t, ns: n.router, folder: shortFolder(t)}
	n.router.SetSysctl("net/ipv4/ip_forward", "1")
	n.router.SetSysctl("net/ipv6/conf/all/forwarding", "1")
	files := map[string]string{"zebra.conf": "log stdout\n", "bgpd.conf": "log stdout\n" + config, "vtysh.conf": ""}
	for name, text := range files {
		if err := os.WriteFile(d.file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	common := func(name string) []string {
		return []string{"-u", "root", "-g", "frrvty", "-f", d.file(name + ".conf"), "-i", d.file(name + ".pid"),
			"-z", d.file("zserv.api"), "--vty_socket", d.folder, "-P", "0"}
	}
	d.start(d.file("zebra.vty"), "/usr/lib/frr/zebra", common("zebra")...)
	d.start(d.file("bgpd.vty"), "/usr/lib/frr/bgpd", append(common("bgpd"), "-p", "179")...)
	d.ask = func(command string) *exec.Cmd {
		return exec.Command(find(t, "/usr/bin/vtysh"), "--vty_socket", d.folder, "--config_dir", d.folder, "-d", "bgpd", "-c", command)
	}
	return d
}

// startBIRD runs BIRD.
func (n *network) startBIRD(t testing.TB, config string) *daemon {
	t.Helper()
	d := &daemon{t: t, ns: n.router, folder: shortFolder(t)}
	if err := os.WriteFile(d.file("bird.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start(d.file("bird.ctl"), "/usr/sbin/bird", "-f", "-c", d.file("bird.conf"), "-s", d.file("bird.ctl"), "-P", d.file("bird.pid"))
	d.ask = func(command string) *exec.Cmd {
		return exec.Command(find(t, "/usr/sbin/birdc"), "-s", d.file("bird.ctl"), command)
	}
	return d
}

// say returns what the router answers.
func (d *daemon) say(command string) string {
	d.t.Helper()
	out, err := d.ask(command).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "not found") {
		d.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// frrPath is a path as FRR prints it.
type frrPath struct {
	Valid, Stale   bool
	Origin         string
	LocalPref, Med *uint32
	AsPath         struct{ String string }
	LocPrf         *uint32
	Metric         *uint32
	Community      struct{ String string }
	LargeCommunity struct{ String string }
	Nexthops       []struct{ IP string }
}

// paths returns FRR's paths to a prefix.
func (d *daemon) paths(family, prefix string) []frrPath {
	d.t.Helper()
	var answer struct{ Paths []frrPath }
	text := d.say("show bgp " + family + " unicast " + prefix + " json")
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		d.t.Fatalf("%v: %s", err, text)
	}
	return answer.Paths
}

// prefixes returns how many prefixes FRR knows from its neighbour.
func (d *daemon) prefixes(neighbour string) int {
	d.t.Helper()
	return strings.Count(d.say("show bgp ipv4 unicast neighbors "+neighbour+" routes"), "/32")
}

// eventually is netnstest.Eventually for what takes daemons a while.
func eventually(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
