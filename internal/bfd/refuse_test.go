package bfd

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/netnstest"
)

// inject sends a payload from side 1 with a TTL.
func (p *kernelPair) inject(to netip.AddrPort, ttl int, payload []byte) {
	p.t.Helper()
	p.ns[1].MustDo(func() error {
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return control(c, func(fd int) error {
				if to.Addr().Is4() {
					return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl)
				}
				return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
			})
		}}
		c, err := d.DialContext(p.t.(*testing.T).Context(), "udp", to.String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Write(payload)
		return err
	})
}

// TestKernelRefuses: nothing from too far away, malformed or of no session gets
// at a session, however well it knows the session's discriminator.
func TestKernelRefuses(t *testing.T) {
	t.Parallel()
	p := newKernelPair(t)
	single4, single6, multi := fast("4", "192.0.2.2"), fast("6", "2001:db8::2"), fast("m", "192.0.2.2")
	multi.Multihop = true
	multi.MinimumTTL = 250
	p.monitors[0].Apply([]Config{single4, single6, multi})
	p.stop[1]()
	netnstest.Eventually(t, "sockets to be open", func() bool {
		for _, name := range []string{"4", "6", "m"} {
			if s := p.state(0, name); !s.Local.IsValid() || s.Err != nil {
				return false
			}
		}
		return true
	})
	number := func(name string) uint32 {
		m := p.monitors[0]
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, l := range m.links {
			if l.names[0] == name {
				return l.session.local
			}
		}
		t.Fatalf("no session %s", name)
		return 0
	}
	packet := func(state State, your uint32) []byte {
		return (&Packet{State: state, DetectMultiplier: 3, MyDiscriminator: 99, YourDiscriminator: your, DesiredMinTx: time.Second, RequiredMinRx: time.Second}).AppendTo(nil)
	}
	on4, on6, onM := netip.MustParseAddrPort("192.0.2.1:3784"), netip.MustParseAddrPort("[2001:db8::1]:3784"), netip.MustParseAddrPort("192.0.2.1:4784")
	for _, tc := range []struct {
		what    string
		to      netip.AddrPort
		ttl     int
		payload []byte
		reason  string
	}{
		{"one router away", on4, 254, packet(Down, 0), discardTTL},
		{"one router away, by number", on4, 254, packet(Init, number("4")), discardTTL},
		{"one router away, IPv6", on6, 254, packet(Down, 0), discardTTL},
		{"too many routers away", onM, 249, packet(Down, 0), discardTTL},
		{"too many routers away, by number", onM, 249, packet(Init, number("m")), discardTTL},
		{"number of a single hop on the port of several", onM, 255, packet(Init, number("4")), discardUnknown},
		{"number of several hops on the port of a single one", on4, 255, packet(Init, number("m")), discardUnknown},
		{"number of the other family", on4, 255, packet(Init, number("6")), discardUnknown},
		{"unknown number", on4, 255, packet(Init, 1), discardUnknown},
		{"empty", on4, 255, nil, discardMalformed},
		{"rubbish", on6, 255, []byte("rubbish that is longer than a packet"), discardMalformed},
	} {
		before := p.counter(0, "berth_bfd_discarded_packets_total")
		byReason := p.discarded(tc.reason)
		p.inject(tc.to, tc.ttl, tc.payload)
		netnstest.Eventually(t, tc.what+" to be discarded", func() bool { return p.counter(0, "berth_bfd_discarded_packets_total") == before+1 })
		if p.discarded(tc.reason) != byReason+1 {
			t.Errorf("%s: discarded for another reason than %s", tc.what, tc.reason)
		}
	}
	if n := p.counter(0, "berth_bfd_control_packets_received_total"); n != 0 {
		t.Errorf("%v packets got at a session", n)
	}
	if s := p.state(0, "m"); s.Err == nil || s.Err.Error() != "the peer's packets come with a TTL of 249, below the minimum of 250" {
		t.Errorf("of a peer that is too far away is said: %v", s.Err)
	}
	p.inject(on4, 255, packet(Down, 0))
	p.inject(onM, 250, packet(Down, 0))
	p.waitFor(0, "4", Init)
	p.waitFor(0, "m", Init)
	if s := p.state(0, "m"); s.Err != nil {
		t.Errorf("of a peer that is near enough is said: %v", s.Err)
	}
	if s := p.state(0, "6"); s.State != Down {
		t.Errorf("a session that was not meant is %v", s.State)
	}
}

func (p *kernelPair) discarded(reason string) float64 {
	p.t.Helper()
	families, err := p.registries[0].Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "reason" && l.GetValue() == reason {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// TestKernelSleepyProcess: a Monitor that was kept from running for longer than
// the detection time reads what has arrived meanwhile before it judges.
func TestKernelSleepyProcess(t *testing.T) {
	t.Parallel()
	p := newKernelPair(t)
	configs := [2]Config{fast("s", "192.0.2.2"), fast("s", "192.0.2.1")}
	configs[1].DetectMultiplier = 20  // we wait for 1 s
	configs[0].DetectMultiplier = 200 // the peer waits for 10 s
	for i, m := range p.monitors {
		m.Apply(configs[i : i+1])
	}
	p.waitFor(0, "s", Up)
	p.waitFor(1, "s", Up)
	netnstest.Eventually(t, "fast timers", func() bool { return p.state(0, "s").DetectionTime == time.Second })
	received := p.counter(0, "berth_bfd_control_packets_received_total")
	// Neither reader nor timers get further than the lock.
	p.monitors[0].mu.Lock()
	time.Sleep(1500 * ms) // the very time that is to be slept through
	p.monitors[0].mu.Unlock()
	netnstest.Eventually(t, "more than the backlog to be read", func() bool {
		return p.counter(0, "berth_bfd_control_packets_received_total") > received+40
	})
	if s := p.state(0, "s"); s.Failures != 0 || s.State != Up {
		t.Errorf("it took its own sleep for a failure: %+v", s)
	}
}

// TestKernelErrors: what cannot work says so, and works once it can.
func TestKernelErrors(t *testing.T) {
	t.Parallel()
	p := newKernelPair(t)
	absent, foreign, invalid := fast("absent", "fe80::2%eth7"), fast("foreign", "192.0.2.2"), fast("invalid", "fe80::2")
	foreign.Local = ip("192.0.2.77")
	p.monitors[0].Apply([]Config{absent, foreign, invalid, fast("good", "2001:db8::2")})
	for _, name := range []string{"absent", "foreign", "invalid"} {
		netnstest.Eventually(t, "an error of "+name, func() bool { return p.state(0, name).Err != nil })
		t.Log(p.state(0, name).Err)
	}
	p.monitors[1].Apply([]Config{fast("good", "2001:db8::1"), fast("foreign", "192.0.2.77")})
	p.waitFor(0, "good", Up)
	p.ns[0].AddAddress("eth0", "192.0.2.77/24")
	p.waitFor(0, "foreign", Up)
	if err := p.state(0, "foreign").Err; err != nil {
		t.Errorf("an error that is over is still shown: %v", err)
	}
}

// TestKernelPortTaken: another program has the port; it is told, and the port is
// taken once it is free.
func TestKernelPortTaken(t *testing.T) {
	t.Parallel()
	p := newKernelPair(t)
	other := New(Options{})
	config := fast("s", "192.0.2.2")
	p.monitors[0].Apply([]Config{config})
	p.monitors[1].Apply([]Config{fast("s", "192.0.2.1")})
	p.waitFor(0, "s", Up)
	stop := p.ns[0].Run(other.Run)
	other.Apply([]Config{config})
	netnstest.Eventually(t, "an error", func() bool { return stateOf(t, other, "s").Err != nil })
	t.Log(stateOf(t, other, "s").Err)
	p.stop[0]()
	netnstest.Eventually(t, "the port to be taken over", func() bool { return stateOf(t, other, "s").State == Up })
	stop()
}

// TestKernelVRF: sockets that are bound to a device receive what belongs to it
// beside those that are not. The device stands for a VRF's.
func TestKernelVRF(t *testing.T) {
	t.Parallel()
	p := newKernelPair(t)
	netnstest.Connect(p.ns[0], "red", p.ns[1], "red")
	p.ns[0].AddAddress("red", "198.51.100.1/24")
	p.ns[1].AddAddress("red", "198.51.100.2/24")
	red := fast("red", "198.51.100.2")
	red.VRF = "red"
	p.monitors[0].Apply([]Config{fast("s", "192.0.2.2"), red})
	p.monitors[1].Apply([]Config{fast("s", "192.0.2.1"), fast("red", "198.51.100.1")})
	p.waitFor(0, "s", Up)
	p.waitFor(0, "red", Up)
}

// TestKernelShared: Configs of the same session share it.
func TestKernelShared(t *testing.T) {
	t.Parallel()
	p := newKernelPair(t)
	p.monitors[0].Apply([]Config{fast("a", "192.0.2.2"), fast("b", "192.0.2.2")})
	p.monitors[1].Apply([]Config{fast("s", "192.0.2.1")})
	p.waitFor(0, "a", Up)
	p.waitFor(0, "b", Up)
	since := p.state(0, "b").Since
	p.monitors[0].Apply([]Config{fast("b", "192.0.2.2")})
	netnstest.Eventually(t, "a to be gone", func() bool { return p.state(0, "a").Name == "" })
	if s := p.state(0, "b"); s.State != Up || !s.Since.Equal(since) {
		t.Errorf("the session did not survive the end of one of its users: %+v", s)
	}
	if n := p.counter(0, "berth_bfd_session_up"); n != 1 {
		t.Errorf("%v sessions are up", n)
	}
}
