package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/btree"
)

// Range is a set of consecutive addresses of one family, both ends included.
type Range struct{ From, To netip.Addr }

// ParseAddr parses a single address and refuses what cannot be assigned to a Service: zones and IPv4-mapped IPv6. Spaces
// around it are ignored.
func ParseAddr(s string) (netip.Addr, error) {
	s = strings.TrimSpace(s)
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	if err := checkAddr(a); err != nil {
		return netip.Addr{}, err
	}
	return a, nil
}

// ParseRange parses "10.0.0.0/24", "10.0.0.1-10.0.0.9" or "10.0.0.1". Host bits of a CIDR are ignored, and so are
// spaces around the parts.
func ParseRange(s string) (Range, error) {
	s = strings.TrimSpace(s)
	if from, to, ok := strings.Cut(s, "-"); ok {
		return parseFromTo(s, from, to)
	}
	if strings.Contains(s, "/") {
		return parseCIDR(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return Range{}, fmt.Errorf("%q is not a CIDR, a range FROM-TO or an IP address", s)
	}
	if err := checkAddr(a); err != nil {
		return Range{}, err
	}
	return Range{a, a}, nil
}

func parseFromTo(s, from, to string) (Range, error) {
	a, err := ParseAddr(from)
	if err != nil {
		return Range{}, fmt.Errorf("range %q: start: %w", s, err)
	}
	b, err := ParseAddr(to)
	if err != nil {
		return Range{}, fmt.Errorf("range %q: end: %w", s, err)
	}
	r := Range{a, b}
	if err := r.Validate(); err != nil {
		return Range{}, err
	}
	return r, nil
}

func parseCIDR(s string) (Range, error) {
	addr, length, _ := strings.Cut(s, "/")
	a, err := ParseAddr(addr)
	if err != nil {
		return Range{}, fmt.Errorf("CIDR %q: %w", s, err)
	}
	p, err := netip.ParsePrefix(a.String() + "/" + strings.TrimSpace(length))
	if err != nil {
		return Range{}, fmt.Errorf("CIDR %q: prefix length must be a number from 0 to %d", s, a.BitLen())
	}
	return RangeOf(p), nil
}

// RangeOf returns all addresses of a valid prefix, whose host bits are ignored.
func RangeOf(p netip.Prefix) Range {
	p = p.Masked()
	from, host := p.Addr(), p.Addr().BitLen()-p.Bits()
	n := number(from)
	switch {
	case host >= 64:
		n.lo = ^uint64(0)
		n.hi |= 1<<(host-64) - 1
	default:
		n.lo |= 1<<host - 1
	}
	return Range{from, address(FamilyOf(from), n)}
}

func checkAddr(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return errors.New("address is missing")
	case a.Zone() != "":
		return fmt.Errorf("address %q has a zone: write it without %q", a, "%"+a.Zone())
	case a.Is4In6():
		return fmt.Errorf("address %q is an IPv4-mapped IPv6 address: write it as %s", a, a.Unmap())
	}
	return nil
}

// Validate says what is wrong with a range that was not made by ParseRange.
func (r Range) Validate() error {
	for _, a := range []netip.Addr{r.From, r.To} {
		if err := checkAddr(a); err != nil {
			return fmt.Errorf("range %q: %w", r, err)
		}
	}
	switch {
	case FamilyOf(r.From) != FamilyOf(r.To):
		return fmt.Errorf("range %q mixes IPv4 and IPv6: both ends must be of one family", r)
	case r.To.Less(r.From):
		return fmt.Errorf("range %q is reversed: its start is above its end", r)
	}
	return nil
}

// Family returns the family of the range.
func (r Range) Family() Family { return FamilyOf(r.From) }

// Contains tells whether the range includes a.
func (r Range) Contains(a netip.Addr) bool {
	return a.Is4() == r.From.Is4() && r.From.Compare(a) <= 0 && a.Compare(r.To) <= 0
}

// Overlaps tells whether the two ranges have an address in common.
func (r Range) Overlaps(other Range) bool {
	return r.From.Is4() == other.From.Is4() && r.From.Compare(other.To) <= 0 && other.From.Compare(r.To) <= 0
}

// Size returns the number of addresses.
func (r Range) Size() Count {
	return Count{number(r.To).sub(number(r.From))}.plus(CountOf(1))
}

// String returns FROM-TO, or the address if it is only one.
func (r Range) String() string {
	if r.From == r.To {
		return r.From.String()
	}
	return r.From.String() + "-" + r.To.String()
}

// WithoutBuggy returns the ranges, in their order, without the IPv4 addresses that end in .0 or .255, which some
// networks mistake for network and broadcast addresses. The result has up to one range per /24.
func WithoutBuggy(ranges []Range) []Range {
	out := make([]Range, 0, len(ranges))
	for _, r := range ranges {
		if r.Family() == IPv6 {
			out = append(out, r)
			continue
		}
		last := number(r.To).lo
		for n := number(r.From).lo; n <= last; n = n | 0xff + 1 {
			from, to := max(n, n&^0xff+1), min(last, n|0xff-1)
			if from <= to {
				out = append(out, Range{address(IPv4, u128{lo: from}), address(IPv4, u128{lo: to})})
			}
		}
	}
	return out
}

// Subtract returns the ranges, in their order, without the addresses in cut. What a range repeats of an earlier one is
// dropped too.
func Subtract(ranges, cut []Range) []Range {
	var taken rangeSet
	for _, c := range cut {
		taken.add(c, nil)
	}
	var out []Range
	for _, r := range ranges {
		out = taken.add(r, out)
	}
	return out
}

// rangeSet is a set of addresses, held as ranges that do not overlap, ordered by their ends.
type rangeSet struct{ tree *btree.BTreeG[Range] }

// add puts r into the set and appends to out the parts of r that were not in it before.
func (s *rangeSet) add(r Range, out []Range) []Range {
	if s.tree == nil {
		s.tree = btree.NewG(16, func(a, b Range) bool { return a.To.Less(b.To) })
	}
	var hit []Range
	// Addresses of IPv4 sort before all of IPv6, so that one tree holds both families.
	s.tree.AscendGreaterOrEqual(Range{To: r.From}, func(held Range) bool {
		if r.To.Less(held.From) {
			return false
		}
		hit = append(hit, held)
		return true
	})
	merged, rest, covered := r, r, false
	for _, held := range hit {
		s.tree.Delete(held)
		if rest.From.Less(held.From) {
			out = append(out, Range{rest.From, held.From.Prev()})
		}
		if held.From.Less(merged.From) {
			merged.From = held.From
		}
		if merged.To.Compare(held.To) <= 0 {
			merged.To, covered = held.To, true
			continue
		}
		rest.From = held.To.Next()
	}
	s.tree.ReplaceOrInsert(merged)
	if !covered {
		out = append(out, rest)
	}
	return out
}
