package watch

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func ringOf(living map[string]bool) ring {
	var spots []spot
	for name, lives := range living {
		spots = append(spots, newSpot(name, lives))
	}
	return newRing(spots)
}

// TestRingGolden holds the order still: speakers of different versions have to agree on it.
func TestRingGolden(t *testing.T) {
	t.Parallel()
	r := ringOf(map[string]bool{"node-1": true, "node-2": true, "node-3": false, "node-4": true, "node-5": true})
	for name, want := range map[string][]string{
		"node-1":  {"node-2", "node-5", "node-4"},
		"node-3":  {"node-4", "node-1", "node-2"},
		"unknown": {"node-4", "node-1", "node-2"},
	} {
		if got := r.behind(name); !slices.Equal(got, want) {
			t.Errorf("behind %s: %q, want %q", name, got, want)
		}
	}
	if got := ringOf(map[string]bool{"alone": true}).behind("alone"); got != nil {
		t.Errorf("behind the only one: %q", got)
	}
}

// Who shares no network with a node comes last.
func TestRingPrefersNeighbors(t *testing.T) {
	t.Parallel()
	link := func(host byte, rack byte) []Link {
		a := netip.AddrFrom4([4]byte{10, 0, rack, host})
		return []Link{
			{Name: "eth0", MAC: [6]byte{host}, Addr4: a, Prefixes: []netip.Prefix{netip.PrefixFrom(a, 24).Masked()}},
			{Name: "docker0", MAC: [6]byte{200}, Addr4: netip.MustParseAddr("172.17.0.1"), Prefixes: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}},
		}
	}
	var spots []spot
	for i, rack := range []byte{1, 2, 1, 2, 2} { // in the ring: 1 2 5 4 3, and around
		s := newSpot(fmt.Sprint("node-", i+1), true)
		s.links = link(byte(i+1), rack)
		spots = append(spots, s)
	}
	r := newRing(spots)
	for name, want := range map[string][]string{
		"node-1":  {"node-3", "node-2", "node-5"},
		"node-3":  {"node-1", "node-4", "node-2"},
		"node-2":  {"node-5", "node-4", "node-3"},
		"unknown": {"node-4", "node-1", "node-2"},
	} {
		if got := r.behind(name); !slices.Equal(got, want) {
			t.Errorf("behind %s: %q, want %q", name, got, want)
		}
	}
}

func TestRing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		living, count := map[string]bool{}, 0
		for i := range rapid.IntRange(1, 40).Draw(t, "nodes") {
			lives := rapid.Bool().Draw(t, "lives")
			living[fmt.Sprint("node-", i)] = lives
			if lives {
				count++
			}
		}
		r := ringOf(living)
		watches := map[string]int{}
		for name, lives := range living {
			got := r.behind(name)
			want := count
			if lives {
				want--
			}
			if len(got) != min(watchers, want) || len(slices.Compact(slices.Sorted(slices.Values(got)))) != len(got) {
				t.Fatalf("%s has watchers %q", name, got)
			}
			for _, w := range got {
				if w == name || !living[w] {
					t.Fatalf("%s is watched by %s", name, w)
				}
				watches[w]++
			}
		}
		if count == len(living) {
			for w, n := range watches {
				if n != min(watchers, count-1) {
					t.Fatalf("%s watches %d", w, n)
				}
			}
		}
	})
}

func TestTargets(t *testing.T) {
	t.Parallel()
	prefixes := func(all ...string) (out []netip.Prefix) {
		for _, p := range all {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	addr := netip.MustParseAddr
	own := []Link{
		{Name: "eth0", MAC: [6]byte{1}, Prefixes: prefixes("10.0.0.0/24", "2001:db8::/64"), Addr4: addr("10.0.0.1"), Addr6: addr("fe80::1")},
		{Name: "docker0", MAC: [6]byte{9}, Prefixes: prefixes("172.17.0.0/16"), Addr4: addr("172.17.0.1")},
		{Name: "pod", MAC: [6]byte{7}, Prefixes: prefixes("10.1.0.7/32", "fe80::/64"), Addr4: addr("10.1.0.7")},
	}
	for _, c := range []struct {
		name  string
		links []Link
		want  []Target
	}{
		{"none", nil, nil},
		{"IPv4", []Link{{Name: "ens1", MAC: [6]byte{2}, Addr4: addr("10.0.0.2"), Prefixes: prefixes("10.0.0.0/24")}},
			[]Target{{"eth0", addr("10.0.0.2"), [6]byte{2}}}},
		{"IPv4 before IPv6", []Link{{Addr4: addr("10.0.0.2"), Addr6: addr("2001:db8::2"), Prefixes: prefixes("10.0.0.0/24")}},
			[]Target{{"eth0", addr("10.0.0.2"), [6]byte{}}}},
		{"IPv6", []Link{{Addr6: addr("2001:db8::2"), Prefixes: prefixes("2001:db8::/64")}}, []Target{{"eth0", addr("2001:db8::2"), [6]byte{}}}},
		{"link-local on a common subnet", []Link{{Addr6: addr("fe80::2"), Prefixes: prefixes("2001:db8::/64", "fe80::/64")}},
			[]Target{{"eth0", addr("fe80::2"), [6]byte{}}}},
		{"link-local on no common subnet", []Link{{Addr6: addr("fe80::2"), Prefixes: prefixes("fe80::/64")}}, nil},
		{"another subnet", []Link{{Addr4: addr("10.0.1.2"), Prefixes: prefixes("10.0.1.0/24")}}, nil},
		{"a single address is no subnet", []Link{{Addr4: addr("10.1.0.7")}}, nil},
		{"the address is this node's too", []Link{{MAC: [6]byte{8}, Addr4: addr("172.17.0.1"), Prefixes: prefixes("172.17.0.0/16")}}, nil},
		{"the MAC is this node's too", []Link{{MAC: [6]byte{9}, Addr4: addr("172.17.0.9"), Prefixes: prefixes("172.17.0.0/16")}}, nil},
		{"two links", []Link{{MAC: [6]byte{2}, Addr4: addr("10.0.0.2")}, {MAC: [6]byte{3}, Addr4: addr("172.17.0.3")}},
			[]Target{{"eth0", addr("10.0.0.2"), [6]byte{2}}, {"docker0", addr("172.17.0.3"), [6]byte{3}}}},
		{"no more than four", []Link{{Addr4: addr("10.0.0.2")}, {Addr4: addr("10.0.0.3")}, {Addr4: addr("10.0.0.4")}, {Addr4: addr("10.0.0.5")}, {Addr4: addr("10.0.0.6")}},
			[]Target{{"eth0", addr("10.0.0.2"), [6]byte{}}, {"eth0", addr("10.0.0.3"), [6]byte{}}, {"eth0", addr("10.0.0.4"), [6]byte{}}, {"eth0", addr("10.0.0.5"), [6]byte{}}}},
	} {
		if got := targetsOf(own, c.links); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
