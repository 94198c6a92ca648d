package netnstest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// An NS is a network namespace that lives until the end of its test.
type NS struct {
	t      testing.TB
	handle netns.NsHandle
	nl     *netlink.Handle
}

// New returns an empty namespace whose loopback link is up. Duplicate address
// detection is off by default in it, because it delays every IPv6 address by a
// second or two; SetSysctl turns it on where it matters.
func New(t testing.TB) *NS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	ns := &NS{t: t, handle: netns.None()}
	must(t, "creating network namespace", onThread(func() error {
		orig, err := netns.Get()
		if err != nil {
			return err
		}
		defer func() { _ = orig.Close() }()
		if ns.handle, err = netns.New(); err != nil {
			return err
		}
		return netns.Set(orig)
	}))
	nl, err := netlink.NewHandleAt(ns.handle)
	must(t, "opening netlink in namespace", err)
	ns.nl = nl
	t.Cleanup(func() {
		nl.Close()
		_ = ns.handle.Close()
	})
	ns.SetSysctl("net/ipv6/conf/default/accept_dad", "0")
	ns.SetUp("lo", true)
	return ns
}

// onThread runs f in a goroutine that has a thread of its own. If f fails the
// thread ends with it, as it may be in the wrong namespace.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := f()
		if err == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Do runs f on a thread inside the namespace and returns its error. Sockets that
// f opens stay in the namespace; goroutines that f starts do not.
func (ns *NS) Do(f func() error) error {
	var ferr error
	err := onThread(func() error {
		orig, err := netns.Get()
		if err != nil {
			return err
		}
		defer func() { _ = orig.Close() }()
		if err := netns.Set(ns.handle); err != nil {
			return err
		}
		ferr = f()
		return netns.Set(orig)
	})
	if err != nil {
		return err
	}
	return ferr
}

// MustDo is Do, and ends the test if f fails.
func (ns *NS) MustDo(f func() error) {
	ns.t.Helper()
	must(ns.t, "working in network namespace", ns.Do(f))
}

// Run runs a task on a thread inside the namespace until the test ends or stop
// is called, which waits for the task. A task that fails, fails the test.
func (ns *NS) Run(task func(context.Context) error) (stop func()) {
	ns.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ns.Do(func() error { return task(ctx) }) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			ns.t.Errorf("task in network namespace: %v", err)
		}
	}
	ns.t.Cleanup(stop)
	return stop
}

// Netlink returns a handle on the namespace's links, addresses and neighbours.
func (ns *NS) Netlink() *netlink.Handle { return ns.nl }

// Fd returns the namespace's file descriptor, valid until the test ends.
func (ns *NS) Fd() int { return int(ns.handle) }

// SetSysctl writes a value below /proc/sys, such as "net/ipv4/ip_forward".
func (ns *NS) SetSysctl(name, value string) {
	ns.t.Helper()
	ns.MustDo(func() error { return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644) })
}

// Link returns the named link.
func (ns *NS) Link(name string) netlink.Link {
	ns.t.Helper()
	l, err := ns.nl.LinkByName(name)
	must(ns.t, "finding link "+name, err)
	return l
}

// MAC returns the hardware address of the named link.
func (ns *NS) MAC(name string) net.HardwareAddr {
	ns.t.Helper()
	return ns.Link(name).Attrs().HardwareAddr
}

// SetUp sets the named link up or down.
func (ns *NS) SetUp(name string, up bool) {
	ns.t.Helper()
	set := ns.nl.LinkSetDown
	if up {
		set = ns.nl.LinkSetUp
	}
	must(ns.t, "setting link "+name, set(ns.Link(name)))
}

// AddAddress gives the named link an address, written as a prefix.
func (ns *NS) AddAddress(name, prefix string) {
	ns.t.Helper()
	p, err := netip.ParsePrefix(prefix)
	must(ns.t, "parsing prefix", err)
	addr := &netlink.Addr{IPNet: &net.IPNet{
		IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	must(ns.t, "adding "+prefix+" to "+name, ns.nl.AddrAdd(ns.Link(name), addr))
}

// Delete deletes the named link.
func (ns *NS) Delete(name string) {
	ns.t.Helper()
	must(ns.t, "deleting link "+name, ns.nl.LinkDel(ns.Link(name)))
}

// Connect joins two namespaces by a veth pair, whose ends get the given names
// and are up. It returns once both have a carrier.
func Connect(a *NS, aName string, b *NS, bName string) {
	a.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	must(a.t, "adding veth "+aName, a.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.Fd()),
	}))
	a.SetUp(aName, true)
	b.SetUp(bName, true)
	Eventually(a.t, "carrier on "+aName, func() bool {
		return a.Link(aName).Attrs().OperState == netlink.OperUp && b.Link(bName).Attrs().OperState == netlink.OperUp
	})
}

// Eventually waits until cond holds and fails the test if that takes longer than
// ten seconds.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
