package ownership

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/berth-lb/berth/internal/election"
)

var addr = netip.MustParseAddr("192.0.2.1")

// nodesOf makes nodes a, b, c… of which those named in changes differ.
func nodesOf(n int, changes map[string]func(*Node)) []Node {
	nodes := make([]Node, n)
	for i := range nodes {
		name := string(rune('a' + i))
		nodes[i].Key = election.NewNode(name)
		if change := changes[name]; change != nil {
			change(&nodes[i])
		}
	}
	return nodes
}

func down(n *Node)     { n.State = Down }
func orphaned(n *Node) { n.State = Orphaned }
func joining(n *Node)  { n.Joining = true }

func everyone(n int) []Candidate {
	all := make([]Candidate, n)
	for i := range all {
		all[i].Node = i
	}
	return all
}

func TestDecide(t *testing.T) {
	t.Parallel()
	settled := Self{Settled: true}
	elected := Candidate{Node: electedOf(3)}.Node // of a, b, c for addr
	other := (elected + 1) % 3
	tests := []struct {
		name       string
		changes    map[string]func(*Node)
		claims     map[int]Claim
		candidates []Candidate
		self       Self // its Node is filled in from who
		who        int
		want       Decision
	}{
		{
			name: "first owner claims term 1", candidates: everyone(3), self: settled, who: elected,
			want: Decision{Owner: elected, Answer: true, Claims: true, Claim: Claim{Term: 1}, First: true},
		},
		{
			name: "who is not elected does nothing", candidates: everyone(3), self: settled, who: other,
			want: Decision{Owner: elected},
		},
		{
			name: "nothing is taken in doubt", candidates: everyone(3), who: elected,
			want: Decision{Owner: elected},
		},
		{
			name: "nothing is taken in isolation", candidates: everyone(3), self: Self{Settled: true, Isolated: true}, who: elected,
			want: Decision{Owner: elected},
		},
		{
			name: "an owner stays though another is elected", candidates: everyone(3), self: settled, who: elected,
			claims: map[int]Claim{other: {Term: 4}},
			want:   Decision{Owner: other},
		},
		{
			name: "an owner keeps its term, even in doubt", candidates: everyone(3), who: other,
			claims: map[int]Claim{other: {Term: 4}},
			want:   Decision{Owner: other, Answer: true, Claims: true, Claim: Claim{Term: 4}},
		},
		{
			name: "a dead owner is followed in the next term", candidates: everyone(3), self: settled, who: electedOf(3),
			changes: map[string]func(*Node){nameOf(other): down}, claims: map[int]Claim{other: {Term: 4}},
			want: Decision{Owner: elected, Answer: true, Claims: true, Claim: Claim{Term: 5}},
		},
		{
			name: "an orphaned owner stays", candidates: everyone(3), self: settled, who: elected,
			changes: map[string]func(*Node){nameOf(other): orphaned}, claims: map[int]Claim{other: {Term: 4}},
			want: Decision{Owner: other},
		},
		{
			name: "a joining owner stays", candidates: everyone(3), self: settled, who: elected,
			changes: map[string]func(*Node){nameOf(other): joining}, claims: map[int]Claim{other: {Term: 4}},
			want: Decision{Owner: other},
		},
		{
			name: "the later term wins", candidates: everyone(3), self: settled, who: elected,
			claims: map[int]Claim{elected: {Term: 4}, other: {Term: 5}},
			want:   Decision{Owner: other},
		},
		{
			name: "a majority's claim wins over a later one of a minority", candidates: everyone(3), self: settled, who: elected,
			claims: map[int]Claim{elected: {Term: 4}, other: {Term: 5, Provisional: true}},
			want:   Decision{Owner: elected, Answer: true, Claims: true, Claim: Claim{Term: 6}},
		},
		{
			name: "of equal claims the elected node's wins", candidates: everyone(3), self: settled, who: elected,
			claims: map[int]Claim{elected: {Term: 4}, other: {Term: 4}},
			want:   Decision{Owner: elected, Answer: true, Claims: true, Claim: Claim{Term: 4}},
		},
		{
			name: "an owner that may not be one answers until another claims", self: settled, who: other,
			candidates: []Candidate{{Node: elected}}, claims: map[int]Claim{other: {Term: 4}},
			want: Decision{Owner: elected, Answer: true, Claims: true, Claim: Claim{Term: 4}},
		},
		{
			name: "its successor claims the next term", self: settled, who: elected,
			candidates: []Candidate{{Node: elected}}, claims: map[int]Claim{other: {Term: 4}},
			want: Decision{Owner: elected, Answer: true, Claims: true, Claim: Claim{Term: 5}},
		},
		{
			name: "with nobody to follow it is silent but keeps its claim", self: settled, who: other,
			claims: map[int]Claim{other: {Term: 4}},
			want:   Decision{Owner: -1, Claims: true, Claim: Claim{Term: 4}},
		},
		{
			name: "a higher tier moves an owner", self: settled, who: other,
			candidates: []Candidate{{Node: elected, Tier: 1}, {Node: other}}, claims: map[int]Claim{other: {Term: 4}},
			want: Decision{Owner: elected, Answer: true, Claims: true, Claim: Claim{Term: 4}},
		},
		{
			name: "a higher tier that cannot take moves nobody", self: settled, who: other,
			changes:    map[string]func(*Node){nameOf(elected): joining},
			candidates: []Candidate{{Node: elected, Tier: 1}, {Node: other}}, claims: map[int]Claim{other: {Term: 4}},
			want: Decision{Owner: other, Answer: true, Claims: true, Claim: Claim{Term: 4}},
		},
		{
			name: "preference does not move an owner", self: settled, who: other,
			candidates: []Candidate{{Node: elected, Preference: 9}, {Node: other}}, claims: map[int]Claim{other: {Term: 4}},
			want: Decision{Owner: other, Answer: true, Claims: true, Claim: Claim{Term: 4}},
		},
		{
			name: "an offer is taken", self: settled, who: elected, candidates: everyone(3),
			claims: map[int]Claim{other: {Term: 4, To: nameOf(elected)}},
			want:   Decision{Owner: elected, Answer: true, Claims: true, Claim: Claim{Term: 5}},
		},
		{
			name: "an offer to who cannot take it is none", self: settled, who: other, candidates: everyone(3),
			changes: map[string]func(*Node){nameOf(elected): down},
			claims:  map[int]Claim{other: {Term: 4, To: nameOf(elected)}},
			want:    Decision{Owner: other, Answer: true, Claims: true, Claim: Claim{Term: 4, To: nameOf(elected)}},
		},
		{
			name: "a minority's claims are provisional", self: Self{Settled: true, Minority: true}, who: other, candidates: everyone(3),
			claims: map[int]Claim{other: {Term: 4}},
			want:   Decision{Owner: other, Answer: true, Claims: true, Claim: Claim{Term: 4, Provisional: true}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := NewBook(nodesOf(3, tt.changes))
			for node, c := range tt.claims {
				b.Add(node, addr, c)
			}
			tt.self.Node = tt.who
			if got := b.Decide(addr, tt.candidates, tt.self); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func nameOf(i int) string { return string(rune('a' + i)) }

// electedOf returns which of the first n nodes addr elects.
func electedOf(n int) int {
	var cs []election.Candidate
	for _, node := range nodesOf(n, nil) {
		cs = append(cs, election.Candidate{Node: node.Key})
	}
	return election.Owner(addr, cs)
}

func addrs(n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		all[i] = netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
	}
	return all
}

// New addresses go evenly to nodes, in zones in proportion to their nodes, and preferred nodes get them all.
func TestSpread(t *testing.T) {
	t.Parallel()
	zones := map[string]func(*Node){
		"a": func(n *Node) { n.Zone = "x" }, "b": func(n *Node) { n.Zone = "x" }, "c": func(n *Node) { n.Zone = "x" },
		"d": func(n *Node) { n.Zone = "y" },
	}
	for _, count := range []int{3, 30, 1001} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			t.Parallel()
			b := NewBook(nodesOf(4, zones))
			for _, a := range addrs(count) {
				b.Decide(a, everyone(4), Self{Settled: true})
			}
			if slices.Max(b.loads)-slices.Min(b.loads) > 2 {
				t.Errorf("loads %v", b.loads)
			}
			b = NewBook(nodesOf(4, zones))
			preferred := everyone(4)
			preferred[2].Preference = 50
			for _, a := range addrs(count) {
				b.Decide(a, preferred, Self{Settled: true})
			}
			if b.loads[2] != count {
				t.Errorf("loads %v; the preferred node should have all", b.loads)
			}
		})
	}
}

// A failed node's addresses are spread over the others, whose own stay.
func TestFailureSpreads(t *testing.T) {
	t.Parallel()
	nodes := nodesOf(5, map[string]func(*Node){"a": down})
	b := NewBook(nodes)
	all := addrs(500)
	for i, a := range all {
		b.Add(i%5, a, Claim{Term: 1})
	}
	for i, a := range all {
		d := b.Decide(a, everyone(5), Self{Node: 1, Settled: true})
		if i%5 != 0 && d.Owner != i%5 {
			t.Fatalf("%s moved from %d to %d", a, i%5, d.Owner)
		}
	}
	if b.loads[0] != 0 || slices.Max(b.loads[1:])-slices.Min(b.loads[1:]) > 1 {
		t.Errorf("loads %v", b.loads)
	}
}

// A rebalance, each node deciding for itself, ends with an even spread, and then offers nothing more.
func TestRebalance(t *testing.T) {
	t.Parallel()
	nodes := nodesOf(4, nil)
	all := addrs(41)
	holder := map[netip.Addr]int{}
	for i, a := range all {
		holder[a] = i % 2
	}
	for round := 0; ; round++ {
		if round > len(all) {
			t.Fatal("no end of moves")
		}
		offers := map[netip.Addr]int{}
		for self := range nodes {
			b := NewBook(nodes)
			for a, n := range holder {
				b.Add(n, a, Claim{Term: 1})
			}
			for _, a := range all {
				if to := b.Better(a, everyone(4), Self{Node: self, Settled: true}); to >= 0 {
					offers[a] = to
					break
				}
			}
		}
		if len(offers) == 0 {
			break
		}
		for a, to := range offers {
			holder[a] = to
		}
	}
	loads := make([]int, 4)
	for _, n := range holder {
		loads[n]++
	}
	if slices.Max(loads)-slices.Min(loads) > 1 {
		t.Errorf("loads %v", loads)
	}
}
