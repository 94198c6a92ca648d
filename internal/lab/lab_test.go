package lab

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

	"github.com/berth-lb/berth/internal/lab/netns"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// The tests in this file start real labs, from the binaries in bin/.

// labOptions are those of a small lab with a name of its own, of which nothing
// may be left when the test ends, however it does.
func labOptions(t *testing.T, suffix string, nodes int) Options {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("starting a lab needs root")
	}
	if testing.Short() {
		t.Skip("starting a lab takes seconds")
	}
	options := DefaultOptions()
	options.Name = "t" + strconv.Itoa(os.Getpid()) + suffix
	options.Nodes = nodes
	options.Berth = false
	t.Cleanup(func() {
		if err := Down(context.WithoutCancel(t.Context()), options.Name); err != nil {
			t.Error(err)
		}
	})
	return options
}

func up(t *testing.T, options Options) *Cluster {
	t.Helper()
	c, err := Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// checkNothingLeft looks for remains of a lab by other means than Down does.
func checkNothingLeft(t *testing.T, name string) {
	t.Helper()
	namespaces, err := netns.List(namespacePrefix(name))
	if err != nil || len(namespaces) > 0 {
		t.Errorf("namespaces left: %v (error %v)", namespaces, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, trace := range []string{string(stateFolder(name)), namespacePrefix(name)} {
		if strings.Contains(string(mounts), trace) {
			t.Errorf("mounts left at %s:\n%s", trace, mounts)
		}
	}
	if _, err := os.Stat(string(stateFolder(name))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left (error %v)", stateFolder(name), err)
	}
	for _, pid := range mentioning(t, string(stateFolder(name))) {
		t.Errorf("process left: %s", pid)
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

// mentioning returns the running processes whose command line, root or folder
// has to do with path.
func mentioning(t *testing.T, path string) []string {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, folder := range folders {
		if filepath.Base(folder) == strconv.Itoa(os.Getpid()) {
			continue
		}
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

// members returns all processes of a lab.
func members(t *testing.T, name string) []proc.Record {
	t.Helper()
	records, err := processesOf(name)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func checkDead(t *testing.T, records []proc.Record) {
	t.Helper()
	for _, record := range records {
		if record.Alive() {
			t.Errorf("%s (%d) is alive", record.Name, record.PID)
		}
	}
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
	for _, name := range []string{"etcd", nodeProcess("agent", "node-1"), "forward"} {
		record, err := proc.Load(c.dir.processes().Records, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := record.Signal(syscall.SIGKILL); err != nil {
			t.Errorf("kill %s: %v", name, err)
		}
	}
	if err := c.Freeze(APIServer); err != nil {
		t.Error(err)
	}
	if err := c.Cut("node-1"); err != nil {
		t.Error(err)
	}
	if err := c.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkDead(t, all)
	checkNothingLeft(t, c.Name())
	if _, err := Open(c.Name()); !errors.Is(err, ErrNotUp) {
		t.Errorf("open after down: error %v, want %v", err, ErrNotUp)
	}
	if err := Down(t.Context(), c.Name()); err != nil {
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
	if _, err := Up(ctx, options); !errors.Is(err, context.Canceled) {
		t.Errorf("up: error %v, want %v", err, context.Canceled)
	}
	if len(all) < 3 {
		t.Errorf("interrupted with only %d processes running", len(all))
	}
	checkDead(t, all)
	checkNothingLeft(t, options.Name)
}

// A control plane whose programs end at once must be reported by what ended and
// what it said.
func TestFailedUpSaysWhyAndLeavesNothing(t *testing.T) {
	t.Parallel()
	options := labOptions(t, "failed", 0)
	good, err := findBinDir()
	if err != nil {
		t.Fatal(err)
	}
	options.BinDir = t.TempDir()
	script := "#!/bin/sh\necho this is why >&2\nexit 3\n"
	if err := os.WriteFile(options.bin("kube"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(good, "lab"), options.bin("lab")); err != nil {
		t.Fatal(err)
	}
	_, err = Up(t.Context(), options)
	if err == nil {
		t.Fatal("up without a control plane")
	}
	for _, part := range []string{"ended during the start: exit status 3", "this is why"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	checkNothingLeft(t, options.Name)
}

// `lab up` is killed, so that nobody cleans up, and then the lab's own folder is
// lost as well.
func TestDownAfterKilledUpLeavesNothing(t *testing.T) {
	t.Parallel()
	options := labOptions(t, "killedup", 1)
	bin, err := findBinDir()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "lab"), "up", "--name", options.Name, "--nodes=1", "--berth=false")
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
	if err := os.RemoveAll(stateFolder(options.Name).join("processes")); err != nil {
		t.Error(err)
	}
	if err := Down(t.Context(), options.Name); err != nil {
		t.Fatal(err)
	}
	checkDead(t, all)
	checkNothingLeft(t, options.Name)
}

func TestLabsDoNotTouchEachOther(t *testing.T) {
	t.Parallel()
	kept := up(t, labOptions(t, "kept", 0))
	other := labOptions(t, "keptnot", 0) // its name starts with that of the first
	up(t, other)
	if _, err := Up(t.Context(), other); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("second lab of one name: error %v", err)
	}
	before := fmt.Sprint(members(t, kept.Name()))
	if err := Down(t.Context(), other.Name); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, other.Name)
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
	server := exec.Command(c.state.Options.bin("agnhost"), "netexec", "--http-port=8080", "--udp-port=-1")
	if err := c.Start(network.Router, server); err != nil {
		t.Fatal(err)
	}
	defer func() {
		server.Process.Kill() //nolint:errcheck // Down does as well
		server.Wait()         //nolint:errcheck // killed
	}()
	url := "http://172.20.0.1:8080/clientip"
	err = c.wait(t.Context(), "agnhost", func(ctx context.Context) (string, error) {
		_, err := c.Exec(ctx, network.Client, "curl", "-fsS", "-m1", url)
		if err != nil {
			return err.Error(), nil
		}
		return "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	probe, err := c.StartProbe(t.Context(), ProbeOptions{URL: url})
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
func checkFreeze(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Freeze(APIServer); err != nil {
		t.Fatal(err)
	}
	status, err := c.Status(t.Context())
	if err != nil || status.API == "" {
		t.Errorf("status of a frozen API server: %q, error %v", status.API, err)
	}
	for _, process := range status.Processes {
		if frozen := process.State == Frozen; frozen != (process.Name == APIServer) {
			t.Errorf("%s is %s", process.Name, process.State)
		}
	}
	if err := c.Thaw(APIServer); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), nil, "get", "namespaces"); err != nil {
		t.Error(err)
	}
	if err := c.Freeze("nobody"); err == nil {
		t.Error("froze a process that does not exist")
	}
}
