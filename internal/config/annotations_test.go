package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestReadWishes(t *testing.T) {
	t.Parallel()
	addrs := func(texts ...string) []netip.Addr {
		var out []netip.Addr
		for _, text := range texts {
			out = append(out, netip.MustParseAddr(text))
		}
		return out
	}
	tests := map[string]struct {
		annotations    map[string]string
		loadBalancerIP string
		want           Wishes
		wantErr        string
	}{
		"nothing": {},
		"all by Berth's names": {
			annotations: map[string]string{
				"berth.dev/address-pool": "gold", "berth.dev/load-balancer-ips": "192.0.2.1, 2001:db8::1", "berth.dev/allow-shared-ip": "key",
			},
			want: Wishes{Pool: "gold", Addresses: addrs("192.0.2.1", "2001:db8::1"), SharingKey: "key"},
		},
		"all by MetalLB's names": {
			annotations: map[string]string{
				"metallb.io/address-pool": "gold", "metallb.io/loadBalancerIPs": "192.0.2.1", "metallb.io/allow-shared-ip": "key",
			},
			want: Wishes{Pool: "gold", Addresses: addrs("192.0.2.1"), SharingKey: "key"},
		},
		"MetalLB's older names": {
			annotations: map[string]string{"metallb.universe.tf/address-pool": "gold", "metallb.universe.tf/loadBalancerIPs": "192.0.2.1", "metallb.universe.tf/allow-shared-ip": "key"},
			want:        Wishes{Pool: "gold", Addresses: addrs("192.0.2.1"), SharingKey: "key"},
		},
		"Berth's name goes first, then MetalLB's newer": {
			annotations: map[string]string{
				"berth.dev/address-pool": "a", "metallb.io/address-pool": "b",
				"metallb.io/allow-shared-ip": "new", "metallb.universe.tf/allow-shared-ip": "old",
			},
			want: Wishes{Pool: "a", SharingKey: "new"},
		},
		"spec.loadBalancerIP": {loadBalancerIP: "192.0.2.1", want: Wishes{Addresses: addrs("192.0.2.1")}},
		"spec.loadBalancerIP and the same in the annotation": {
			annotations: map[string]string{"metallb.io/loadBalancerIPs": "192.0.2.1"}, loadBalancerIP: "192.0.2.1",
			want: Wishes{Addresses: addrs("192.0.2.1")},
		},
		"spec.loadBalancerIP against the annotation": {
			annotations: map[string]string{"metallb.io/loadBalancerIPs": "192.0.2.2"}, loadBalancerIP: "192.0.2.1",
			wantErr: "metallb.io/loadBalancerIPs: asks for \"192.0.2.2\" while spec.loadBalancerIP asks for \"192.0.2.1\"",
		},
		"no address":         {annotations: map[string]string{"berth.dev/load-balancer-ips": "web"}, wantErr: "berth.dev/load-balancer-ips: "},
		"nothing at all":     {annotations: map[string]string{"berth.dev/load-balancer-ips": ""}, wantErr: "berth.dev/load-balancer-ips: \"\" has an empty address"},
		"trailing comma":     {annotations: map[string]string{"berth.dev/load-balancer-ips": "192.0.2.1,"}, wantErr: "has an empty address"},
		"twice the same":     {annotations: map[string]string{"berth.dev/load-balancer-ips": "2001:db8::1,2001:DB8:0::1"}, wantErr: "2001:db8::1 is there twice"},
		"a range":            {annotations: map[string]string{"berth.dev/load-balancer-ips": "192.0.2.0/24"}, wantErr: "berth.dev/load-balancer-ips: "},
		"zone":               {loadBalancerIP: "fe80::1%eth0", wantErr: "spec.loadBalancerIP: "},
		"no pool":            {annotations: map[string]string{"berth.dev/address-pool": " "}, wantErr: "berth.dev/address-pool: is empty"},
		"retain for a while": {annotations: map[string]string{"berth.dev/retain": "24h"}, want: Wishes{Retain: 24 * time.Hour}},
		"retain forever":     {annotations: map[string]string{"berth.dev/retain": "forever"}, want: Wishes{Retain: RetainForever}},
		"retain for days":    {annotations: map[string]string{"berth.dev/retain": "3d"}, wantErr: "berth.dev/retain: \"3d\" is neither a duration"},
		"retain for nothing": {annotations: map[string]string{"berth.dev/retain": "0s"}, wantErr: "berth.dev/retain: "},
		"renew":              {annotations: map[string]string{"berth.dev/renew": "2"}, want: Wishes{Renew: "2"}},
		"no key":             {annotations: map[string]string{"berth.dev/allow-shared-ip": ""}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ReadWishes(test.annotations, test.loadBalancerIP)
			if test.wantErr != "" {
				var wishErr *WishError
				if !errors.As(err, &wishErr) || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("got error %v, want a WishError with %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("wishes (-want +got):\n%s", diff)
			}
		})
	}
}
