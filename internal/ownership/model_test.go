package ownership

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-lb/berth/internal/election"
)

// The model: speakers that decide by Book about a few addresses, tell each other their claims over a network that
// delays, drops and reorders, and judge each other late and not all at the same time. Whatever happens, soon after it
// is over each side of the network has exactly one owner for each address that anybody there may own, and nothing has
// moved that did not have to.

// said is what a speaker told at some time. Later versions replace earlier ones, however late those arrive.
type said struct {
	from, version int
	joining       bool
	// What it claims has a version of its own: a speaker that joins has said nothing of that yet.
	claimed int
	claims  map[netip.Addr]Claim
}

type speaker struct {
	said             // its own
	running  bool    // its process
	heard    []said  // by node, of the others
	judged   []State // of the others
	side     int     // who has another side does not hear it
	excluded bool    // is not to own anything
	draining bool    // is to own nothing if another can
	alone    bool    // isolated, no witness
	answers  []netip.Addr
	owners   map[netip.Addr]int
	count    int // of what it ever claimed
}

func (s *speaker) next() int {
	s.count++
	return s.count
}

type message struct {
	to int
	said
}

type model struct {
	t        *rapid.T
	rng      *rand.Rand
	addrs    []netip.Addr
	keys     []election.Node
	speakers []*speaker
	flying   []message
	// owners are those of the last time when all was calm, by side and address.
	owners []map[netip.Addr]int
	// disturbed are nodes that lost or gained something since: what they had may move.
	disturbed map[int]bool
	healed    bool
	// tangled says that a speaker was away during a partition: who of those that thought it theirs has the address
	// afterwards is as well decided one way as the other.
	tangled bool
}

func newModel(t *rapid.T) *model {
	m := &model{
		t: t, rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), addrs: addrs(rapid.IntRange(1, 12).Draw(t, "addresses")),
		disturbed: map[int]bool{},
	}
	n := rapid.IntRange(2, 6).Draw(t, "nodes")
	for i := range n {
		m.keys = append(m.keys, election.NewNode(nameOf(i)))
		m.speakers = append(m.speakers, &speaker{
			said: said{from: i, version: 1}, running: true, heard: make([]said, n), judged: make([]State, n),
		})
	}
	for _, s := range m.speakers {
		for j := range s.heard {
			s.heard[j].from = j
		}
	}
	m.calm()
	return m
}

// truth is what the node with index i should think of j.
func (m *model) truth(i, j int) State {
	switch other := m.speakers[j]; {
	case other.side != m.speakers[i].side:
		return Down
	case !other.running:
		return Orphaned
	}
	return Up
}

func (m *model) candidates() []Candidate {
	var all []Candidate
	for i, s := range m.speakers {
		if !s.excluded {
			c := Candidate{Node: i}
			if s.draining {
				c.Tier = -1
			}
			all = append(all, c)
		}
	}
	return all
}

// decide has node i make up its mind, and tell the others if that is news.
func (m *model) decide(i int) {
	s := m.speakers[i]
	if !s.running {
		return
	}
	nodes, seen := make([]Node, len(m.speakers)), 0
	for j := range nodes {
		nodes[j] = Node{Key: m.keys[j], State: s.judged[j], Joining: s.heard[j].joining}
		if j == i {
			nodes[j].State, nodes[j].Joining = Up, s.joining
		}
		if nodes[j].State != Down {
			seen++
		}
	}
	minority := 2*seen < len(nodes) || 2*seen == len(nodes) && i != 0 && s.judged[0] == Down
	b := NewBook(nodes)
	for j := range nodes {
		claims := s.heard[j].claims
		if j == i && !s.joining {
			claims = s.claims
		}
		for a, c := range claims {
			b.Add(j, a, c)
		}
	}
	self := Self{Node: i, Settled: !s.joining, Isolated: s.alone && seen == 1, Minority: minority}
	claims := map[netip.Addr]Claim{}
	s.answers, s.owners = s.answers[:0], map[netip.Addr]int{}
	for _, a := range m.addrs {
		d := b.Decide(a, m.candidates(), self)
		if d.Claims {
			claims[a] = d.Claim
		}
		s.owners[a] = d.Owner
		if d.Answer {
			s.answers = append(s.answers, a)
		}
	}
	if s.joining {
		s.claims = claims // and says so when it has joined
	} else if !maps.Equal(claims, s.claims) {
		s.claims, s.claimed = claims, s.next()
		m.tell(i)
	}
}

func (m *model) tell(i int) {
	s := m.speakers[i]
	s.version++
	for j := range m.speakers {
		if j != i {
			m.flying = append(m.flying, message{to: j, said: s.said})
		}
	}
}

func (m *model) deliver(at int) {
	msg := m.flying[at]
	m.flying = slices.Delete(m.flying, at, at+1)
	s := m.speakers[msg.to]
	if s.running && m.speakers[msg.from].side == s.side {
		s.hear(msg.said)
	}
}

// calm lets all messages arrive, all judgements become right and all speakers decide until nothing changes any more.
func (m *model) calm() {
	for range 40 {
		before := fmt.Sprint(m.claims())
		for i, s := range m.speakers {
			for j, other := range m.speakers {
				if i != j {
					s.judged[j] = m.truth(i, j)
				}
				if i != j && s.running && other.running && s.side == other.side {
					m.exchange(s, other)
				}
			}
		}
		for i, s := range m.speakers {
			if s.running && s.joining {
				m.decide(i)
				s.joining, s.claimed = false, s.next()
				m.tell(i)
			}
		}
		m.flying = nil
		for _, i := range m.rng.Perm(len(m.speakers)) {
			m.decide(i)
		}
		if fmt.Sprint(m.claims()) == before {
			m.check()
			return
		}
	}
	m.t.Fatalf("no end of moves: %v", m.claims())
}

// exchange has a speaker learn what another knows, also about itself in a former life.
func (m *model) exchange(s, other *speaker) {
	s.hear(other.said)
	for _, known := range other.heard {
		s.hear(known)
	}
}

// hear takes in what is said of another speaker, or of itself in a former life.
func (s *speaker) hear(now said) {
	old := &s.heard[now.from]
	if now.version > old.version {
		old.version, old.joining = now.version, now.joining
	}
	if now.claimed > old.claimed {
		old.claimed, old.claims = now.claimed, now.claims
	}
}

func (m *model) claims() []map[netip.Addr]Claim {
	var all []map[netip.Addr]Claim
	for _, s := range m.speakers {
		all = append(all, s.claims)
	}
	return all
}

// holders returns who has an address on each side: the owner that its running speakers agree on, which may be an orphan
// for which others answer; and whoever else answers.
func (m *model) holders(a netip.Addr) map[int][]int {
	holders := map[int][]int{}
	add := func(side, i int) {
		if !slices.Contains(holders[side], i) {
			holders[side] = append(holders[side], i)
		}
	}
	for i, s := range m.speakers {
		if !s.running {
			continue
		}
		if owner := s.owners[a]; owner >= 0 {
			add(s.side, owner)
		}
		if slices.Contains(s.answers, a) {
			add(s.side, i)
		} else if s.owners[a] == i && !s.alone {
			m.t.Fatalf("%d owns %s and does not answer: %v", i, a, m.claims())
		}
	}
	return holders
}

// able says whether anybody on a side can take an address.
func (m *model) able(side int) bool {
	sees := 0
	for _, s := range m.speakers {
		if s.side == side {
			sees++
		}
	}
	return slices.ContainsFunc(m.speakers, func(s *speaker) bool {
		return s.side == side && s.running && !s.excluded && (!s.alone || sees > 1)
	})
}

func (m *model) check() {
	owners := make([]map[netip.Addr]int, 2)
	for side := range owners {
		owners[side] = map[netip.Addr]int{}
	}
	for _, a := range m.addrs {
		for side, holders := range m.holders(a) {
			if len(holders) > 1 {
				m.t.Fatalf("on side %d, %v answer for %s: %v", side, holders, a, m.claims())
			}
			if m.able(side) {
				owners[side][a] = holders[0]
			}
		}
		for side := range owners {
			if _, owned := owners[side][a]; m.able(side) && !owned {
				m.t.Fatalf("on side %d, nobody answers for %s: %v", side, a, m.claims())
			}
		}
	}
	m.checkStays(owners)
	m.owners, m.healed = owners, false
	clear(m.disturbed)
}

// checkStays checks that an address stays with an owner to whom nothing has happened. Where two sides have met, it
// stays with one of the two that had it.
func (m *model) checkStays(owners []map[netip.Addr]int) {
	if m.owners == nil || m.tangled {
		return
	}
	for _, a := range m.addrs {
		var before []int
		for _, side := range m.owners {
			if i, owned := side[a]; owned && !m.disturbed[i] && !m.speakers[i].draining && !m.speakers[i].excluded {
				before = append(before, i)
			}
		}
		for _, i := range before {
			now, owned := owners[m.speakers[i].side][a]
			if owned && now != i && (!m.healed || len(before) > 1 && !slices.Contains(before, now)) {
				m.t.Fatalf("%s moved from %d, to whom nothing had happened, to %d", a, i, now)
			}
		}
	}
}

// tangle notes whether a speaker is away and there is a partition.
func (m *model) tangle() {
	away, sides := false, map[int]bool{}
	for _, s := range m.speakers {
		away = away || !s.running || s.joining
		sides[s.side] = true
	}
	m.tangled = m.tangled || away && len(sides) > 1
}

// forget notes that on a side without a running speaker nobody knows who had what.
func (m *model) forget() {
	for side := range 2 {
		if slices.ContainsFunc(m.speakers, func(s *speaker) bool { return s.side == side && s.running && !s.joining }) {
			continue
		}
		for i, s := range m.speakers {
			if s.side == side {
				m.disturbed[i] = true
			}
		}
	}
}

func (m *model) draw() (int, *speaker) {
	i := rapid.IntRange(0, len(m.speakers)-1).Draw(m.t, "node")
	return i, m.speakers[i]
}

// actions are what can happen. Each leaves the disturbance it makes to what follows.
func (m *model) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"": func(*rapid.T) {},
		"decide": func(*rapid.T) {
			i, _ := m.draw()
			m.decide(i)
		},
		"deliver": func(t *rapid.T) {
			for range min(len(m.flying), 3) {
				m.deliver(rapid.IntRange(0, len(m.flying)-1).Draw(t, "message"))
			}
		},
		"drop": func(t *rapid.T) {
			if len(m.flying) > 0 {
				i := rapid.IntRange(0, len(m.flying)-1).Draw(t, "message")
				m.flying = slices.Delete(m.flying, i, i+1)
			}
		},
		"notice": func(t *rapid.T) {
			i, s := m.draw()
			if j, _ := m.draw(); i != j {
				s.judged[j] = m.truth(i, j)
			}
		},
		"part": func(t *rapid.T) {
			i, s := m.draw()
			s.side = 1 - s.side
			s.alone = rapid.Bool().Draw(t, "no witness")
			m.disturbed[i] = true
			m.healed = true
			m.forget()
			m.tangle()
		},
		"crash": func(*rapid.T) {
			i, s := m.draw()
			s.running, s.answers = false, nil
			m.forget()
			m.tangle()
			// What nobody has heard of yet is lost.
			m.disturbed[i] = m.disturbed[i] || !slices.ContainsFunc(m.speakers, func(other *speaker) bool {
				return other.running && other.side == s.side && other.heard[i].claimed == s.claimed
			})
		},
		"restart": func(*rapid.T) {
			i, s := m.draw()
			if !s.running {
				s.running, s.joining, s.claims, s.claimed = true, true, nil, 0
				for j := range s.heard {
					s.heard[j] = said{from: j}
				}
				m.tell(i)
			}
		},
		"exclude": func(t *rapid.T) {
			i, s := m.draw()
			s.excluded = rapid.Bool().Draw(t, "excluded")
			m.disturbed[i] = true
		},
		"drain": func(t *rapid.T) {
			i, s := m.draw()
			s.draining = rapid.Bool().Draw(t, "draining")
			m.disturbed[i] = true
		},
		"calm": func(*rapid.T) { m.calm() },
	}
}

func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		t.Repeat(m.actions())
		m.calm()
	})
}

// The larger side keeps what it has when two sides meet.
func TestMajorityKeeps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		lone, s := m.draw()
		s.side, s.alone = 1, rapid.Bool().Draw(t, "no witness")
		m.disturbed[lone] = true
		m.calm()
		if len(m.speakers) < 3 {
			return
		}
		kept := m.owners[0]
		s.side = 0
		m.healed = true
		m.calm()
		for a, i := range kept {
			if now := m.owners[0][a]; now != i {
				t.Fatalf("%s moved from %d to %d when %d came back", a, i, now, lone)
			}
		}
	})
}

// One speaker of 30 decides about 200 addresses.
func BenchmarkDecide(b *testing.B) {
	nodes := nodesOf(30, nil)
	all := addrs(200)
	candidates := everyone(30)
	b.ReportAllocs()
	for b.Loop() {
		book := NewBook(nodes)
		for i, a := range all {
			book.Add(i%30, a, Claim{Term: 1})
		}
		for _, a := range all {
			book.Decide(a, candidates, Self{Settled: true})
		}
	}
}
