package netif

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch runs a Watcher in ns and waits for its first snapshot.
func watch(t *testing.T, ns *netnstest.NS) *Watcher {
	t.Helper()
	w := New(Config{})
	ns.Run(w.Run)
	<-w.Synced()
	return w
}

// find returns the named link of the snapshot, nil if there is none.
func find(w *Watcher, name string) *Link {
	for _, l := range w.Links() {
		if l.Name == name {
			return &l
		}
	}
	return nil
}

// await waits for a notification after which the named link satisfies ok.
func await(t *testing.T, w *Watcher, changed <-chan struct{}, name string, ok func(*Link) bool) *Link {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		if l := find(w, name); ok(l) {
			return l
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("link %s never got there: %+v", name, find(w, name))
		}
	}
}

func exists(l *Link) bool { return l != nil }

func TestWatcherFollowsLinkAndAddresses(t *testing.T) {
	t.Parallel()
	a, b := netnstest.New(t), netnstest.New(t)
	netnstest.Connect(a, "eth0", b, "eth0")
	a.AddAddress("eth0", "192.0.2.1/24")
	w := watch(t, a)
	changed, cancel := w.Subscribe()
	defer cancel()

	l := await(t, w, changed, "eth0", func(l *Link) bool { return exists(l) && l.CanNDP() == nil })
	if err := l.CanARP(); err != nil {
		t.Fatalf("CanARP: %v", err)
	}
	if l.Kind != "veth" || l.MAC.String() != a.MAC("eth0").String() || !l.HasSubnet(netip.MustParseAddr("192.0.2.77")) {
		t.Fatalf("unexpected link %+v", l)
	}
	a.AddAddress("eth0", "2001:db8::1/64")
	await(t, w, changed, "eth0", func(l *Link) bool { return l.HasSubnet(netip.MustParseAddr("2001:db8::9")) })
	a.AddAddress("eth0", "192.0.2.9/24")
	l = await(t, w, changed, "eth0", func(l *Link) bool { return len(l.Prefixes) == 4 })
	if !slices.IsSortedFunc(l.Prefixes, comparePrefixes) || l.Prefixes[0].String() != "192.0.2.1/24" {
		t.Fatalf("prefixes not in order: %v", l.Prefixes)
	}

	// The cable goes: the other end down is a lost carrier here.
	before := l.CarrierChanges
	b.SetUp("eth0", false)
	l = await(t, w, changed, "eth0", func(l *Link) bool { return !l.Carrier })
	if !errors.Is(l.CanARP(), ErrNoCarrier) || l.CarrierChanges == before {
		t.Fatalf("after carrier loss: %v, changes %d → %d", l.CanARP(), before, l.CarrierChanges)
	}
	b.SetUp("eth0", true)
	await(t, w, changed, "eth0", func(l *Link) bool { return l.Carrier })
	a.SetUp("eth0", false)
	l = await(t, w, changed, "eth0", func(l *Link) bool { return !l.Up })
	if !errors.Is(l.CanARP(), ErrDown) || !errors.Is(l.CanNDP(), ErrDown) {
		t.Fatalf("after link down: %v, %v", l.CanARP(), l.CanNDP())
	}

	index := l.Index
	a.Delete("eth0")
	await(t, w, changed, "eth0", func(l *Link) bool { return l == nil })
	netnstest.Connect(a, "eth0", b, "eth0")
	a.AddAddress("eth0", "192.0.2.1/24")
	l = await(t, w, changed, "eth0", exists)
	if l.Index == index {
		t.Fatalf("a new link has the index of the old, %d", index)
	}
}

func TestWatcherTentativeAddressIsNotUsable(t *testing.T) {
	t.Parallel()
	a, b := netnstest.New(t), netnstest.New(t)
	netnstest.Connect(a, "eth0", b, "eth0")
	a.AddAddress("eth0", "192.0.2.1/24")
	b.AddAddress("eth0", "2001:db8::2/64")
	w := watch(t, a)
	changed, cancel := w.Subscribe()
	defer cancel()
	await(t, w, changed, "eth0", exists)

	a.SetSysctl("net/ipv6/conf/eth0/accept_dad", "1")
	a.SetSysctl("net/ipv6/conf/eth0/dad_transmits", "1")
	a.AddAddress("eth0", "2001:db8::1/64") // unique: tentative for a second, then valid
	a.AddAddress("eth0", "2001:db8::2/64") // the neighbour has it: fails
	if find(w, "eth0").HasSubnet(netip.MustParseAddr("2001:db8::1")) {
		t.Fatal("a tentative address counts as usable")
	}
	l := await(t, w, changed, "eth0", func(l *Link) bool { return l.HasSubnet(netip.MustParseAddr("2001:db8::1")) })
	if slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Addr() == netip.MustParseAddr("2001:db8::2") }) {
		t.Fatalf("an address that failed duplicate address detection counts as usable: %v", l.Prefixes)
	}
}

func TestWatcherEnslavedLink(t *testing.T) {
	t.Parallel()
	a, b := netnstest.New(t), netnstest.New(t)
	netnstest.Connect(a, "eth0", b, "eth0")
	a.AddAddress("eth0", "192.0.2.1/24")
	w := watch(t, a)
	changed, cancel := w.Subscribe()
	defer cancel()
	await(t, w, changed, "eth0", exists)

	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	if err := a.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	await(t, w, changed, "br0", exists)
	if err := a.Netlink().LinkSetMaster(a.Link("eth0"), a.Link("br0")); err != nil {
		t.Fatal(err)
	}
	await(t, w, changed, "eth0", func(l *Link) bool { return l == nil })
	// Leaving the bridge makes the kernel send RTM_DELLINK of family AF_BRIDGE,
	// which is not the end of the link.
	if err := a.Netlink().LinkSetNoMaster(a.Link("eth0")); err != nil {
		t.Fatal(err)
	}
	await(t, w, changed, "eth0", func(l *Link) bool { return exists(l) && l.CanARP() == nil })
}

// TestWatcherIgnoresPods makes and removes links as Pods have them: no reader is
// to notice, and the Ethernet's events are still seen afterwards.
func TestWatcherIgnoresPods(t *testing.T) {
	t.Parallel()
	a, b := netnstest.New(t), netnstest.New(t)
	netnstest.Connect(a, "eth0", b, "eth0")
	a.AddAddress("eth0", "192.0.2.1/24")
	w := watch(t, a)
	changed, cancel := w.Subscribe()
	defer cancel()
	await(t, w, changed, "eth0", func(l *Link) bool { return exists(l) && l.CanNDP() == nil })
	for len(changed) > 0 {
		<-changed
	}
	pods := netnstest.New(t)
	for i := range 50 {
		name := fmt.Sprintf("pod%d", i)
		netnstest.Connect(a, name, pods, name)
		a.AddAddress(name, "169.254.1.1/32")
		if i%2 == 0 {
			a.Delete(name)
		}
	}
	select {
	case <-changed:
		t.Fatalf("links of Pods were reported: %+v", w.Links())
	default:
	}
	a.AddAddress("eth0", "192.0.2.2/24")
	await(t, w, changed, "eth0", func(l *Link) bool { return len(l.Prefixes) == 3 })
}

// TestWatcherSurvivesLostEvents has the socket overrun by more events than it can
// hold. What the events did not tell, a fresh list does.
func TestWatcherSurvivesLostEvents(t *testing.T) {
	t.Parallel()
	a, b := netnstest.New(t), netnstest.New(t)
	netnstest.Connect(a, "eth0", b, "eth0")
	a.AddAddress("eth0", "192.0.2.1/24")
	var sock *socket
	a.MustDo(func() (err error) {
		sock, err = subscribe()
		return err
	})
	t.Cleanup(sock.close)
	if err := sock.raw.Control(func(fd uintptr) { // the kernel rounds up to its least
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	}); err != nil {
		t.Fatal(err)
	}
	addSubnets := func(first byte) {
		for i := range 50 {
			a.AddAddress("eth0", fmt.Sprintf("%d.51.%d.1/24", first, i))
		}
	}
	addSubnets(198)
	lost := make(chan struct{}, 1000)
	w := New(Config{Logger: log.LoggerFunc(func(kv ...any) error {
		if strings.Contains(fmt.Sprint(kv...), "lost") {
			lost <- struct{}{}
		}
		return nil
	})})
	a.Run(func(ctx context.Context) error {
		if err := w.follow(ctx, sock); !errors.Is(err, context.Canceled) && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		return nil
	})
	<-lost
	changed, cancel := w.Subscribe()
	defer cancel()
	addSubnets(203)
	await(t, w, changed, "eth0", func(l *Link) bool { return exists(l) && len(l.Prefixes) >= 101 })
}

func TestSubscribersCoalesceAndCancel(t *testing.T) {
	t.Parallel()
	w := New(Config{})
	kept, cancelKept := w.Subscribe()
	defer cancelKept()
	ended, cancelEnded := w.Subscribe()
	cancelEnded()
	for i := range 3 {
		st := newState()
		st.links[1] = &Link{Index: 1, Name: "eth0", CarrierChanges: uint32(i)}
		w.publish(st)
		w.publish(st) // no difference, no notification
	}
	if len(kept) != 1 || len(ended) != 0 {
		t.Fatalf("got %d and %d notifications, want 1 and 0", len(kept), len(ended))
	}
	<-kept
	st := newState()
	st.links[1] = &Link{Index: 1, Name: "eth0", CarrierChanges: 2}
	w.publish(st)
	if len(kept) != 0 {
		t.Fatal("a snapshot equal to the last was notified")
	}
}
