package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const rest = " 1 1 1 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 5 0 4711 1000 200 18446744073709551615"
	for name, test := range map[string]struct {
		content string
		want    stat
	}{
		"plain":                       {"42 (etcd) S" + rest, stat{'S', 4711}},
		"spaces in the name":          {"42 (tmux: server) S" + rest, stat{'S', 4711}},
		"parentheses in the name":     {"42 (a) Z 1) (b)) Z" + rest, stat{'Z', 4711}},
		"a name like another process": {"42 (x) S 9 9 9 9) T" + rest, stat{'T', 4711}},
	} {
		got, err := parseStat(test.content)
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v, error %v; want %+v", name, got, err, test.want)
		}
	}
	for _, content := range []string{"", "42", "42 (etcd", "42 (etcd)", "42 (etcd) S 1 2 3", "42 (e) S 1 1 1 0 -1 1 1 0 0 0 1 2 0 0 20 0 5 0 late 1"} {
		if got, err := parseStat(content); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", content, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (etcd) S 1 1 1 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 5 0 4711 1000")
	f.Fuzz(func(_ *testing.T, content string) {
		parseStat(content) //nolint:errcheck // must not panic
	})
}

// fakeProc is a /proc with one process in it.
func fakeProc(t *testing.T, pid int, state byte, startTime uint64) string {
	t.Helper()
	root := t.TempDir()
	folder := filepath.Join(root, strconv.Itoa(pid))
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	content := fmt.Sprintf("%d (etcd) %c 1 1 1 0 -1 0 0 0 0 0 1 2 0 0 20 0 5 0 %d 1000", pid, state, startTime)
	if err := os.WriteFile(filepath.Join(folder, "stat"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestAliveGuardsAgainstReusedIDs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		state     byte
		startTime uint64
		want      bool
	}{
		"the same process":       {'S', 100, true},
		"frozen":                 {'T', 100, true},
		"another with that id":   {'S', 101, false},
		"ended, not waited for":  {'Z', 100, false},
		"another that has ended": {'Z', 101, false},
	} {
		root := fakeProc(t, 42, test.state, test.startTime)
		record := Record{Name: "etcd", PID: 42, StartTime: 100}
		if got := record.aliveIn(root); got != test.want {
			t.Errorf("%s: alive = %t, want %t", name, got, test.want)
		}
		record.PID = 43
		if record.aliveIn(root) {
			t.Errorf("%s: a process that does not exist is alive", name)
		}
	}
}

func TestSignalHitsOnlyTheRecordedProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	record, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	impostor := record
	impostor.StartTime--
	if err := impostor.Signal(syscall.SIGKILL); !errors.Is(err, ErrNotRunning) {
		t.Errorf("signal by an outdated record: error %v, want %v", err, ErrNotRunning)
	}
	if !record.Alive() {
		t.Fatal("the process was hit by an outdated record")
	}
	if err := record.Signal(syscall.SIGKILL); err != nil {
		t.Errorf("signal: %v", err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("ended with %v, want killed", err)
	}
	if record.Alive() {
		t.Error("alive after its end")
	}
	if err := record.Signal(syscall.SIGKILL); !errors.Is(err, ErrNotRunning) {
		t.Errorf("signal after its end: error %v, want %v", err, ErrNotRunning)
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	want := []Record{
		{Name: "etcd", Host: "control-plane", PID: 1, StartTime: 2},
		{Name: "kube-proxy@node-1", Host: "node-1", PID: 3, StartTime: 4},
	}
	for _, record := range want {
		if err := record.Save(folder); err != nil {
			t.Fatal(err)
		}
	}
	got, err := LoadAll(folder)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("loaded %v, error %v; want %v", got, err, want)
	}
	if got, err := LoadAll(filepath.Join(folder, "missing")); err != nil || got != nil {
		t.Errorf("a missing folder holds %v, error %v; want nothing", got, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "broken.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err = LoadAll(folder)
	if err == nil {
		t.Error("a broken record went unnoticed")
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("beside a broken record loaded %v, want %v", got, want)
	}
}
