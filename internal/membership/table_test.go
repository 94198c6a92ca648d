package membership

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawHistory returns every chunk that some processes of one node said, one process after the other, and what the last
// one claims if it has spoken for itself.
func drawHistory(t *rapid.T) (all []*chunk, last map[netip.Addr]Claim) {
	for epoch := range uint64(rapid.IntRange(1, maxGenerations).Draw(t, "processes")) {
		p := newPacker("node", epoch+1)
		claims, speaks := map[netip.Addr]Claim{}, false
		last = nil
		for range rapid.IntRange(0, 5).Draw(t, "steps") {
			speaks = speaks || rapid.IntRange(0, 3).Draw(t, "speaks") == 0
			drawChange(t, claims, 200)
			changed, _ := p.set(claims, speaks)
			all = append(all, changed...)
			if speaks {
				last = claims
			}
		}
	}
	return all, last
}

// However chunks arrive, late, twice, by way of others, in the end all know the same.
func TestMergeIsIndependentOfOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		history, last := drawHistory(t)
		want := newTable()
		for _, c := range history {
			want.merge(c)
		}
		if last != nil && !maps.Equal(asMap(want.current()), last) {
			t.Fatalf("claims are %v, the last process claims %v", asMap(want.current()), last)
		}
		// Some go to one, some to another, in any order, and the two tell each other all that they hold.
		one, other := newTable(), newTable()
		for _, c := range rapid.Permutation(history).Draw(t, "order") {
			switch rapid.IntRange(0, 2).Draw(t, "to") {
			case 0:
				one.merge(c)
			case 1:
				other.merge(c)
			default:
				one.merge(c)
				other.merge(c)
				other.merge(c)
			}
			if rapid.IntRange(0, 5).Draw(t, "look") == 0 {
				one.current() // what is looked at is built on
			}
		}
		told := other.all(nil)
		for _, c := range one.all(nil) {
			other.merge(c)
		}
		for _, c := range told {
			one.merge(c)
		}
		for _, got := range []*table{one, other} {
			if a, b := asMap(got.current()), asMap(want.current()); !maps.Equal(a, b) {
				t.Fatalf("claims are %v, want %v", a, b)
			}
			if got.bytes != want.bytes || len(got.all(nil)) != len(want.all(nil)) {
				t.Fatalf("%d chunks of %d bytes, want %d of %d", len(got.all(nil)), got.bytes, len(want.all(nil)), want.bytes)
			}
			for _, c := range got.all(nil) {
				if got.merge(c) {
					t.Fatal("what is held already was news")
				}
				s := newStore("self", 1, time.Unix(0, 0))
				s.tables["node"] = got
				if !s.knows(c) || s.knows(&chunk{node: "node", epoch: c.epoch, index: c.index, seq: c.seq + 1}) {
					t.Fatal("what is news is mistaken")
				}
			}
			checkTable(t, got)
		}
	})
}

// checkTable compares what the table keeps up to date with what it would be if it were made anew.
func checkTable(t *rapid.T, got *table) {
	where, bytes := map[netip.Addr]holder{}, 0
	for _, c := range got.all(nil) {
		bytes += chunkCost(c)
		for i, e := range c.entries {
			h := where[e.addr]
			if h.chunk == nil || c.outranks(h.chunk) {
				h.chunk, h.at = c, i
			}
			h.copies++
			where[e.addr] = h
		}
	}
	if !maps.Equal(where, got.where) || bytes != got.bytes {
		t.Fatalf("index is %v of %d bytes, want %v of %d", got.where, got.bytes, where, bytes)
	}
	if c := got.current(); c.Len() != len(where) {
		t.Fatalf("%d claims, want %d", c.Len(), len(where))
	}
}

func TestTableKeepsFewProcesses(t *testing.T) {
	t.Parallel()
	a := netip.MustParseAddr("192.0.2.1")
	of := func(epoch uint64) *chunk {
		return newChunk(chunk{node: "n", epoch: epoch, seq: 1, index: int(epoch)}, []entry{{a, Claim{Term: epoch}}})
	}
	table := newTable()
	for epoch := range uint64(2 * maxGenerations) {
		table.merge(of(epoch + 1))
	}
	if n := len(table.all(nil)); n != maxGenerations {
		t.Errorf("chunks of %d processes are kept", n)
	}
	if table.merge(of(1)) {
		t.Error("one that was dropped came back")
	}
	if got, _ := table.current().Get(a); got.Term != 2*maxGenerations {
		t.Errorf("the claim of process %d counts", got.Term)
	}
}

func TestClaimsAreSharedUntilTheyChange(t *testing.T) {
	t.Parallel()
	s := newStore("self", 1, time.Unix(0, 0))
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	chunkOf := func(node string, seq uint64, addrs ...netip.Addr) *chunk {
		var entries []entry
		for _, addr := range addrs {
			entries = append(entries, entry{addr, Claim{Term: 1}})
		}
		return newChunk(chunk{node: node, epoch: 1, seq: seq}, entries)
	}
	s.mergeChunk(chunkOf("x", 1, a))
	s.mergeChunk(chunkOf("y", 1, a))
	x, y := s.claims("x"), s.claims("y")
	s.mergeChunk(chunkOf("x", 2, a, b))
	s.mergeChunk(chunkOf("y", 2, a)) // says the same again
	if s.claims("x") == x || s.claims("x").Len() != 2 || x.Len() != 1 {
		t.Errorf("claims were %d and are %d", x.Len(), s.claims("x").Len())
	}
	if s.claims("y") != y {
		t.Error("claims that are the same as before were made anew")
	}
	if s.claims("nobody") != noClaims {
		t.Error("somebody unknown has claims")
	}
}

func TestStoreBoundsClaims(t *testing.T) {
	s := newStore("self", 1, time.Unix(0, 0))
	entries := func() []entry {
		var out []entry
		for i := range 100 {
			out = append(out, entry{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Claim{Term: 1}})
		}
		return out
	}
	full := 0
	for n := range 8 {
		for i := range maxChunks {
			c := newChunk(chunk{node: fmt.Sprintf("node-%d", n), epoch: 1, seq: 1, index: i}, entries())
			if s.mergeChunk(c) == noRoom {
				full++
			}
		}
	}
	if s.bytes > maxClaimBytes || full == 0 {
		t.Errorf("%d bytes are kept, %d chunks refused", s.bytes, full)
	}
	// What is held may still change.
	if got := s.mergeChunk(newChunk(chunk{node: "node-0", epoch: 1, seq: 2, index: 1}, entries())); got != isNews {
		t.Errorf("news about what is held: %v", got)
	}
	s.expire(func(node string) bool { return node == "node-0" }, time.Unix(0, 0))
	if s.claims("node-1").Len() != 0 || s.claims("node-0").Len() == 0 || s.bytes != s.tables["node-0"].bytes {
		t.Errorf("after the others are gone, %d bytes are kept", s.bytes)
	}
}

// What this process's predecessor claimed is known until this one has said what it claims, and that it will stand by it.
func TestStoreKnowsItsFormerClaims(t *testing.T) {
	t.Parallel()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	former := func(epoch uint64) *chunk {
		return newChunk(chunk{node: "self", epoch: epoch, seq: 9, whole: 1}, []entry{{a, Claim{Term: 4}}, {b, Claim{Term: 5}}})
	}
	for name, epoch := range map[string]uint64{"clock is right": 50, "clock has gone back": 500, "same moment": 100} {
		s := newStore("self", 100, time.Unix(0, 0))
		s.setOwn(Info{Abstains: true})
		own := map[netip.Addr]Claim{a: {Term: 6}}
		s.setClaims(own)
		got, want := s.mergeChunk(former(epoch)), wasKnown
		if epoch >= 100 {
			want = isAhead
		}
		if got != want {
			t.Errorf("%s: result %v, want %v", name, got, want)
		}
		if after := s.own().epoch; epoch >= 100 && after <= epoch || s.pack.epoch != after || !s.own().info.Abstains {
			t.Errorf("%s: epoch is %d, that of claims %d", name, after, s.pack.epoch)
		}
		if epoch != 100 && s.former.current().Len() != 2 {
			t.Errorf("%s: former claims are %v", name, asMap(s.former.current()))
		}
		if got := asMap(s.claims("self")); !maps.Equal(got, own) {
			t.Errorf("%s: own claims are %v", name, got)
		}
		// An echo of what this process said, also before it moved its epoch.
		for _, c := range []*chunk{s.pack.chunk(0), newChunk(chunk{node: "self", epoch: 100, seq: 1}, []entry{{b, Claim{}}})} {
			before := s.own().epoch
			if c.epoch == before && !s.knows(c) {
				t.Errorf("%s: an echo is not known", name)
			}
			if s.mergeChunk(c); epoch >= 100 && s.own().epoch != before {
				t.Errorf("%s: an echo of this life moved the epoch", name)
			}
		}
		s.setOwn(Info{})
		if changed := s.spoken(); !slices.Equal(changed, []int{0}) || s.pack.chunk(0).whole != 1 {
			t.Errorf("%s: chunks %v tell that the speaker speaks for itself", name, changed)
		}
		s.setOwn(Info{Abstains: true}) // nothing takes that back
		s.spoken()
		s.mergeChunk(former(40))
		if s.former.current() != noClaims {
			t.Errorf("%s: former claims are still known", name)
		}
		if c := s.pack.chunk(0); c.whole != 1 {
			t.Errorf("%s: chunk is %+v", name, c)
		}
	}
}

// Others let go of a former process's claims in the same moment.
func TestStoreHandsOverToTheNextProcess(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	former, next := newStore("n", 5, now), newStore("n", 6, now)
	s := newStore("self", 1, now)
	hear := func(from *store) {
		s.merge(from.own(), now)
		for _, c := range from.pack.table.all(nil) {
			s.mergeChunk(c)
		}
	}
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	former.setClaims(map[netip.Addr]Claim{a: {Term: 1}, b: {Term: 1}})
	hear(former)
	next.setOwn(Info{Abstains: true})
	for _, step := range []struct {
		what string
		do   func()
		want map[netip.Addr]Claim
	}{
		{"it abstains", func() {}, map[netip.Addr]Claim{a: {Term: 1}, b: {Term: 1}}},
		{"it resumes one", func() { next.setClaims(map[netip.Addr]Claim{a: {Term: 2}}) }, map[netip.Addr]Claim{a: {Term: 2}, b: {Term: 1}}},
		{"it stands by that", func() { next.setOwn(Info{}); next.spoken() }, map[netip.Addr]Claim{a: {Term: 2}}},
		{"an echo of the former", func() { hear(former) }, map[netip.Addr]Claim{a: {Term: 2}}},
		{"it gives up all", func() { next.setClaims(nil) }, nil},
	} {
		step.do()
		hear(next)
		if got := asMap(s.claims("n")); !maps.Equal(got, step.want) {
			t.Errorf("when %s, it claims %v, want %v", step.what, got, step.want)
		}
	}

	// A speaker of the first release claims nothing: what one before it claimed is void.
	former.setClaims(map[netip.Addr]Claim{a: {Term: 1}})
	s = newStore("self", 1, now)
	hear(former)
	first := newRecord("n", 7, 1, Info{Abstains: true})
	first.claims = false
	s.merge(first, now)
	if s.claims("n").Len() != 1 {
		t.Error("claims are void though the successor abstains")
	}
	first = newRecord("n", 7, 2, Info{})
	first.claims = false
	s.merge(first, now)
	if s.claims("n").Len() != 0 || s.bytes != 0 {
		t.Error("claims outlive a downgrade")
	}
}
