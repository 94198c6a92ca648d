package network

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// reachesHost reports whether one host reaches all addresses of another, or none.
func reachesHost(t *testing.T, n Network, from, to string, want bool) {
	t.Helper()
	host, err := n.plan.Host(to)
	if err != nil {
		t.Fatal(err)
	}
	limit := haste
	if want {
		limit = patience
	}
	for _, address := range host.IPs() {
		if reaches(t, n, from, address, limit) != want {
			t.Errorf("%s reaches %s of %s = %t, want %t", from, address, to, !want, want)
		}
	}
}

func TestPartition(t *testing.T) {
	t.Parallel()
	n := build(t)
	expect := func(text string, apart [][2]string) {
		t.Helper()
		if got, err := n.Partitioned(); err != nil || got != text {
			t.Errorf("partition is %q (error %v), want %q", got, err, text)
		}
		for _, pair := range [][2]string{{Client, Stranger}, {"node-1", Client}, {"node-1", Stranger}, {Router, Client}, {Router, Stranger}} {
			reachesHost(t, n, pair[0], pair[1], !slices.Contains(apart, pair))
		}
	}
	expect("", nil)
	if err := n.Partition([]string{"node-1", Client}, []string{Stranger}); err != nil {
		t.Fatal(err)
	}
	expect("node-1,client / stranger", [][2]string{{Client, Stranger}, {"node-1", Stranger}})
	hasCarrier(t, n, Stranger, true)
	if err := n.Partition([]string{"node-1"}, []string{Client}, []string{Stranger}); err != nil {
		t.Fatal(err)
	}
	expect("node-1 / client / stranger", [][2]string{{Client, Stranger}, {"node-1", Client}, {"node-1", Stranger}})
	for range 2 {
		if err := n.Partition(); err != nil {
			t.Fatal(err)
		}
		expect("", nil)
	}
}

func TestPartitionOfNonsense(t *testing.T) {
	t.Parallel()
	plan, err := NewPlan(2, Dual)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"node-1":                    "one group alone",
		"node-1 /":                  "a group is empty",
		"node-1 / node-3":           `host "node-3" does not exist`,
		"node-1 / node-1,node-2":    `host "node-1" is named twice`,
		"node-1 / wan-client":       `host "wan-client" is not on the Ethernet`,
		"node-1 / node-2 / absent":  `host "absent" does not exist`,
		"node-1,node-1 / wan-clien": `"node-1" is named twice`,
	} {
		if err := New(plan, "never-").Partition(ParsePartition(text)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

func TestParsePartition(t *testing.T) {
	t.Parallel()
	want := [][]string{{"a", "b"}, {"c"}}
	for _, pieces := range [][]string{{"a,b", "/", "c"}, {"a,b/c"}, {"a, b / c"}, {"a,", "b", "/c"}} {
		groups := ParsePartition(pieces...)
		if !slices.EqualFunc(groups, want, slices.Equal) || PartitionText(groups) != "a,b / c" {
			t.Errorf("%q: %q", pieces, groups)
		}
	}
}

// believes reports what the kernel of a host thinks is the MAC of an address.
func believes(t *testing.T, n Network, host string, address netip.Addr) string {
	t.Helper()
	mac := ""
	err := n.onEthernet(host, "look", func(link netlink.Link) error {
		neighbors, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
		for _, neighbor := range neighbors {
			if ip, _ := netip.AddrFromSlice(neighbor.IP); ip.Unmap() == address {
				mac = neighbor.HardwareAddr.String()
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

// TestSquatAndDeafen: two hosts take an address in turn. A client learns of it by
// an announcement, unless it is deaf, and by asking.
func TestSquatAndDeafen(t *testing.T) {
	t.Parallel()
	n := build(t)
	macs := map[string]string{}
	for _, name := range []string{Router, Stranger} {
		host, err := n.plan.Host(name)
		if err != nil {
			t.Fatal(err)
		}
		macs[name] = host.MAC
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, free := range n.plan.FreeRanges {
		address := free.Addr().Next()
		do(n.Squat(Router, address))
		if !reaches(t, n, Client, address, patience) || believes(t, n, Client, address) != macs[Router] {
			t.Errorf("%s is at %q for the client, want the router", address, believes(t, n, Client, address))
		}
		do(n.Deafen(Client))
		do(n.Squat(Stranger, address))
		do(n.Announce(Stranger, address))
		if got := believes(t, n, Client, address); got != macs[Router] {
			t.Errorf("%s is at %q for a deaf client, want the router", address, got)
		}
		do(n.Undeafen(Client))
		// The kernel may lock an entry for an instant after it has changed.
		waitUntil(t, "an announcement to be believed", func() bool {
			do(n.Announce(Stranger, address))
			return believes(t, n, Client, address) == macs[Stranger]
		})
		do(n.Vacate(Router, address))
		if err := n.Vacate(Router, address); err == nil {
			t.Errorf("gave up %s twice", address)
		}
	}
	if err := n.Squat(Stranger, netip.MustParseAddr("172.20.0.11")); err == nil {
		t.Error("took the address of a node")
	}
	do(n.Deafen(Client))
	do(n.HealAll())
	for _, free := range n.plan.FreeRanges {
		if reaches(t, n, Router, free.Addr().Next(), haste) {
			t.Errorf("%s is in use after everything was healed", free.Addr().Next())
		}
	}
	if err := (netns.Target{Name: n.Namespace(Client)}).Do(func() error {
		rules, err := exec.Command("nft", "list", "ruleset").Output()
		if len(rules) > 0 {
			t.Errorf("the client still has %s", rules)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func waitUntil(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !check(); time.Sleep(5 * time.Millisecond) { // between two looks, not for luck
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}
