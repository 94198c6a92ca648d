package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/netif"
)

// Both the loop and the watch of other nodes hear of news of the membership,
// whichever is slow.
func TestFanOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from := make(chan struct{})
		f := newFanOut(from, 2)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.run(ctx) }()
		for range 3 {
			from <- struct{}{}
		}
		synctest.Wait()
		if len(f.to[0]) != 1 || len(f.to[1]) != 1 {
			t.Errorf("%d and %d news wait, want one each", len(f.to[0]), len(f.to[1]))
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The default gateways of a link and those that asked on it of late are witnesses.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		gateways []netip.Addr
		err      error
		askers   int
		want     []string
	}{
		"nobody":              {},
		"gateway of a link":   {gateways: []netip.Addr{addr("192.0.2.254"), addr("198.51.100.254")}, want: []string{"eth0 192.0.2.254"}},
		"link-local gateway":  {gateways: []netip.Addr{addr("fe80::1%eth0"), addr("fe80::2%eth1")}, want: []string{"eth0 fe80::1"}},
		"askers":              {askers: 2, want: []string{"eth0 192.0.2.100", "eth0 192.0.2.101"}},
		"askers, no gateways": {err: errors.New("no routes for you"), askers: 1, want: []string{"eth0 192.0.2.100"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := witnesses{
				links:    fixedLinks{kernelLink(1, "eth0", "192.0.2.1/24")},
				gateways: func() ([]netip.Addr, error) { return tt.gateways, tt.err },
				askers: func(string) []l2.Asker {
					var all []l2.Asker
					for i := range tt.askers {
						all = append(all, l2.Asker{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}), MAC: l2.MAC{2, 1}})
					}
					return all
				},
			}
			var got []string
			for _, target := range w.Witnesses() {
				got = append(got, fmt.Sprint(target.Interface, " ", target.Addr))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("witnesses are %q, want %q", got, tt.want)
			}
		})
	}
}

type fixedLinks []netif.Link

func (l fixedLinks) Links() []netif.Link { return l }
