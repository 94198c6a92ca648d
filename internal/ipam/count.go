package ipam

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/bits"
	"net/netip"
)

// u128 is an unsigned 128-bit number: an address seen as a number, or the position of an address in a pool.
type u128 struct{ hi, lo uint64 }

func (a u128) compare(b u128) int {
	switch {
	case a.less(b):
		return -1
	case a == b:
		return 0
	}
	return 1
}

func (a u128) less(b u128) bool {
	return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo
}

// add wraps around, as sub does; callers know that the result fits.
func (a u128) add(b u128) u128 {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	hi, _ := bits.Add64(a.hi, b.hi, carry)
	return u128{hi, lo}
}

func (a u128) sub(b u128) u128 {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ := bits.Sub64(a.hi, b.hi, borrow)
	return u128{hi, lo}
}

func (a u128) next() u128 { return a.add(u128{lo: 1}) }
func (a u128) prev() u128 { return a.sub(u128{lo: 1}) }

// number returns the address as a number within its family.
func number(a netip.Addr) u128 {
	if a.Is4() {
		b := a.As4()
		return u128{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// address is the inverse of number.
func address(f Family, n u128) netip.Addr {
	if f == IPv4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(n.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	return netip.AddrFrom16(b)
}

// Count is a number of addresses. It is exact up to 2^128-1; only the whole IPv6 space, one address more, is counted
// as that.
type Count struct{ n u128 }

// CountOf returns n as a Count.
func CountOf(n uint64) Count { return Count{u128{lo: n}} }

// Uint64 returns the count, or the largest uint64 where it does not fit (a /64 has one address too many).
func (c Count) Uint64() uint64 {
	if c.n.hi != 0 {
		return math.MaxUint64
	}
	return c.n.lo
}

// Int64 returns the count, or the largest int64 where it does not fit: for integer fields of API objects.
func (c Count) Int64() int64 {
	return int64(min(c.Uint64(), math.MaxInt64))
}

// Float64 returns the count, rounded where it has more than 53 significant bits: for metrics.
func (c Count) Float64() float64 {
	return math.Ldexp(float64(c.n.hi), 64) + float64(c.n.lo)
}

// IsZero tells whether there is no address at all.
func (c Count) IsZero() bool { return c.n == u128{} }

// Compare returns -1, 0 or 1 as c is less than, equal to or greater than other.
func (c Count) Compare(other Count) int { return c.n.compare(other.n) }

// String returns the exact count in decimal.
func (c Count) String() string {
	b := new(big.Int).SetUint64(c.n.hi)
	b.Lsh(b, 64)
	return b.Add(b, new(big.Int).SetUint64(c.n.lo)).String()
}

// plus saturates.
func (c Count) plus(other Count) Count {
	sum := c.n.add(other.n)
	if sum.less(c.n) {
		return Count{u128{math.MaxUint64, math.MaxUint64}}
	}
	return Count{sum}
}

// minus is 0 where other is more, which happens only around the whole IPv6 space.
func (c Count) minus(other Count) Count {
	if c.n.less(other.n) {
		return Count{}
	}
	return Count{c.n.sub(other.n)}
}
