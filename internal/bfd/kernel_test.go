package bfd

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/netnstest"
)

// A kernelPair is two network namespaces joined by a veth pair, eth0 on both
// sides, with a Monitor in each.
type kernelPair struct {
	t          testing.TB
	ns         [2]*netnstest.NS
	monitors   [2]*Monitor
	registries [2]*prometheus.Registry
	stop       [2]func()
}

func newKernelPair(t testing.TB) *kernelPair {
	t.Helper()
	p := &kernelPair{t: t, ns: [2]*netnstest.NS{netnstest.New(t), netnstest.New(t)}}
	netnstest.Connect(p.ns[0], "eth0", p.ns[1], "eth0")
	for i, ns := range p.ns {
		ns.AddAddress("eth0", []string{"192.0.2.1/24", "192.0.2.2/24"}[i])
		ns.AddAddress("eth0", []string{"2001:db8::1/64", "2001:db8::2/64"}[i])
		ns.AddAddress("eth0", []string{"fe80::1/64", "fe80::2/64"}[i])
		settled(t, ns)
		p.start(i)
	}
	return p
}

// start runs a new Monitor on side i.
func (p *kernelPair) start(i int) {
	p.registries[i] = prometheus.NewRegistry()
	p.monitors[i] = New(Options{Logger: testLogger{p.t}, Metrics: NewMetrics(p.registries[i])})
	p.stop[i] = p.ns[i].Run(p.monitors[i].Run)
}

// state returns the only session of side i, or that with the given name.
func (p *kernelPair) state(i int, name string) Status { return stateOf(p.t, p.monitors[i], name) }

func stateOf(t testing.TB, m *Monitor, name string) Status {
	t.Helper()
	for _, s := range m.States() {
		if s.Name == name {
			return s
		}
	}
	return Status{}
}

func (p *kernelPair) waitFor(i int, name string, state State) {
	p.t.Helper()
	netnstest.Eventually(p.t, "session "+name+" to be "+state.String(), func() bool { return p.state(i, name).State == state })
}

// counter returns the sum of a metric over its series on side i.
func (p *kernelPair) counter(i int, name string) (sum float64) {
	p.t.Helper()
	families, err := p.registries[i].Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// fast are timers of 50 ms, detection after 150 ms.
func fast(name, peer string) Config {
	return Config{Name: name, Peer: netip.MustParseAddr(peer), Receive: 50 * time.Millisecond, Transmit: 50 * time.Millisecond}
}

func kernelConfigs() map[string][2]Config {
	multi := [2]Config{fast("s", "192.0.2.2"), fast("s", "192.0.2.1")}
	local := [2]Config{fast("s", "2001:db8::2"), fast("s", "2001:db8::1")}
	passive := [2]Config{fast("s", "192.0.2.2"), fast("s", "192.0.2.1")}
	for i := range 2 {
		multi[i].Multihop = true
		local[i].Multihop = true
		local[i].Local = local[1-i].Peer
	}
	passive[1].Passive = true
	return map[string][2]Config{
		"IPv4":       {fast("s", "192.0.2.2"), fast("s", "192.0.2.1")},
		"IPv6":       {fast("s", "2001:db8::2"), fast("s", "2001:db8::1")},
		"link-local": {fast("s", "fe80::2%eth0"), fast("s", "fe80::1%eth0")},
		"multihop":   multi,
		"multihop6":  local,
		"passive":    passive,
	}
}

// TestKernel takes sessions of every kind through their life.
func TestKernel(t *testing.T) {
	t.Parallel()
	for name, configs := range kernelConfigs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newKernelPair(t)
			p.monitors[0].Apply(configs[:1])
			p.monitors[1].Apply(configs[1:])
			p.waitFor(0, "s", Up)
			p.waitFor(1, "s", Up)
			netnstest.Eventually(t, "fast timers to be negotiated", func() bool {
				s := p.state(0, "s")
				return s.TransmitInterval == 50*time.Millisecond && s.DetectionTime == 150*time.Millisecond
			})
			if up := p.counter(0, "berth_bfd_session_up"); up != 1 {
				t.Errorf("berth_bfd_session_up is %v in a session that is up", up)
			}

			cut := time.Now()
			p.ns[1].SetUp("eth0", false)
			p.waitFor(0, "s", Down)
			t.Logf("failure detected after %v", time.Since(cut))
			if s := p.state(0, "s"); s.Failures != 1 || s.Diagnostic != DetectionExpired {
				t.Errorf("after a cut: %+v", s)
			}
			p.ns[1].SetUp("eth0", true)
			for _, a := range []string{"2001:db8::2/64", "fe80::2/64"} { // the kernel drops them with the link
				p.ns[1].AddAddress("eth0", a)
			}
			p.waitFor(0, "s", Up)
			p.waitFor(1, "s", Up)

			p.monitors[1].Apply(nil)
			p.waitFor(0, "s", Down)
			if s := p.state(0, "s"); s.RemoteState != AdminDown || s.Failures != 1 || s.Diagnostic != NeighborDown {
				t.Errorf("after an orderly removal by the peer: %+v", s)
			}
			p.monitors[1].Apply(configs[1:])
			p.waitFor(0, "s", Up)
			p.stop[1]()
			p.waitFor(0, "s", Down)
			if s := p.state(0, "s"); s.RemoteState != AdminDown || s.Failures != 1 {
				t.Errorf("after an orderly end of the peer: %+v", s)
			}
		})
	}
}

// settled waits until all IPv6 addresses are usable.
func settled(t testing.TB, ns *netnstest.NS) {
	t.Helper()
	netnstest.Eventually(t, "IPv6 addresses to be usable", func() bool {
		list, err := ns.Netlink().AddrList(ns.Link("eth0"), netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
	})
}

// forward makes a namespace forward packets, or not.
func forward(ns *netnstest.NS, yes bool) {
	value := "0"
	if yes {
		value = "1"
	}
	ns.SetSysctl("net/ipv4/ip_forward", value)
	ns.SetSysctl("net/ipv6/conf/all/forwarding", value)
}

// TestKernelEcho: the echo function watches the path where the peer's kernel
// sends echo packets back, slows down control packets, notices that they do not
// return, and is not used again until they do.
func TestKernelEcho(t *testing.T) {
	t.Parallel()
	for name, addrs := range map[string][2]string{"IPv4": {"192.0.2.2", "192.0.2.1"}, "IPv6": {"2001:db8::2", "2001:db8::1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newKernelPair(t)
			for i, m := range p.monitors {
				forward(p.ns[i], true)
				c := fast("s", addrs[i])
				c.Echo, c.EchoMode = 20*ms, i == 0
				m.Apply([]Config{c})
			}
			echoed := func(yes bool) func() bool {
				return func() bool { s := p.state(0, "s"); return s.State == Up && s.Echo == yes }
			}
			netnstest.Eventually(t, "echo packets to return", echoed(true))
			netnstest.Eventually(t, "the peer's control packets to slow down", func() bool {
				return p.state(1, "s").TransmitInterval == time.Second && p.state(0, "s").DetectionTime == 3*time.Second
			})
			before, start := p.counter(0, "berth_bfd_echo_packets_received_total"), time.Now()
			netnstest.Eventually(t, "more echo packets", func() bool { return p.counter(0, "berth_bfd_echo_packets_received_total") >= before+50 })
			t.Logf("50 echo packets at 20ms took %v", time.Since(start))

			forward(p.ns[1], false)
			cut := time.Now()
			netnstest.Eventually(t, "failure of the echo function", func() bool { return p.state(0, "s").Failures == 1 })
			t.Logf("failure of the echo function detected after %v", time.Since(cut))
			if s := p.state(0, "s"); s.Since.Sub(cut) > 500*ms {
				t.Errorf("it took %v", s.Since.Sub(cut))
			}
			netnstest.Eventually(t, "the session to come back without echo", echoed(false))
			if s := p.state(0, "s"); s.Failures != 1 {
				t.Errorf("it fails again for want of echo: %+v", s)
			}
			forward(p.ns[1], true)
			netnstest.Eventually(t, "echo packets to return", echoed(true))
		})
	}
}
