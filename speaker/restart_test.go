package main

import (
	"maps"
	"net/netip"
	"testing"
)

// What a condition says is found again in it, of its own addresses only.
func TestAnnouncersIn(t *testing.T) {
	t.Parallel()
	message := byWhom(addr(v4), "node-1", []string{"eth0"}) + sentenceEnd + addr(v6).String() + " is not announced: there are no nodes" +
		sentenceEnd + byWhom(addr("2001:db8::11"), "node-2", []string{"eth0", "eth1"}) + " and by BGP from 2 nodes to tor" +
		sentenceEnd + byWhom(addr("11.2.3.4"), "node-3", []string{"eth0"})
	got := announcersIn(message, []netip.Addr{addr(v4), addr(v6), addr("2001:db8::11"), addr("1.2.3.4")})
	if want := map[netip.Addr]string{addr(v4): "node-1", addr("2001:db8::11"): "node-2"}; !maps.Equal(got, want) {
		t.Errorf("announcers are %v, want %v", got, want)
	}
	if got := announcersIn("", []netip.Addr{addr(v4)}); len(got) != 0 {
		t.Errorf("announcers in nothing are %v", got)
	}
}
