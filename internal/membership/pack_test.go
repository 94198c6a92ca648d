package membership

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func asMap(c *Claims) map[netip.Addr]Claim { return maps.Collect(c.All()) }

// manyClaims returns claims to count addresses, every other IPv6.
func manyClaims(count int, term uint64) map[netip.Addr]Claim {
	claims := make(map[netip.Addr]Claim, count)
	for i := range count {
		a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		if i%2 == 1 {
			a = netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 14: byte(i >> 8), 15: byte(i)})
		}
		claims[a] = Claim{Term: term}
	}
	return claims
}

func received(t interface{ Fatal(...any) }, c *chunk) *chunk {
	got, err := decodeChunk(c.raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// What takes much CPU runs before the tests that run in parallel, or speakers there would be starved and given up.

// Whatever is claimed in whatever order, the others learn exactly that, and never miss an address that is claimed all the
// time, also between two packets of one change.
func TestPackerTellsWhatIsClaimed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		many := rapid.SampledFrom([]int{20, 1000}).Draw(t, "addresses")
		p, other := newPacker("node", 5), newTable()
		claims, speaks := map[netip.Addr]Claim{}, false
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			before := maps.Clone(claims)
			var changed []*chunk
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				changed = p.tick()
			case 1:
				changed, speaks = p.speak(), true
			case 2:
				changed = p.restart(p.epoch + 1)
			default:
				drawChange(t, claims, many)
				var left int
				if changed, left = p.set(claims, speaks); left > 0 {
					t.Fatalf("no room for %d", left)
				}
			}
			for _, c := range changed {
				other.merge(received(t, c))
				for a := range before {
					_, now := claims[a]
					if _, told := other.current().Get(a); now && !told {
						t.Fatalf("%s is claimed all the time, but not in the middle of a change", a)
					}
				}
			}
			for who, c := range map[string]*Claims{"own": p.table.current(), "other's": other.current()} {
				if speaks || p.epoch == 5 { // else some of what the former epoch claimed is left
					if got := asMap(c); !maps.Equal(got, claims) {
						t.Fatalf("%s claims are %v, want %v", who, got, claims)
					}
				}
			}
		}
	})
}

// change changes some or many of the claims.
func drawChange(t *rapid.T, claims map[netip.Addr]Claim, many int) {
	switch rapid.IntRange(0, 3).Draw(t, "change") {
	case 0: // one
		claims[drawAddr(t, many)] = drawClaim(t)
	case 1: // many, perhaps offered to all kinds of nodes
		offered := rapid.Bool().Draw(t, "offered")
		for i, a := range slices.SortedFunc(maps.Keys(claims), netip.Addr.Compare) {
			c := claims[a]
			c.Term++
			if offered {
				c.To = fmt.Sprintf("node-%03d.example.com", i)
			}
			claims[a] = c
		}
	case 2:
		for range rapid.IntRange(1, many/2).Draw(t, "more") {
			claims[drawAddr(t, many)] = Claim{Term: 1}
		}
	case 3:
		for range rapid.IntRange(1, many/2).Draw(t, "fewer") {
			delete(claims, drawAddr(t, many))
		}
	}
}

func TestPackerSendsOnlyWhatHasChanged(t *testing.T) {
	t.Parallel()
	p := newPacker("node-1.example.com", 1<<60)
	claims := manyClaims(10_000, 1)
	changed, left := p.set(claims, true)
	size := 0
	for _, c := range changed {
		size += len(c.raw)
	}
	t.Logf("10,000 addresses, half of them IPv6: %d chunks, %d bytes", len(changed), size)
	if left > 0 || len(changed) > 200 || p.table.current().Len() != len(claims) {
		t.Fatalf("%d chunks, %d addresses left out", len(changed), left)
	}
	if changed, _ := p.set(maps.Clone(claims), true); len(changed) != 0 {
		t.Errorf("nothing has changed, and %d chunks are sent", len(changed))
	}
	one := netip.MustParseAddr("198.18.0.4")
	index := p.table.where[one].chunk.index
	snapshot := p.table.current()
	for _, claim := range []Claim{{Term: 2}, {Term: 1 << 40, Provisional: true}, {Term: 3, To: "node-2.example.com"}} {
		claims[one] = claim
		changed, _ = p.set(claims, true)
		if len(changed) != 1 || changed[0].index != index {
			t.Fatalf("one claim has changed, and chunks %v are sent; it was in %d", indices(changed), index)
		}
		if got, _ := p.table.current().Get(one); got != claim {
			t.Errorf("claim is %+v, want %+v", got, claim)
		}
	}
	if got, _ := snapshot.Get(one); got != (Claim{Term: 1}) {
		t.Errorf("a snapshot has changed to %+v", got)
	}
	delete(claims, one)
	if changed, _ = p.set(claims, true); len(changed) != 1 || changed[0].index != index {
		t.Errorf("one address was given up, and chunks %v are sent", indices(changed))
	}
	claims[netip.MustParseAddr("198.18.255.1")] = Claim{Term: 1}
	if changed, _ = p.set(claims, true); len(changed) != 1 || changed[0].index >= p.chunks() {
		t.Errorf("one address was added, and chunks %v are sent", indices(changed))
	}
	before := p.chunks()
	changed, _ = p.set(nil, true)
	if len(changed) != before || p.table.current() != noClaims {
		t.Errorf("after all was given up, %d of %d chunks are sent and %d addresses claimed", len(changed), before, p.table.current().Len())
	}
	if changed, _ = p.set(manyClaims(100, 1), true); len(changed) > 2 || p.chunks() != before {
		t.Errorf("emptied chunks are not used again: %d of now %d are sent", len(changed), p.chunks())
	}
}

// An address that is offered to somebody with a long name may outgrow its chunk. Until the others can be expected to have
// the chunk to which it has moved, they find its former claim in the first.
func TestPackerMovesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	p := newPacker("node-1", 1)
	claims := map[netip.Addr]Claim{}
	for a := range manyClaims(100, 1) {
		if a.Is4() {
			claims[a] = Claim{Term: 1}
		}
	}
	p.set(claims, true)
	if p.chunks() != 1 {
		t.Fatalf("%d chunks, want 1", p.chunks())
	}
	offered := maps.Clone(claims)
	for i, a := range slices.SortedFunc(maps.Keys(claims), netip.Addr.Compare) {
		offered[a] = Claim{Term: 1, To: fmt.Sprintf("node-%03d.example.com", i)}
	}
	changed, _ := p.set(offered, true)
	if slices.Contains(indices(changed), 0) || p.chunk(0).entries[0].claim.To != "" {
		t.Errorf("chunks %v are sent; the one that was outgrown should wait", indices(changed))
	}
	if got := asMap(p.table.current()); !maps.Equal(got, offered) {
		t.Errorf("claims are %v", got)
	}
	if changed := p.tick(); len(changed) != 0 {
		t.Errorf("chunks %v are sent at the first tick, which may come at once", indices(changed))
	}
	if changed := p.tick(); !slices.Equal(indices(changed), []int{0}) || len(changed[0].entries) != 0 {
		t.Errorf("chunks %v are sent at the second tick, want 0, empty", indices(changed))
	}
	if got := asMap(p.table.current()); !maps.Equal(got, offered) {
		t.Errorf("after the move, claims are %v", got)
	}

	// What is given up is not resurrected by an outdated claim to it.
	p = newPacker("node-1", 1)
	p.set(claims, true)
	p.set(offered, true)
	if len(p.late) == 0 {
		t.Fatal("nothing has moved this time")
	}
	one := netip.MustParseAddr("198.18.0.4")
	delete(offered, one)
	p.set(offered, true)
	if got := asMap(p.table.current()); !maps.Equal(got, offered) {
		t.Errorf("claims are %d, want %d without %s", len(got), len(offered), one)
	}
}

func TestPackerIsBounded(t *testing.T) {
	p := newPacker("node-1", 1)
	claims := make(map[netip.Addr]Claim)
	for i := range 180_000 {
		claims[netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})] = Claim{Term: 1}
	}
	changed, left := p.set(claims, true)
	if left == 0 || len(changed) != maxChunks || p.table.current().Len()+left != len(claims) {
		t.Errorf("%d chunks with %d addresses, %d left out", len(changed), p.table.current().Len(), left)
	}
	// When there is room again, it is used.
	for a := range p.table.current().All() {
		delete(claims, a)
	}
	if _, left = p.set(claims, true); left != 0 || p.table.current().Len() != len(claims) {
		t.Errorf("%d addresses left out though there is room", left)
	}
}

func TestClaimsAreCanonical(t *testing.T) {
	t.Parallel()
	c := NewClaims(map[netip.Addr]Claim{
		netip.MustParseAddr("::ffff:192.0.2.1"): {Term: 1},
		netip.MustParseAddr("fe80::1%eth0"):     {Term: 2},
		{}:                                      {Term: 3},
	})
	want := map[netip.Addr]Claim{netip.MustParseAddr("192.0.2.1"): {Term: 1}, netip.MustParseAddr("fe80::1"): {Term: 2}}
	if got := asMap(c); !maps.Equal(got, want) || c.Len() != 2 {
		t.Errorf("%v, want %v", got, want)
	}
	var none *Claims
	if _, ok := none.Get(netip.MustParseAddr("192.0.2.1")); ok || none.Len() != 0 || len(asMap(none)) != 0 {
		t.Error("nil claims are not empty")
	}
	if _, ok := c.Get(netip.Addr{}); ok {
		t.Error("no address is claimed")
	}
	for range c.All() {
		break
	}
}
