package ipam

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseRange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want, err string }{
		{in: "10.0.0.0/24", want: "10.0.0.0-10.0.0.255"},
		{in: "10.0.0.77/24", want: "10.0.0.0-10.0.0.255"},
		{in: "10.0.0.1/32", want: "10.0.0.1"},
		{in: "0.0.0.0/0", want: "0.0.0.0-255.255.255.255"},
		{in: "fd00::/64", want: "fd00::-fd00::ffff:ffff:ffff:ffff"},
		{in: "fd00::1/63", want: "fd00::-fd00::1:ffff:ffff:ffff:ffff"},
		{in: "fd00::/65", want: "fd00::-fd00::7fff:ffff:ffff:ffff"},
		{in: "::/0", want: "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{in: "fd00::1/128", want: "fd00::1"},
		{in: "10.0.0.1-10.0.0.9", want: "10.0.0.1-10.0.0.9"},
		{in: " 10.0.0.1 - 10.0.0.9 ", want: "10.0.0.1-10.0.0.9"},
		{in: "fd00::1-fd00::1", want: "fd00::1"},
		{in: "10.0.0.1", want: "10.0.0.1"},

		{in: " ", err: `"" is not a CIDR, a range FROM-TO or an IP address`},
		{in: "ten", err: `"ten" is not a CIDR, a range FROM-TO or an IP address`},
		{in: "10.0.0.256", err: `"10.0.0.256" is not a CIDR, a range FROM-TO or an IP address`},
		{in: "10.0.0.9-10.0.0.1", err: `range "10.0.0.9-10.0.0.1" is reversed: its start is above its end`},
		{in: "10.0.0.1-fd00::1", err: `range "10.0.0.1-fd00::1" mixes IPv4 and IPv6: both ends must be of one family`},
		{in: "10.0.0.1-9", err: `range "10.0.0.1-9": end: "9" is not an IP address`},
		{in: "-10.0.0.1", err: `range "-10.0.0.1": start: "" is not an IP address`},
		{in: "fe80::1%eth0-fe80::2", err: `range "fe80::1%eth0-fe80::2": start: address "fe80::1%eth0" has a zone: write it without "%eth0"`},
		{in: "::ffff:10.0.0.1", err: `address "::ffff:10.0.0.1" is an IPv4-mapped IPv6 address: write it as 10.0.0.1`},
		{in: "::ffff:10.0.0.0/120", err: `CIDR "::ffff:10.0.0.0/120": address "::ffff:10.0.0.0" is an IPv4-mapped IPv6 address: write it as 10.0.0.0`},
		{in: "10.0.0.0/33", err: `CIDR "10.0.0.0/33": prefix length must be a number from 0 to 32`},
		{in: "fd00::/129", err: `CIDR "fd00::/129": prefix length must be a number from 0 to 128`},
		{in: "10.0.0.0/", err: `CIDR "10.0.0.0/": prefix length must be a number from 0 to 32`},
		{in: "10.0.0/24", err: `CIDR "10.0.0/24": "10.0.0" is not an IP address`},
	} {
		r, err := ParseRange(c.in)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.err {
			t.Errorf("ParseRange(%q): error\n got %s\nwant %s", c.in, got, c.err)
		}
		if err == nil && r.String() != c.want {
			t.Errorf("ParseRange(%q) = %s, want %s", c.in, r, c.want)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{
		"10.0.0.0/24", "10.0.0.1-10.0.0.9", "10.0.0.1", "fd00::/64", "fd00::1-fd00::2", "::ffff:1.2.3.4/120",
		"fe80::1%a-b", "::/0", "0.0.0.0/0", "1.2.3.4/032", "1.2.3.4-", " - ", "1-2-3",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			if err.Error() == "" || r != (Range{}) {
				t.Fatalf("ParseRange(%q) = %v, %q", s, r, err)
			}
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("ParseRange(%q) = %v, which is invalid: %v", s, r, err)
		}
		if again, err := ParseRange(r.String()); err != nil || again != r {
			t.Fatalf("ParseRange(%q) = %v, but parsed again it is %v, %v", s, r, again, err)
		}
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && RangeOf(prefix) != r {
			t.Fatalf("ParseRange(%q) = %v, but its prefix is %v", s, r, RangeOf(prefix))
		}
		if !r.Contains(r.From) || !r.Contains(r.To) || r.Contains(r.From.Prev()) || r.Contains(r.To.Next()) || r.Size().IsZero() {
			t.Fatalf("range %v of size %v does not end at its ends", r, r.Size())
		}
	})
}

func mustRange(t testing.TB, s string) Range {
	r, err := ParseRange(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustRanges(t testing.TB, list string) []Range {
	var out []Range
	for _, s := range strings.Fields(list) {
		out = append(out, mustRange(t, s))
	}
	return out
}

func text(ranges []Range) string {
	var out []string
	for _, r := range ranges {
		out = append(out, r.String())
	}
	return strings.Join(out, " ")
}

func TestRange(t *testing.T) {
	t.Parallel()
	r := mustRange(t, "10.0.0.5-10.0.0.9")
	for in, want := range map[string]bool{
		"10.0.0.4": false, "10.0.0.5": true, "10.0.0.9": true, "10.0.0.10": false, "::ffff:10.0.0.6": false, "::5": false,
	} {
		if got := r.Contains(netip.MustParseAddr(in)); got != want {
			t.Errorf("Contains(%s) = %v", in, got)
		}
	}
	for in, want := range map[string]bool{
		"10.0.0.1-10.0.0.4": false, "10.0.0.1-10.0.0.5": true, "10.0.0.9-10.0.0.12": true, "10.0.0.6": true, "::/0": false,
	} {
		other := mustRange(t, in)
		if r.Overlaps(other) != want || other.Overlaps(r) != want {
			t.Errorf("Overlaps(%s) is not %v", in, want)
		}
	}
	if r.Family() != IPv4 || mustRange(t, "::").Family() != IPv6 {
		t.Error("wrong family")
	}
	a := netip.MustParseAddr("10.0.0.1")
	for _, bad := range []Range{{}, {From: a}, {To: a}, {a.Next(), a}, {a, netip.MustParseAddr("::1")}} {
		if bad.Validate() == nil {
			t.Errorf("%v is valid", bad)
		}
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in, text string
		u        uint64
		i        int64
		f        float64
	}{
		{"10.0.0.1", "1", 1, 1, 1},
		{"0.0.0.0/0", "4294967296", 1 << 32, 1 << 32, 1 << 32},
		{"fd00::/65", "9223372036854775808", 1 << 63, 1<<63 - 1, 1 << 63},
		{"fd00::/64", "18446744073709551616", 1<<64 - 1, 1<<63 - 1, 1 << 64},
		{"fd00::/48", "1208925819614629174706176", 1<<64 - 1, 1<<63 - 1, 1 << 80},
		{"::/0", "340282366920938463463374607431768211455", 1<<64 - 1, 1<<63 - 1, 1 << 128},
	} {
		n := mustRange(t, c.in).Size()
		if n.String() != c.text || n.Uint64() != c.u || n.Int64() != c.i || n.Float64() != c.f || n.IsZero() {
			t.Errorf("%s has %s, %d, %d, %g addresses", c.in, n, n.Uint64(), n.Int64(), n.Float64())
		}
	}
	if a, b := CountOf(1), mustRange(t, "fd00::/64").Size(); a.Compare(b) != -1 || b.Compare(a) != 1 || a.Compare(a) != 0 {
		t.Error("wrong order")
	}
	if !(Count{}).IsZero() || (Count{}).String() != "0" {
		t.Error("zero is not zero")
	}
}

func TestWithoutBuggy(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"10.0.0.0/24":                  "10.0.0.1-10.0.0.254",
		"10.0.0.0/23":                  "10.0.0.1-10.0.0.254 10.0.1.1-10.0.1.254",
		"10.0.0.7-10.0.1.0":            "10.0.0.7-10.0.0.254",
		"10.0.0.255-10.0.1.1":          "10.0.1.1",
		"10.0.0.255-10.0.1.0 10.0.0.4": "10.0.0.4",
		"255.255.255.0/24":             "255.255.255.1-255.255.255.254",
		"10.0.2.0/31 10.0.1.3":         "10.0.2.1 10.0.1.3",
		"fd00::/120":                   "fd00::-fd00::ff",
	} {
		if got := text(WithoutBuggy(mustRanges(t, in))); got != want {
			t.Errorf("WithoutBuggy(%s) = %s, want %s", in, got, want)
		}
	}
	eight := WithoutBuggy(mustRanges(t, "10.0.0.0/8"))
	if len(eight) != 1<<16 {
		t.Errorf("a /8 has %d ranges", len(eight))
	}
	// Positions are consecutive over the gaps: a free pool is one interval however many ranges it has.
	if p := newPool(Pool{Name: "eight", Ranges: eight}); p.space(IPv4).free.tree.Len() != 1 {
		t.Errorf("a free /8 has %d free intervals", p.space(IPv4).free.tree.Len())
	}
}

func TestSubtract(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, cut, want string }{
		{"10.0.0.0/29", "", "10.0.0.0-10.0.0.7"},
		{"10.0.0.0/29", "10.0.0.3", "10.0.0.0-10.0.0.2 10.0.0.4-10.0.0.7"},
		{"10.0.0.0/29", "10.0.0.0/28", ""},
		{"10.0.0.8/29 10.0.0.0/29", "10.0.0.6-10.0.0.9", "10.0.0.10-10.0.0.15 10.0.0.0-10.0.0.5"},
		{"10.0.0.0/30 10.0.0.2-10.0.0.6", "", "10.0.0.0-10.0.0.3 10.0.0.4-10.0.0.6"},
		{"0.0.0.0/0 ::/0", "255.255.255.255 :: 0.0.0.0", "0.0.0.1-255.255.255.254 ::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		if got := text(Subtract(mustRanges(t, c.from), mustRanges(t, c.cut))); got != c.want {
			t.Errorf("Subtract(%s, %s) = %s, want %s", c.from, c.cut, got, c.want)
		}
	}
}

// TestSubtractAddressByAddress compares with what one gets by looking at every address.
func TestSubtractAddressByAddress(t *testing.T) {
	t.Parallel()
	draw := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Range {
		f, from := rapid.SampledFrom(families[:]).Draw(t, "family"), rapid.IntRange(0, 20).Draw(t, "from")
		return Range{universe(f, from), universe(f, from+rapid.IntRange(0, 6).Draw(t, "more"))}
	}))
	rapid.Check(t, func(t *rapid.T) {
		from, cut := draw.Draw(t, "ranges"), draw.Draw(t, "cut")
		got := Subtract(from, cut)
		for _, f := range families {
			var want, have []netip.Addr
			for _, a := range addresses(Pool{Ranges: from}, f) {
				if !slices.Contains(addresses(Pool{Ranges: cut}, f), a) {
					want = append(want, a)
				}
			}
			for _, r := range got {
				for a := r.From; r.Contains(a); a = a.Next() {
					if FamilyOf(a) == f {
						have = append(have, a)
					}
				}
			}
			if !slices.Equal(have, want) {
				t.Fatalf("Subtract(%v, %v) = %v: %v, want %v", from, cut, got, have, want)
			}
		}
	})
}
