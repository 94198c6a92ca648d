package container_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/internal/lab/container"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == container.InitCommand {
		container.Init()
	}
	os.Exit(m.Run())
}

// patience bounds how long a test waits for what takes milliseconds.
const patience = 20 * time.Second

// buffer is a bytes.Buffer that can be written and read concurrently.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
}

func rootCredentials() container.Credentials {
	return container.Credentials{Capabilities: container.DefaultCapabilities()}
}

func shell(t *testing.T, script string) container.Spec {
	t.Helper()
	return container.Spec{
		Root:        t.TempDir(),
		Hostname:    "test",
		Args:        []string{"/bin/sh", "-c", script},
		Env:         []string{"PATH=/usr/bin:/bin", "COLOUR=green"},
		Credentials: rootCredentials(),
	}
}

func start(t *testing.T, spec container.Spec) (*container.Process, *buffer) {
	t.Helper()
	needRoot(t)
	var out buffer
	p, err := container.Start(container.Options{Spec: spec, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		p.Kill()
		<-p.Done()
	})
	return p, &out
}

func await(t *testing.T, p *container.Process) container.Exit {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(patience):
		t.Fatal("container does not end")
		return container.Exit{}
	}
}

// output runs a container to its end.
func output(t *testing.T, spec container.Spec) string {
	t.Helper()
	p, out := start(t, spec)
	if exit := await(t, p); exit.Code != 0 {
		t.Fatalf("exit code %d, output %q", exit.Code, out)
	}
	return out.String()
}

func TestContainerSeesItsOwnRoot(t *testing.T) {
	t.Parallel()
	volume := t.TempDir()
	if err := os.WriteFile(filepath.Join(volume, "token"), []byte("secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := shell(t, `
		cat /var/run/secrets/token; hostname; cat /etc/hosts; echo $COLOUR $$
		test -e /proc/1/status && test ! -e /root/.bashrc && test -c /dev/null && echo alone
		touch /usr/x 2>/dev/null || echo usr-ro
		touch /run/secrets/x 2>/dev/null || echo volume-ro
		touch /proc/sys/x 2>/dev/null || echo proc-ro
		echo hello > /tmp/x && cat /tmp/x
		(exec 3>/dev/tcp/x) 2>/dev/null; ls /dev/pts/ptmx; wc -l < /proc/net/dev >/dev/null && echo net`)
	spec.Files = map[string]string{"/etc/hosts": "127.0.0.1 localhost\n"}
	spec.Mounts = []container.Mount{{Source: volume, Target: "/var/run/secrets", ReadOnly: true}}
	want := "secret\ntest\n127.0.0.1 localhost\ngreen 1\nalone\nusr-ro\nvolume-ro\nproc-ro\nhello\n/dev/pts/ptmx\nnet\n"
	if diff := cmp.Diff(want, output(t, spec)); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// imageWithShell is a file system with a shell and nothing else.
func imageWithShell(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	libraries, err := exec.CommandContext(t.Context(), "ldd", "/bin/sh").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range append(strings.Fields(string(libraries)), "/bin/sh") {
		if !filepath.IsAbs(word) {
			continue
		}
		content, err := os.ReadFile(word)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(folder, word)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// A container of an image sees the image and what runtimes mount, and changes
// nothing of the image.
func TestImage(t *testing.T) {
	t.Parallel()
	image := imageWithShell(t)
	if err := os.Chmod(image, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		readOnly bool
		want     string
	}{
		"writable":  {false, "hello\n"},
		"read-only": {true, "refused\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const script = `
				test ! -e /tmp && test ! -e /usr/bin/env && test ! -e /etc/passwd && test ! -e /root && echo bare
				read hosts < /etc/hosts; echo $hosts; test -c /dev/null && test -d /proc/1 && test -d /sys/class && echo kernel
				read token < /var/run/secrets/token; echo $token
				(echo hello > /x) 2>/dev/null && read x < /x && echo $x || echo refused`
			spec := shell(t, script)
			spec.Image, spec.ReadOnlyRoot = image, test.readOnly
			spec.Files = map[string]string{"/etc/hosts": "127.0.0.1 localhost\n"}
			volume := t.TempDir()
			if err := os.WriteFile(filepath.Join(volume, "token"), []byte("secret\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			spec.Mounts = []container.Mount{{Source: volume, Target: "/var/run/secrets", ReadOnly: true}}
			if diff := cmp.Diff("bare\n127.0.0.1 localhost\nkernel\nsecret\n"+test.want, output(t, spec)); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
			for _, path := range []string{"x", "etc", "dev", "var"} {
				if _, err := os.Lstat(filepath.Join(image, path)); err == nil {
					t.Errorf("/%s is in the image", path)
				}
			}
		})
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	outer, inner, binary := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho tool $1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := shell(t, "echo inner > /data/in/file; echo outer > /data/file; /tool run; touch /x 2>/dev/null || echo root-ro; touch /tmp/x 2>/dev/null || echo tmp-ro")
	spec.ReadOnlyRoot = true
	spec.Mounts = []container.Mount{
		{Source: inner, Target: "/data/in"}, {Source: outer, Target: "/data"}, {Source: binary, Target: "/tool", ReadOnly: true},
	}
	if diff := cmp.Diff("tool run\nroot-ro\ntmp-ro\n", output(t, spec)); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	for path, want := range map[string]string{filepath.Join(inner, "file"): "inner\n", filepath.Join(outer, "file"): "outer\n"} {
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	netRaw, err := container.DefaultCapabilities().Change([]string{"NET_RAW"}, []string{"ALL"})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		credentials container.Credentials
		want        map[string]string
	}{
		"root by default": {rootCredentials(), map[string]string{
			"Uid": "0 0 0 0", "CapInh": "0000000000000000", "CapPrm": "00000000a80425fb", "CapEff": "00000000a80425fb",
			"CapBnd": "00000000a80425fb", "CapAmb": "0000000000000000", "NoNewPrivs": "0",
		}},
		"root with NET_RAW only": {container.Credentials{Capabilities: netRaw, NoNewPrivileges: true}, map[string]string{
			"CapPrm": "0000000000002000", "CapEff": "0000000000002000", "CapBnd": "0000000000002000", "NoNewPrivs": "1",
		}},
		"seccomp": {container.Credentials{Capabilities: container.DefaultCapabilities(), Seccomp: true}, map[string]string{
			"CapEff": "00000000a80425fb", "NoNewPrivs": "0", "Seccomp": "2",
		}},
		"user": {container.Credentials{UID: 65532, GID: 65531, Groups: []uint32{7, 8}, Capabilities: netRaw}, map[string]string{
			"Uid": "65532 65532 65532 65532", "Gid": "65531 65531 65531 65531", "Groups": "7 8",
			"CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000002000", "CapAmb": "0000000000000000",
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := shell(t, "cat /proc/self/status; sleep 1000")
			spec.Credentials = test.credentials
			p, _ := start(t, spec)
			own, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/status")
			if err != nil {
				t.Fatal(err)
			}
			checkStatus(t, string(own), test.want)
			var joined buffer
			if _, err := p.Exec(t.Context(), container.ExecOptions{Args: []string{"cat", "/proc/self/status"}, Stdout: &joined}); err != nil {
				t.Fatal(err)
			}
			checkStatus(t, joined.String(), test.want)
		})
	}
}

// checkStatus compares lines of /proc/PID/status, with blanks made uniform.
func checkStatus(t *testing.T, status string, want map[string]string) {
	t.Helper()
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.Join(strings.Fields(value), " ")
		if expected, asked := want[key]; asked && value != expected {
			t.Errorf("%s: %q, want %q", key, value, expected)
		}
	}
}

// Even all capabilities do not help against the profile, which applies to what is
// executed later as well.
func TestSeccomp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		confined bool
		want     string
	}{"confined": {true, "refused\nrefused\n"}, "unconfined": {false, "own\nmounted\n"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := shell(t, `unshare --net true 2>/dev/null && echo own || echo refused; mount -t tmpfs x /tmp 2>/dev/null && echo mounted || echo refused`)
			spec.Credentials = container.Credentials{Capabilities: container.AllCapabilities(), Seccomp: test.confined}
			if diff := cmp.Diff(test.want, output(t, spec)); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrivileged(t *testing.T) {
	t.Parallel()
	spec := shell(t, "ls /dev/pts /dev/shm; test -e /dev/mem -o -e /dev/kmsg && echo devices; test -w /proc/sys/kernel/hostname && echo writable")
	spec.Credentials = container.Credentials{Capabilities: container.AllCapabilities(), Privileged: true}
	if diff := cmp.Diff("/dev/pts:\nptmx\n\n/dev/shm:\ndevices\nwritable\n", output(t, spec)); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestExit(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		script string
		signal syscall.Signal
		code   int
		by     syscall.Signal
	}{
		"status":             {script: "exit 7", code: 7},
		"handles TERM":       {script: `trap "exit 3" TERM; echo ready; while :; do sleep 0.01; done`, signal: syscall.SIGTERM, code: 3},
		"killed":             {script: "echo ready; exec sleep 1000", signal: syscall.SIGKILL, code: 137, by: syscall.SIGKILL},
		"leaves no children": {script: "sleep 1001 & sleep 1002 & exit 4", code: 4},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, out := start(t, shell(t, test.script))
			if test.signal != 0 {
				waitFor(t, func() bool { return strings.Contains(out.String(), "ready") })
				if err := p.Signal(test.signal); err != nil {
					t.Fatal(err)
				}
			}
			if exit := await(t, p); exit.Code != test.code || exit.Signal != test.by {
				t.Errorf("exit %d by signal %d, want %d by %d", exit.Code, exit.Signal, test.code, test.by)
			}
		})
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatal("condition does not become true")
		case <-tick.C:
		}
	}
}

func TestKillLeavesNothing(t *testing.T) {
	t.Parallel()
	spec := shell(t, "sleep 2000 & sleep 2000 & echo ready; wait")
	p, out := start(t, spec)
	waitFor(t, func() bool { return strings.Contains(out.String(), "ready") })
	p.Kill()
	await(t, p)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), spec.Root) {
		t.Errorf("%s is still mounted", spec.Root)
	}
	left, err := os.ReadDir(spec.Root)
	if err != nil || len(left) > 0 {
		t.Errorf("root on the host has %v, %v", left, err)
	}
	if _, err := p.Exec(t.Context(), container.ExecOptions{Args: []string{"true"}}); err == nil {
		t.Error("exec in an ended container succeeds")
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	needRoot(t)
	tests := map[string]struct {
		change func(*container.Spec)
		want   string
	}{
		"no such command": {func(s *container.Spec) { s.Args = []string{"no-such-command"} }, "not found in PATH"},
		"no such file":    {func(s *container.Spec) { s.Args = []string{"/nothing"} }, "execute /nothing: no such file"},
		"no such volume":  {func(s *container.Spec) { s.Mounts = []container.Mount{{Source: "/no/such", Target: "/x"}} }, "open /no/such for mount /x"},
		"relative target": {func(s *container.Spec) { s.Mounts = []container.Mount{{Source: "/tmp", Target: "x"}} }, "use absolute paths"},
		"no such image":   {func(s *container.Spec) { s.Image = "/no/such" }, "mount image /no/such"},
		"relative image":  {func(s *container.Spec) { s.Image = "x" }, `image: "x" is not an absolute path`},
		"no command":      {func(s *container.Spec) { s.Args = nil }, "name a command"},
		"bad variable":    {func(s *container.Spec) { s.Env = []string{"X"} }, "env[0]"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := shell(t, "true")
			test.change(&spec)
			_, err := container.Start(container.Options{Spec: spec})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	p, _ := start(t, shell(t, "sleep 1000 & wait"))
	tests := map[string]struct {
		options container.ExecOptions
		want    string
		code    int
	}{
		"sees the container": {container.ExecOptions{Args: []string{"sh", "-c", "echo $COLOUR; hostname; cat /proc/1/comm"}}, "green\ntest\nsh\n", 0},
		"exit status":        {container.ExecOptions{Args: []string{"sh", "-c", "exit 9"}}, "", 9},
		"stdin":              {container.ExecOptions{Args: []string{"cat"}, Stdin: strings.NewReader("a\nb\n")}, "a\nb\n", 0},
		"terminal":           {container.ExecOptions{Args: []string{"sh", "-c", "test -t 0 && tty"}, Terminal: true}, "/dev/pts/0\r\n", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out buffer
			test.options.Stdout = &out
			exit, err := p.Exec(t.Context(), test.options)
			if err != nil || exit.Code != test.code || out.String() != test.want {
				t.Errorf("exit %d, %v, output %q; want %d, %q", exit.Code, err, out.String(), test.code, test.want)
			}
		})
	}
}

// blocked is an input whose other end stays open and silent.
type blocked struct{ ctx context.Context }

func (b blocked) Read([]byte) (int, error) {
	<-b.ctx.Done()
	return 0, errors.New("closed")
}

func TestExecEnds(t *testing.T) {
	t.Parallel()
	p, _ := start(t, shell(t, "sleep 1000 & wait"))
	t.Run("although its input does not", func(t *testing.T) {
		exit, err := p.Exec(t.Context(), container.ExecOptions{Args: []string{"true"}, Stdin: blocked{t.Context()}})
		if err != nil || exit.Code != 0 {
			t.Errorf("exit %d, %v", exit.Code, err)
		}
	})
	t.Run("with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var out buffer
		go func() {
			for !strings.Contains(out.String(), "ready") && t.Context().Err() == nil {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		exit, err := p.Exec(ctx, container.ExecOptions{Args: []string{"sh", "-c", "echo ready; sleep 3000"}, Stdout: &out})
		if err != nil || exit.Signal != syscall.SIGKILL {
			t.Errorf("exit %+v, %v; want it killed", exit, err)
		}
	})
}
