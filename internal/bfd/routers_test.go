package bfd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/netnstest"
)

// A router is another's implementation of BFD, at work in a namespace.
type router interface {
	// configure makes the router keep exactly these sessions.
	configure(sessions []routerSession)
	// state returns the state of the session with a peer, in lower case, and the
	// interval and detection time that the router works with.
	state(peer netip.Addr) routerState
	// pause stops the router as if it hung, and lets it go on.
	pause(stopped bool)
}

type routerSession struct {
	peer, local  netip.Addr
	receive      time.Duration
	transmit     time.Duration
	multiplier   int
	passive      bool
	multihop     bool
	echo         bool
	shutdown     bool
	echoInterval time.Duration
}

type routerState struct {
	state               string
	interval, detection time.Duration
	diagnostic          string // of the router's own side, if it tells
}

func routers() map[string]func(testing.TB, *netnstest.NS) router {
	return map[string]func(testing.TB, *netnstest.NS) router{"FRR": newFRR, "BIRD": newBIRD}
}

// A daemonHost runs daemons in a namespace until the test ends.
type daemonHost struct {
	t      testing.TB
	ns     *netnstest.NS
	folder string
	pids   []*os.Process
}

func newDaemonHost(t testing.TB, ns *netnstest.NS) *daemonHost {
	t.Helper()
	// A short path, because the daemons put sockets there.
	folder, err := os.MkdirTemp("", "bfd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return &daemonHost{t: t, ns: ns, folder: folder}
}

func (h *daemonHost) file(name string) string { return filepath.Join(h.folder, name) }

func (h *daemonHost) write(name, content string) {
	h.t.Helper()
	if err := os.WriteFile(h.file(name), []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// start starts a daemon and waits for its socket.
func (h *daemonHost) start(socket string, argv ...string) {
	h.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.ns.Do(cmd.Start); err != nil {
		h.t.Fatalf("starting %s, which `make packages` installs: %v", argv[0], err)
	}
	h.pids = append(h.pids, cmd.Process)
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if h.t.Failed() {
			h.t.Logf("%s:\n%s", argv[0], out.String())
		}
	})
	netnstest.Eventually(h.t, argv[0]+" to be ready", func() bool {
		_, err := os.Stat(h.file(socket))
		return err == nil
	})
}

func (h *daemonHost) run(argv ...string) []byte {
	h.t.Helper()
	var out []byte
	if err := h.ns.Do(func() (err error) {
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	}); err != nil {
		h.t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return out
}

// frr is zebra, which knows the interfaces, with bfdd.
type frr struct {
	*daemonHost
	present []routerSession
}

func newFRR(t testing.TB, ns *netnstest.NS) router {
	t.Helper()
	h := newDaemonHost(t, ns)
	h.write("base.conf", "")
	h.write("vtysh.conf", "no service integrated-vtysh-config\n")
	f := &frr{daemonHost: h}
	f.daemon("zebra")
	f.daemon("bfdd", "--bfdctl="+h.file("bfdd.sock"))
	return f
}

func (f *frr) daemon(name string, args ...string) {
	f.t.Helper()
	f.start(name+".vty", append([]string{
		"/usr/lib/frr/" + name, "--user=root", "--group=frrvty", "--config_file=" + f.file("base.conf"),
		"--pid_file=" + f.file(name+".pid"), "--vty_socket=" + f.folder, "--socket=" + f.file("zserv.api"), "--vty_port=0", "--log=stdout",
	}, args...)...)
}

// startBGP starts bgpd as well.
func (f *frr) startBGP(config ...string) {
	f.t.Helper()
	f.daemon("bgpd")
	f.write("change.conf", strings.Join(config, "\n")+"\n")
	f.vtysh("--inputfile", f.file("change.conf"))
}

func (f *frr) vtysh(args ...string) []byte {
	f.t.Helper()
	return f.run(append([]string{"/usr/bin/vtysh", "--vty_socket", f.folder, "--config_dir", f.folder}, args...)...)
}

func (f *frr) configure(sessions []routerSession) {
	f.t.Helper()
	var b strings.Builder
	b.WriteString("bfd\n")
	name := func(s routerSession) string {
		n := "peer " + s.peer.WithZone("").String()
		if s.multihop {
			n += " multihop"
		}
		if s.local.IsValid() {
			n += " local-address " + s.local.WithZone("").String()
		}
		if s.peer.Zone() != "" {
			n += " interface " + s.peer.Zone()
		}
		return n
	}
	wanted := make(map[string]bool)
	for _, s := range sessions {
		wanted[name(s)] = true
	}
	for _, s := range f.present {
		if !wanted[name(s)] {
			fmt.Fprintf(&b, "no %s\n", name(s))
		}
	}
	no := func(yes bool, command string) {
		if !yes {
			command = "no " + command
		}
		fmt.Fprintln(&b, command)
	}
	for _, s := range sessions {
		fmt.Fprintln(&b, name(s))
		fmt.Fprintf(&b, "receive-interval %d\ntransmit-interval %d\ndetect-multiplier %d\n", s.receive/ms, s.transmit/ms, s.multiplier)
		if !s.multihop {
			no(s.echo, "echo-mode")
			if s.echoInterval > 0 {
				fmt.Fprintf(&b, "echo transmit-interval %d\necho receive-interval %d\n", s.echoInterval/ms, s.echoInterval/ms)
			}
		}
		no(s.passive, "passive-mode")
		no(s.shutdown, "shutdown")
		b.WriteString("exit\n")
	}
	b.WriteString("exit\n")
	f.write("change.conf", b.String())
	f.vtysh("--inputfile", f.file("change.conf"))
	f.present = sessions
}

func (f *frr) state(peer netip.Addr) routerState {
	f.t.Helper()
	var peers []struct {
		Peer                   netip.Addr `json:"peer"`
		Status                 string     `json:"status"`
		TransmitInterval       int        `json:"transmit-interval"`
		RemoteReceiveInterval  int        `json:"remote-receive-interval"`
		ReceiveInterval        int        `json:"receive-interval"`
		RemoteTransmitInterval int        `json:"remote-transmit-interval"`
		RemoteMultiplier       int        `json:"remote-detect-multiplier"`
		Diagnostic             string     `json:"diagnostic"`
	}
	out := f.vtysh("--command", "show bfd peers json")
	if err := json.Unmarshal(out, &peers); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	for _, p := range peers {
		if p.Peer == peer.WithZone("") {
			return routerState{
				state:     strings.ToLower(p.Status),
				interval:  time.Duration(max(p.TransmitInterval, p.RemoteReceiveInterval)) * ms,
				detection: time.Duration(p.RemoteMultiplier*max(p.ReceiveInterval, p.RemoteTransmitInterval)) * ms,

				diagnostic: p.Diagnostic,
			}
		}
	}
	return routerState{}
}

func (f *frr) pause(stopped bool) { f.signal(f.pids[1], stopped) }

// bird is the daemon of that name.
type bird struct{ *daemonHost }

func newBIRD(t testing.TB, ns *netnstest.NS) router {
	t.Helper()
	return &bird{newDaemonHost(t, ns)}
}

func (b *bird) render(sessions []routerSession) {
	var c strings.Builder
	c.WriteString("log stderr all;\ndebug protocols { states, events };\nrouter id 192.0.2.2;\nprotocol device { scan time 1; }\nprotocol bfd watch {\n")
	for _, s := range sessions {
		// Parameters are given by interface, or to all multihop sessions.
		where := `interface "eth0"`
		if s.multihop {
			where = "multihop"
		}
		passive := ""
		if s.passive {
			passive = "passive yes;"
		}
		fmt.Fprintf(&c, "%s { min rx interval %d ms; min tx interval %d ms; multiplier %d; %s };\n",
			where, s.receive/ms, s.transmit/ms, s.multiplier, passive)
		if s.shutdown {
			continue
		}
		fmt.Fprintf(&c, "neighbor %s", s.peer.WithZone(""))
		if s.peer.Zone() != "" {
			fmt.Fprintf(&c, " dev %q", s.peer.Zone())
		}
		if s.local.IsValid() {
			fmt.Fprintf(&c, " local %s", s.local.WithZone(""))
		}
		if s.multihop {
			c.WriteString(" multihop yes")
		}
		c.WriteString(";\n")
	}
	c.WriteString("}\n")
	b.write("bird.conf", c.String())
}

func (b *bird) birdc(command string) string {
	b.t.Helper()
	return string(b.run("/usr/sbin/birdc", "-s", b.file("bird.ctl"), command))
}

func (b *bird) configure(sessions []routerSession) {
	b.t.Helper()
	b.render(sessions)
	if len(b.pids) == 0 {
		// Only now: a session that is added later gets the parameters that its
		// interface had before.
		b.start("bird.ctl", "/usr/sbin/bird", "-f", "-c", b.file("bird.conf"), "-s", b.file("bird.ctl"), "-P", b.file("bird.pid"))
		return
	}
	if out := b.birdc("configure"); !strings.Contains(out, "Reconfigur") {
		b.t.Fatal(out)
	}
}

var birdLine = regexp.MustCompile(`(?m)^(\S+)\s+(\S+)\s+(\S+)\s+(.+?)\s+([0-9.]+)\s+([0-9.]+)$`)

func (b *bird) state(peer netip.Addr) routerState {
	b.t.Helper()
	for _, m := range birdLine.FindAllStringSubmatch(b.birdc("show bfd sessions"), -1) {
		if m[1] != peer.WithZone("").String() {
			continue
		}
		seconds := func(s string) time.Duration {
			d, err := time.ParseDuration(s + "s")
			if err != nil {
				b.t.Fatal(err)
			}
			return d
		}
		return routerState{state: strings.ToLower(m[3]), interval: seconds(m[5]), detection: seconds(m[6])}
	}
	return routerState{}
}

func (b *bird) pause(stopped bool) { b.signal(b.pids[0], stopped) }

func (h *daemonHost) signal(p *os.Process, stopped bool) {
	h.t.Helper()
	s := unix.SIGCONT
	if stopped {
		s = unix.SIGSTOP
	}
	if err := p.Signal(s); err != nil {
		h.t.Fatal(err)
	}
}
