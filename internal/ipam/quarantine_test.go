package ipam

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// setQuarantine quarantines some addresses, rather such as somebody has. Nobody loses one.
func (m *machine) setQuarantine(t *rapid.T) {
	before := m.holdings()
	var had []netip.Addr
	for _, o := range slices.SortedFunc(maps.Keys(before), Owner.Compare) {
		had = append(had, before[o]...)
	}
	was := m.model.quarantine
	m.model.quarantine = nil
	for range rapid.IntRange(0, 6).Draw(t, "quarantined") {
		a := universe(rapid.SampledFrom(families[:]).Draw(t, "family"), rapid.IntRange(0, blocks*blockSize-1).Draw(t, "address"))
		if len(had) > 0 && rapid.Bool().Draw(t, "assigned") {
			a = rapid.SampledFrom(had).Draw(t, "which")
		}
		m.model.quarantine = append(m.model.quarantine, a)
	}
	want := slices.ContainsFunc(was, func(a netip.Addr) bool { return !slices.Contains(m.model.quarantine, a) })
	if got := m.real.SetQuarantine(m.model.quarantine); got != want {
		t.Fatalf("SetQuarantine(%v) after %v = %v, want %v", m.model.quarantine, was, got, want)
	}
	if d := cmp.Diff(before, m.holdings(), cmpAddr); d != "" {
		t.Fatalf("SetQuarantine moved addresses:\n%s", d)
	}
	if m.real.SetQuarantine(m.model.quarantine) {
		t.Fatal("the same quarantine frees something")
	}
}

// replace gives the owners of an address another.
func (m *machine) replace(t *rapid.T) {
	before := m.holdings()
	var had []netip.Addr
	for _, o := range slices.SortedFunc(maps.Keys(before), Owner.Compare) {
		had = append(had, before[o]...)
	}
	if len(had) == 0 {
		return
	}
	from := rapid.SampledFrom(had).Draw(t, "replaced")
	owners := m.real.Owners(from)
	var requests []Request
	for _, o := range owners {
		requests = append(requests, m.met[o])
	}
	sameFamily := func(a netip.Addr) bool { return FamilyOf(a) == FamilyOf(from) }
	if slices.ContainsFunc(requests, func(r Request) bool { return slices.ContainsFunc(r.Addresses, sameFamily) }) {
		if _, err := m.real.Replace(from, requests); err == nil {
			t.Fatalf("Replace(%s, %+v): no error though it is asked for", from, requests)
		}
		return
	}
	want, found := m.model.replace(from, requests)
	got, err := m.real.Replace(from, requests)
	var exhausted *ExhaustedError
	if !found && !errors.As(err, &exhausted) || found && err != nil || got != want {
		t.Fatalf("Replace(%s, %+v) = %s, %v, want %s", from, requests, got, err, want)
	}
	after := m.holdings()
	for o, addrs := range before {
		if !slices.Contains(owners, o) || !found {
			continue
		}
		i := slices.Index(addrs, from)
		before[o] = slices.Replace(slices.Clone(addrs), i, i+1, got)
		slices.SortFunc(before[o], netip.Addr.Compare)
		slices.SortFunc(after[o], netip.Addr.Compare)
	}
	if d := cmp.Diff(before, after, cmpAddr); d != "" {
		t.Fatalf("Replace(%s, %+v) = %s (-want +got):\n%s", from, requests, got, d)
	}
}

// replace gives all owners of an address another, by going through all.
func (m *model) replace(from netip.Addr, requests []Request) (netip.Addr, bool) {
	req := requests[0]
	for _, other := range requests {
		req.Pools = slices.DeleteFunc(slices.Clone(req.Pools), func(name string) bool { return !slices.Contains(other.Pools, name) })
	}
	f, alone := FamilyOf(from), len(requests) == 1
	if !alone {
		req.Sharing = nil
	}
	mine := m.owners[req.Owner].addrs
	kept := slices.DeleteFunc(slices.Clone(mine), func(a netip.Addr) bool { return a == from })
	c := &choice{model: m, req: req, mine: mine, byFamily: map[Family][]netip.Addr{}}
	pools := req.Pools
	if beside := append(slices.Clone(req.Addresses), kept...); len(beside) > 0 && slices.Contains(pools, m.poolOf(beside[0])) {
		pools = append([]string{m.poolOf(beside[0])}, pools...)
	}
	candidates := c.preferred(f)
	for _, name := range pools {
		candidates = append(candidates, m.candidates(name, f, req)...)
	}
	for _, to := range candidates {
		if alone {
			c.byFamily = map[Family][]netip.Addr{f: append(slices.Clone(kept), to)}
			if !c.withinQuota(m.poolOf(to)) {
				continue
			}
		} else if !m.mayMove(from, to, req, requests) {
			continue
		}
		for _, r := range requests {
			m.exchange(r, from, to)
		}
		m.note()
		m.rests = slices.DeleteFunc(m.rests, func(r Rest) bool { return r.Address == to })
		m.layToRest(requests[len(requests)-1].Owner, []netip.Addr{from})
		return to, true
	}
	return netip.Addr{}, false
}

// mayMove tells whether all may move together to an address that nobody has.
func (m *model) mayMove(from, to netip.Addr, req Request, requests []Request) bool {
	p, _ := m.pool(m.poolOf(to))
	mixed, open := false, true
	for _, r := range requests {
		mixed = mixed || r.Owner.Namespace != req.Owner.Namespace
		open = open && r.Sharing.AcrossNamespaces
	}
	if !slices.Contains(req.Pools, p.Name) || mixed && !open && !p.ShareAcrossNamespaces {
		return false
	}
	usages := func() map[string]usage {
		out := map[string]usage{}
		for _, r := range requests {
			c := &choice{model: m, req: r}
			out[r.Owner.Namespace] = c.usage(p.Name, m.owners[r.Owner].addrs)
		}
		return out
	}
	before := usages()
	for _, r := range requests {
		m.exchange(r, from, to)
	}
	after := usages()
	for _, r := range requests {
		m.exchange(r, to, from)
	}
	for namespace, had := range before {
		will := after[namespace]
		if p.Quota.Addresses > 0 && will.addresses > max(had.addresses, p.Quota.Addresses) ||
			p.Quota.Services > 0 && will.services > max(had.services, p.Quota.Services) {
			return false
		}
	}
	return true
}

// exchange gives an owner one address for another.
func (m *model) exchange(r Request, from, to netip.Addr) {
	mo := m.owners[r.Owner]
	mo.addrs = append(slices.DeleteFunc(slices.Clone(mo.addrs), func(a netip.Addr) bool { return a == from }), to)
	slices.SortStableFunc(mo.addrs, func(a, b netip.Addr) int {
		rank := func(a netip.Addr) int {
			return slices.Index(r.Families, FamilyOf(a))*10 + slices.Index(r.Addresses, a)
		}
		return rank(a) - rank(b)
	})
	mo.restored, mo.named = false, nil
	if r.Named {
		mo.named = r.Pools
	}
}

// TestReplaceErrors: requests that are not those of the owners change nothing.
func TestReplaceErrors(t *testing.T) {
	t.Parallel()
	a := New()
	if _, err := a.SetPools([]Pool{{Name: "p", Ranges: []Range{{universe(IPv4, 0), universe(IPv4, 3)}}}}); err != nil {
		t.Fatal(err)
	}
	sharing := func(port uint16) *Sharing { return &Sharing{Key: "k", Ports: []Port{{TCP, port}}} }
	request := func(name string, s *Sharing) Request {
		return Request{Owner: Owner{"red", name}, Families: []Family{IPv4}, Pools: []string{"p"}, Sharing: s}
	}
	one, two, other := request("a", sharing(1)), request("b", sharing(2)), request("c", nil)
	for _, req := range []Request{one, two, other} {
		if _, err := a.Allocate(req); err != nil {
			t.Fatal(err)
		}
	}
	asks, sixth := one, one
	asks.Addresses, sixth.Families = []netip.Addr{universe(IPv4, 0)}, []Family{IPv6}
	for name, test := range map[string]struct {
		from     netip.Addr
		requests []Request
	}{
		"nobody has it":      {universe(IPv4, 3), []Request{one}},
		"no request":         {universe(IPv4, 0), nil},
		"one is missing":     {universe(IPv4, 0), []Request{one}},
		"one is there twice": {universe(IPv4, 0), []Request{one, one}},
		"one is another's":   {universe(IPv4, 0), []Request{one, other}},
		"asks for it":        {universe(IPv4, 0), []Request{asks, two}},
		"another family":     {universe(IPv4, 0), []Request{sixth, two}},
		"other sharing":      {universe(IPv4, 0), []Request{one, request("b", sharing(3))}},
		"malformed":          {universe(IPv4, 0), []Request{one, {Owner: two.Owner}}},
		"no address":         {netip.Addr{}, []Request{one}},
	} {
		if _, err := a.Replace(test.from, test.requests); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if owners := a.Owners(universe(IPv4, 0)); len(owners) != 2 {
		t.Errorf("owners are %v", owners)
	}
	to, err := a.Replace(universe(IPv4, 0), []Request{one, two})
	if err != nil || to != universe(IPv4, 2) || len(a.Owners(to)) != 2 {
		t.Errorf("Replace = %s, %v; its owners are %v", to, err, a.Owners(to))
	}
}
