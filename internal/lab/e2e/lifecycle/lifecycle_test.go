package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/netns"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// bin is where `make build` puts the binaries.
const bin = "../../../../bin"

// labOptions are those of a small lab with a name of its own, of which nothing
// may be left when the test ends, however it does.
func labOptions(t *testing.T, suffix string, nodes int) lab.Options {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("starting a lab needs root")
	}
	options := lab.DefaultOptions()
	options.Name = "t" + strconv.Itoa(os.Getpid()) + suffix
	options.Nodes = nodes
	options.Berth = false
	options.BinDir = absolute(t, bin)
	t.Cleanup(func() {
		if err := lab.Down(context.WithoutCancel(t.Context()), options.Name); err != nil {
			t.Error(err)
		}
	})
	return options
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func up(t *testing.T, options lab.Options) *lab.Cluster {
	t.Helper()
	cluster, err := lab.Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return cluster
}

// stateFolder is where a lab keeps its files.
func stateFolder(name string) string { return "/run/berth-lab/" + name }

// namespaces returns all network namespaces of a lab.
func namespaces(t *testing.T, name string) []string {
	t.Helper()
	names, err := netns.List("berth-" + name + "-")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// members returns all processes of a lab.
func members(t *testing.T, name string) []proc.Record {
	t.Helper()
	pids, err := netns.Processes(namespaces(t, name)...)
	if err != nil {
		t.Fatal(err)
	}
	var records []proc.Record
	for _, pid := range pids {
		if record, err := proc.Identify(pid); err == nil {
			records = append(records, record)
		}
	}
	return records
}

// checkNothingLeft looks for remains of a lab, of which all were processes.
func checkNothingLeft(t *testing.T, name string, all []proc.Record) {
	t.Helper()
	for _, record := range all {
		if record.Alive() {
			t.Errorf("process %d is alive", record.PID)
		}
	}
	for _, process := range mentioning(t, stateFolder(name)) {
		t.Errorf("process left: %s", process)
	}
	if left := namespaces(t, name); len(left) > 0 {
		t.Errorf("namespaces left: %v", left)
	}
	if _, err := os.Stat(stateFolder(name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left (error %v)", stateFolder(name), err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, trace := range []string{stateFolder(name) + "/", stateFolder(name) + " ", "berth-" + name + "-"} {
		if strings.Contains(string(mounts), trace) {
			t.Errorf("mounts left at %s:\n%s", trace, mounts)
		}
	}
	interfaces, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range interfaces {
		if device.Name() == network.Client || strings.HasPrefix(device.Name(), "node-") {
			t.Errorf("interface left: %s", device.Name())
		}
	}
}

// mentioning returns the running processes whose command line, program or folder
// has to do with path.
func mentioning(t *testing.T, path string) []string {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, folder := range folders {
		command, _ := os.ReadFile(filepath.Join(folder, "cmdline")) // empty if it has ended
		traces := string(command)
		for _, link := range []string{"cwd", "root", "exe"} {
			target, _ := os.Readlink(filepath.Join(folder, link)) // empty if it has ended
			traces += " " + target
		}
		if strings.Contains(traces, path+"/") {
			found = append(found, filepath.Base(folder)+" "+traces)
		}
	}
	return found
}

// recordOf returns the record of a background process.
func recordOf(t *testing.T, cluster *lab.Cluster, name string) proc.Record {
	t.Helper()
	status, err := cluster.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range status.Processes {
		if process.Name == name {
			return process.Record
		}
	}
	t.Fatalf("lab %s has no process %s", cluster.Name(), name)
	return proc.Record{}
}

func TestDownAfterKillsLeavesNothing(t *testing.T) {
	t.Parallel()
	c := up(t, labOptions(t, "kills", 1))
	if _, err := c.Kubectl(t.Context(), nil, "run", "pause", "--image=pause"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), nil, "wait", "--for=condition=Ready", "pod/pause", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	all := members(t, c.Name())
	for _, name := range []string{"etcd", "agent@node-1", "forward"} {
		if err := recordOf(t, c, name).Signal(syscall.SIGKILL); err != nil {
			t.Errorf("kill %s: %v", name, err)
		}
	}
	if err := c.Freeze(lab.APIServer); err != nil {
		t.Error(err)
	}
	if err := c.Cut("node-1"); err != nil {
		t.Error(err)
	}
	if err := c.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, c.Name(), all)
	if _, err := lab.Open(c.Name()); !errors.Is(err, lab.ErrNotUp) {
		t.Errorf("open after down: error %v, want %v", err, lab.ErrNotUp)
	}
	if err := lab.Down(t.Context(), c.Name()); err != nil {
		t.Errorf("down again: %v", err)
	}
}

func TestInterruptedUpLeavesNothing(t *testing.T) {
	t.Parallel()
	options := labOptions(t, "interrupted", 1)
	ctx, cancel := context.WithCancel(t.Context())
	var all []proc.Record
	options.Progress = func(string) {
		all = members(t, options.Name)
		cancel()
	}
	if _, err := lab.Up(ctx, options); !errors.Is(err, context.Canceled) {
		t.Errorf("up: error %v, want %v", err, context.Canceled)
	}
	if len(all) < 3 {
		t.Errorf("interrupted with only %d processes running", len(all))
	}
	checkNothingLeft(t, options.Name, all)
}

// A control plane whose programs end at once must be reported by what ended and
// what it said.
func TestFailedUpSaysWhyAndLeavesNothing(t *testing.T) {
	t.Parallel()
	options := labOptions(t, "failed", 0)
	good := options.BinDir
	options.BinDir = t.TempDir()
	script := "#!/bin/sh\necho this is why >&2\nexit 3\n"
	if err := os.WriteFile(filepath.Join(options.BinDir, "kube"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(good, "lab"), filepath.Join(options.BinDir, "lab")); err != nil {
		t.Fatal(err)
	}
	_, err := lab.Up(t.Context(), options)
	if err == nil {
		t.Fatal("up without a control plane")
	}
	for _, part := range []string{"ended during the start: exit status 3", "this is why"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	checkNothingLeft(t, options.Name, nil)
}

// `lab up` is killed, so that nobody cleans up, and then the lab's own folder is
// lost as well.
func TestDownAfterKilledUpLeavesNothing(t *testing.T) {
	t.Parallel()
	options := labOptions(t, "killedup", 1)
	cmd := exec.Command(filepath.Join(options.BinDir, "lab"), "up", "--name", options.Name, "--nodes=1", "--berth=false")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil { // its first step is done
		t.Errorf("lab up: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	cmd.Wait() //nolint:errcheck // killed, as it should be
	all := members(t, options.Name)
	if len(all) < 3 {
		t.Errorf("killed with only %d processes running", len(all))
	}
	if err := os.RemoveAll(filepath.Join(stateFolder(options.Name), "processes")); err != nil {
		t.Error(err)
	}
	if err := lab.Down(t.Context(), options.Name); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, options.Name, all)
}

func TestLabsDoNotTouchEachOther(t *testing.T) {
	t.Parallel()
	kept := up(t, labOptions(t, "kept", 0))
	other := labOptions(t, "keptnot", 0) // its name starts with that of the first
	up(t, other)
	others := members(t, other.Name)
	if _, err := lab.Up(t.Context(), other); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("second lab of one name: error %v", err)
	}
	absent := labOptions(t, "absent", 0).Name
	_, err := lab.Open(absent)
	if !errors.Is(err, lab.ErrNotUp) || !strings.Contains(err.Error(), kept.Name()+", "+other.Name) || !strings.Contains(err.Error(), "lab up --name "+absent) {
		t.Errorf("open of a lab that is not up: error %v, want both others and how to start it", err)
	}
	before := fmt.Sprint(members(t, kept.Name()))
	if err := lab.Down(t.Context(), other.Name); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, other.Name, others)
	if after := fmt.Sprint(members(t, kept.Name())); after != before {
		t.Errorf("processes before the other went: %s\nafter: %s", before, after)
	}
	if _, err := kept.Kubectl(t.Context(), nil, "get", "namespaces"); err != nil {
		t.Error(err)
	}
}

func TestFaultsAndProbe(t *testing.T) {
	t.Parallel()
	c := up(t, labOptions(t, "faults", 0))
	status, err := c.Status(t.Context())
	if err != nil || status.API != "" || !status.Ready {
		t.Fatalf("status %+v, error %v", status, err)
	}
	server := exec.Command(filepath.Join(absolute(t, bin), "agnhost"), "netexec", "--http-port=8080", "--udp-port=-1")
	if err := c.Start(network.Router, server); err != nil {
		t.Fatal(err)
	}
	defer func() {
		server.Process.Kill() //nolint:errcheck // Down does as well
		server.Wait()         //nolint:errcheck // killed
	}()
	url := "http://172.20.0.1:8080/clientip"
	if _, err := c.Exec(t.Context(), network.Client, "curl", "-fsS", "--retry", "20", "--retry-delay", "1", "--retry-connrefused", url); err != nil {
		t.Fatal(err)
	}
	probe, err := c.StartProbe(t.Context(), lab.ProbeOptions{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	const outage = 300 * time.Millisecond
	for _, fault := range []func(string) error{c.Cut, c.CutSilently} {
		if err := fault(network.Client); err != nil {
			t.Error(err)
		}
		time.Sleep(outage) // the length of the fault is what is tested
		if err := c.Heal(network.Client); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Exec(t.Context(), network.Client, "curl", "-fsS", "-m5", url); err != nil {
		t.Error(err)
	}
	report := probe.Stop()
	if gap := time.Duration(report.LongestGap); report.Failed == 0 || gap < outage {
		t.Errorf("two outages of %s went unnoticed: %+v", outage, report)
	}
	if report.Sources["172.20.0.3"] != report.OK {
		t.Errorf("sources %v, want all %d from 172.20.0.3", report.Sources, report.OK)
	}
	checkFreeze(t, c)
}

// checkFreeze freezes the API server and thaws it again.
func checkFreeze(t *testing.T, c *lab.Cluster) {
	t.Helper()
	if err := c.Freeze(lab.APIServer); err != nil {
		t.Fatal(err)
	}
	status, err := c.Status(t.Context())
	if err != nil || status.API == "" {
		t.Errorf("status of a frozen API server: %q, error %v", status.API, err)
	}
	for _, process := range status.Processes {
		if frozen := process.State == lab.Frozen; frozen != (process.Name == lab.APIServer) {
			t.Errorf("%s is %s", process.Name, process.State)
		}
	}
	if err := c.Thaw(lab.APIServer); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), nil, "get", "namespaces"); err != nil {
		t.Error(err)
	}
	if err := c.Freeze("nobody"); err == nil {
		t.Error("froze a process that does not exist")
	}
}
