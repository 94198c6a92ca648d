package ipam

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// newAllocator returns one with a pool of each family.
func newAllocator(t *testing.T) *Allocator {
	a := New()
	pools := []Pool{{Name: "four", Ranges: mustRanges(t, "10.0.0.0/24")}, {Name: "six", Ranges: mustRanges(t, "fd00::/64")}}
	if _, err := a.SetPools(pools); err != nil {
		t.Fatal(err)
	}
	return a
}

func allocate(t *testing.T, a *Allocator, req Request) Result {
	res, err := a.Allocate(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestLookups(t *testing.T) {
	t.Parallel()
	a := newAllocator(t)
	web, mail := Owner{"x", "web"}, Owner{"x", "mail"}
	if a.Has(web) || a.Len() != 0 || a.Allocation(web) != nil || a.SharingOf(web) != nil || a.Release(web) != nil {
		t.Error("a new allocator knows an owner")
	}
	sharing := &Sharing{Key: "k", Ports: []Port{{UDP, 53}, {TCP, 53}, {UDP, 53}}}
	allocate(t, a, Request{Owner: web, Families: []Family{IPv4}, Pools: []string{"four"}, Sharing: sharing})
	sharing.Ports[0].Number = 54 // the caller's, not the allocator's
	allocate(t, a, Request{Owner: mail, Families: []Family{IPv6}, Pools: []string{"six"}, Sharing: &Sharing{Ports: sharing.Ports}})
	if got := a.SharingOf(web); !slices.Equal(got.Ports, []Port{{TCP, 53}, {UDP, 53}}) {
		t.Errorf("ports are %v", got.Ports)
	}
	if got := a.SharingOf(mail); got != nil {
		t.Errorf("without a key there is sharing %v", got)
	}
	if !a.Has(web) || !a.Has(mail) || a.Len() != 2 {
		t.Error("an owner is missing")
	}
	for in, pool := range map[string]string{"10.0.0.7": "four", "10.0.1.0": "", "9.255.255.255": "", "fd00::5": "six", "::": "", "::ffff:10.0.0.7": ""} {
		if got, ok := a.PoolOf(netip.MustParseAddr(in)); got != pool || ok != (pool != "") {
			t.Errorf("PoolOf(%s) = %q, %v", in, got, ok)
		}
	}
	if _, ok := a.PoolOf(netip.Addr{}); ok || a.Owners(netip.Addr{}) != nil || a.Owners(netip.MustParseAddr("10.0.0.9")) != nil {
		t.Error("no address has a pool or an owner")
	}
	if _, ok := a.StatsOf("none"); ok {
		t.Error("no pool has statistics")
	}
}

func TestAllMayStopAndRelease(t *testing.T) {
	t.Parallel()
	a := newAllocator(t)
	for _, name := range []string{"1", "2", "3"} {
		allocate(t, a, Request{Owner: Owner{"x", name}, Families: []Family{IPv4, IPv6}, Pools: []string{"four", "six"}})
	}
	for o, assigned := range a.All() {
		if !slices.Equal(assigned, a.Allocation(o)) {
			t.Errorf("All has %v for %s, Allocation %v", assigned, o, a.Allocation(o))
		}
		break
	}
	for o := range a.All() {
		a.Release(o)
	}
	if a.Len() != 0 || a.Stats()[0].IPv4.Assigned != 0 || a.Stats()[1].IPv6.Assigned != 0 {
		t.Errorf("%d owners left: %+v", a.Len(), a.Stats())
	}
}

// TestCallerKeepsItsSlices: what goes in or comes out is not shared with the allocator.
func TestCallerKeepsItsSlices(t *testing.T) {
	t.Parallel()
	a := newAllocator(t)
	ranges := mustRanges(t, "10.0.0.0/24")
	if _, err := a.SetPools([]Pool{{Name: "four", Ranges: ranges}}); err != nil {
		t.Fatal(err)
	}
	ranges[0] = mustRange(t, "10.0.9.0/24")
	if _, err := a.SetPools([]Pool{{Name: "four", Ranges: ranges}}); err != nil {
		t.Fatal(err)
	}
	if pool, ok := a.PoolOf(netip.MustParseAddr("10.0.9.1")); !ok || pool != "four" {
		t.Error("a pool edited in place is taken for unchanged")
	}
	req := Request{Owner: Owner{"x", "web"}, Families: []Family{IPv4}, Pools: []string{"four"}, Named: true}
	res := allocate(t, a, req)
	res.Addresses[0].Pool = "none"
	req.Pools[0] = "other"
	if got := a.Allocation(req.Owner)[0].Pool; got != "four" {
		t.Errorf("the pool is %q", got)
	}
	req.Pools[0] = "six"
	if _, err := a.Allocate(req); kindOf(err) != "exhausted" {
		t.Errorf("another named pool is taken for the same: %v", err)
	}
}

// TestSpares: released objects are used again without a trace of their former owners, also when there are more of them
// than are kept.
func TestSpares(t *testing.T) {
	t.Parallel()
	a := newAllocator(t)
	for round := range 3 {
		for i := range 2 * mostSpares {
			req := Request{Owner: benchOwner(i), Families: []Family{IPv4}, Pools: []string{"four"}}
			if (round+i)%2 == 0 {
				req.Sharing = &Sharing{Key: benchOwner(i).Name, Ports: []Port{{TCP, 80}}}
			}
			if res := allocate(t, a, req); len(res.Addresses) != 1 || res.Addresses[0].Address.As4()[3] != byte(i) {
				t.Fatalf("round %d: Service %d got %v", round, i, res.Addresses)
			}
			if got := a.SharingOf(req.Owner); (got == nil) != (req.Sharing == nil) {
				t.Fatalf("round %d: Service %d has sharing %v", round, i, got)
			}
		}
		for i := range 2 * mostSpares {
			a.Release(benchOwner(i))
		}
	}
	if len(a.spareHoldings.list) != mostSpares || len(a.spareAllocations.list) != mostSpares {
		t.Errorf("%d and %d spares are kept", len(a.spareHoldings.list), len(a.spareAllocations.list))
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		if got, err := ParseProtocol(p.String()); got != p || err != nil {
			t.Errorf("ParseProtocol(%s) = %v, %v", p, got, err)
		}
	}
	if p, err := ParseProtocol(""); p != TCP || err != nil {
		t.Errorf("no protocol is %v, %v", p, err)
	}
	if _, err := ParseProtocol("tcp"); err == nil || err.Error() != `unknown protocol "tcp": use TCP, UDP or SCTP` {
		t.Error(err)
	}
	if got := strings.Join([]string{IPv4.String(), IPv6.String(), Family(0).String(), Protocol(9).String()}, " "); got != "IPv4 IPv6 Family(0) Protocol(9)" {
		t.Error(got)
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	a := newAllocator(t)
	for _, c := range []struct {
		req  Request
		want string
	}{
		{Request{}, `request of Service x/web: families must be one or two different ones, not []`},
		{Request{Families: []Family{IPv4, 7}}, `request of Service x/web: Family(7) is no family`},
		{Request{Families: []Family{IPv4}, Addresses: []netip.Addr{{}}}, `request of Service x/web: address is missing`},
	} {
		c.req.Owner = Owner{"x", "web"}
		if _, err := a.Allocate(c.req); err == nil || err.Error() != c.want {
			t.Errorf("Allocate(%+v): %v, want %s", c.req, err, c.want)
		}
	}
	bad := []Pool{{Name: "bad", Ranges: []Range{{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")}}}}
	if _, err := a.SetPools(bad); err == nil || err.Error() != `pool bad: range "10.0.0.2-10.0.0.1" is reversed: its start is above its end` {
		t.Error(err)
	}
}
