package netns

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// create makes a namespace that is removed when the test ends.
func create(t *testing.T, suffix string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	name := fmt.Sprintf("netns%d-%s-%s", os.Getpid(), strings.ToLower(t.Name()), suffix)
	t.Cleanup(func() {
		if err := Delete(name); err != nil {
			t.Error(err)
		}
	})
	if err := Create(name); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCreateListDelete(t *testing.T) {
	t.Parallel()
	b, a := create(t, "b"), create(t, "a")
	prefix := strings.TrimSuffix(a, "a")
	if names, err := List(prefix); err != nil || !slices.Equal(names, []string{a, b}) {
		t.Errorf("listed %v, error %v; want %s and %s", names, err, a, b)
	}
	if err := Create(a); err == nil {
		t.Error("created a namespace twice")
	}
	for range 2 { // the second time there is nothing left to do
		if err := Delete(a); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(Path(a)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s after its removal: %v", Path(a), err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), a) {
		t.Errorf("%s is still mounted", a)
	}
}

// Every interface list must be that of the namespace, and the caller's own must
// never change, whichever thread it finds itself on.
func TestDoChangesNothingElsewhere(t *testing.T) {
	t.Parallel()
	name := create(t, "a")
	own, err := identify("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	inside, err := identify(Path(name))
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		err := Target{Name: name}.Do(func() error {
			here, err := identify("/proc/thread-self/ns/net")
			if err == nil && here != inside {
				return fmt.Errorf("runs in %v, want %v", here, inside)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/proc/self/ns/net", "/proc/thread-self/ns/net"} {
			if here, err := identify(path); err != nil || here != own {
				t.Fatalf("%s is %v afterwards, error %v; want %v", path, here, err, own)
			}
		}
	}
	if pids, err := Processes(name); err != nil || len(pids) != 0 {
		t.Errorf("processes %v, error %v; want none", pids, err)
	}
}

func TestStartAndFindProcesses(t *testing.T) {
	t.Parallel()
	name, other := create(t, "a"), create(t, "b")
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := (Target{Name: name}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	if pids, err := Processes(name, "does-not-exist"); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("processes %v, error %v; want %d", pids, err, cmd.Process.Pid)
	}
	if pids, err := Processes(other); err != nil || len(pids) != 0 {
		t.Errorf("processes elsewhere %v, error %v; want none", pids, err)
	}
	if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
	if pids, err := Processes(name); err != nil || len(pids) != 0 {
		t.Errorf("processes after the end %v, error %v; want none", pids, err)
	}
}

func TestHostnameAndSysfs(t *testing.T) {
	t.Parallel()
	name := create(t, "a")
	before, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "hostname; ls /sys/class/net")
	var out strings.Builder
	cmd.Stdout = &out
	if err := (Target{Name: name, Hostname: "somewhere", Sysfs: true}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(out.String()); !slices.Equal(got, []string{"somewhere", "lo"}) {
		t.Errorf("hostname and interfaces are %q, want somewhere and lo", got)
	}
	if after, err := os.Hostname(); err != nil || after != before {
		t.Errorf("hostname of the machine is %q now, error %v; want %q", after, err, before)
	}
}

func TestEnterProcess(t *testing.T) {
	t.Parallel()
	name := create(t, "a")
	resident := exec.Command("cat")
	stdin, err := resident.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := (Target{Name: name, Hostname: "container"}).Start(resident); err != nil {
		t.Fatal(err)
	}
	visitor := exec.Command("sh", "-c", "hostname; readlink /proc/self/ns/net")
	var out strings.Builder
	visitor.Stdout = &out
	if err := (Target{PID: resident.Process.Pid}).Start(visitor); err != nil {
		t.Fatal(err)
	}
	if err := visitor.Wait(); err != nil {
		t.Fatal(err)
	}
	network, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", resident.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(out.String()); !slices.Equal(got, []string{"container", network}) {
		t.Errorf("the visitor sees %q, want container and %s", got, network)
	}
	if err := errors.Join(stdin.Close(), resident.Wait()); err != nil {
		t.Error(err)
	}
}

func TestDial(t *testing.T) {
	t.Parallel()
	name := create(t, "a")
	target := Target{Name: name}
	var listener net.Listener
	err := target.Do(func() (err error) {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			conn.Write([]byte("inside")) //nolint:errcheck // the test sees it missing
			_ = conn.Close()
		}
	}()
	address := listener.Addr().String()
	conn, err := target.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "inside" {
		t.Errorf("read %q, error %v; want inside", got, err)
	}
	if err := errors.Join(conn.Close(), listener.Close()); err != nil {
		t.Error(err)
	}
	if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		_ = conn.Close()
		t.Error("the namespace's address answers outside it")
	}
	if _, err := target.DialContext(t.Context(), "tcp", "localhost:80"); err == nil {
		t.Error("dialled a name, which another network would have resolved")
	}
}
