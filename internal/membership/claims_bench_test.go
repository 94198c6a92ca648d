package membership

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
)

const manyAddresses = 10_000

// flip returns the claims with the one to a certain address changed, a different one every time.
func flip(claims map[netip.Addr]Claim, i int) map[netip.Addr]Claim {
	claims[netip.MustParseAddr("198.18.0.0")] = Claim{Term: uint64(2 + i%2)}
	return claims
}

// BenchmarkSetOne is what it costs a speaker with 10,000 addresses to change the claim to one: comparing, packing, and
// making the new snapshot.
func BenchmarkSetOne(b *testing.B) {
	p, claims := newPacker("node-1.example.com", 1), manyClaims(manyAddresses, 1)
	p.set(claims, true)
	p.table.current()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		changed, _ := p.set(flip(claims, i), true)
		if p.table.current(); len(changed) != 1 {
			b.Fatalf("%d chunks", len(changed))
		}
	}
}

// BenchmarkSetNone is what it costs to say the same again.
func BenchmarkSetNone(b *testing.B) {
	p, claims := newPacker("node-1.example.com", 1), manyClaims(manyAddresses, 1)
	p.set(claims, true)
	b.ReportAllocs()
	for b.Loop() {
		p.set(claims, true)
	}
}

// BenchmarkSetAll is what it costs to claim 10,000 addresses at once.
func BenchmarkSetAll(b *testing.B) {
	claims := manyClaims(manyAddresses, 1)
	b.ReportAllocs()
	for b.Loop() {
		p := newPacker("node-1.example.com", 1)
		p.set(claims, true)
		p.table.current()
	}
}

// BenchmarkHearOne is what the changed claim costs every other speaker, from the packet to the new snapshot.
func BenchmarkHearOne(b *testing.B) {
	p, claims := newPacker("node-1.example.com", 1), manyClaims(manyAddresses, 1)
	s := newStore("node-2", 1, time.Unix(0, 0))
	changed, _ := p.set(claims, true)
	for _, c := range changed {
		s.mergeChunk(c)
	}
	s.claims(p.node)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		changed, _ := p.set(flip(claims, i), true)
		packet := chunkMessage(changed[0])
		b.StartTimer()
		msg, err := decodeMessage(packet, s.knows)
		if err != nil || s.mergeChunk(msg.chunks[0]) != isNews {
			b.Fatal(err)
		}
		s.claims(p.node)
	}
}

// BenchmarkHearState is what a full state with 10,000 addresses costs a speaker that knows nothing, and one that knows it.
func BenchmarkHearState(b *testing.B) {
	from := newStore("node-1.example.com", 1, time.Unix(0, 0))
	from.setClaims(manyClaims(manyAddresses, 1))
	state := stateMessage(from.items(from.self)...)
	known := newStore("node-2", 1, time.Unix(0, 0))
	hear := func(s *store) {
		msg, err := decodeMessage(state, s.knows)
		if err != nil {
			b.Fatal(err)
		}
		for _, c := range msg.chunks {
			s.mergeChunk(c)
		}
		if s.claims(from.self).Len() != manyAddresses {
			b.Fatal("not all is known")
		}
	}
	for name, to := range map[string]func() *store{
		"new":   func() *store { return newStore("node-2", 1, time.Unix(0, 0)) },
		"known": func() *store { return known },
	} {
		b.Run(name, func(b *testing.B) {
			hear(to())
			b.ReportAllocs()
			for b.Loop() {
				hear(to())
			}
			b.ReportMetric(float64(len(state)), "bytes")
		})
	}
}

// BenchmarkTellState is making that state.
func BenchmarkTellState(b *testing.B) {
	s := newStore("node-1.example.com", 1, time.Unix(0, 0))
	s.setClaims(manyClaims(manyAddresses, 1))
	b.ReportAllocs()
	for b.Loop() {
		stateMessage(s.items(s.self)...)
	}
}

func BenchmarkGetClaim(b *testing.B) {
	c := NewClaims(manyClaims(manyAddresses, 1))
	a := netip.MustParseAddr("198.18.1.0")
	for b.Loop() {
		if _, ok := c.Get(a); !ok {
			b.Fatal("not claimed")
		}
	}
}

// BenchmarkClaimSpreads measures from SetClaims, with 10,000 addresses of which one has changed, until the last of three
// speakers sees that in its view. The speakers share this machine.
func BenchmarkClaimSpreads(b *testing.B) {
	speakers := newNetwork().startAll(b, 3)
	claims := manyClaims(manyAddresses, 1)
	speakers[0].SetClaims(claims)
	awaitClaims(b, "node-1", claims, speakers...)
	one := netip.MustParseAddr("198.18.0.0")
	for i := 0; b.Loop(); i++ {
		claims = flip(claims, i)
		speakers[0].SetClaims(claims)
		for _, s := range speakers[1:] {
			for deadline := time.Now().Add(patience); ; {
				if got, _ := s.View().Member("node-1").Claims.Get(one); got == claims[one] {
					break
				}
				if time.Now().After(deadline) {
					b.Fatal("one speaker never learns")
				}
				<-s.Changes()
			}
		}
	}
}

// BenchmarkView is what a packet costs a speaker among 100 that claim 100 addresses each: merging and the new view.
func BenchmarkView(b *testing.B) {
	m, err := New(Config{Node: "self", Bind: newBind(), Logger: log.NewNopLogger(), Metrics: NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		b.Fatal(err)
	}
	var packers []*packer
	claims := manyClaims(100, 1)
	for i := range 100 {
		p := newPacker("node-"+string(rune('a'+i/10))+string(rune('a'+i%10)), 1)
		m.alive[p.node] = newBind()
		m.receive(recordMessage(newRecord(p.node, 1, 1, links("eth0", "eth1"))))
		changed, _ := p.set(claims, true)
		for _, c := range changed {
			m.receive(chunkMessage(c))
		}
		packers = append(packers, p)
	}
	claims = maps.Clone(claims)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		changed, _ := packers[i/2%100].set(flip(claims, i), true)
		packet := chunkMessage(changed[0])
		before := m.View()
		b.StartTimer()
		if m.receive(packet); m.View() == before {
			b.Fatal("nothing was new")
		}
	}
}
