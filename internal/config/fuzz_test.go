package config

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
)

// FuzzReadWishes: whatever users write, the answer is a WishError that names the
// annotation at fault, or what can be granted, and that reads the same when it is
// written out again.
func FuzzReadWishes(f *testing.F) {
	for _, seed := range []string{
		"", "192.0.2.1", "192.0.2.1,2001:db8::1", "::ffff:192.0.2.1", ",", "fe80::1%eth0", "192.0.2.1/32", "\x00", " 24h ", "forever", "-1h", "0s", "1e9h", "pool",
	} {
		f.Add(seed, seed, seed, seed, seed)
	}
	f.Add("192.0.2.1", "gold", "key", "24h", "2")
	f.Fuzz(func(t *testing.T, ips, pool, key, retain, renew string) {
		annotations := map[string]string{
			"berth.dev/load-balancer-ips": ips, "berth.dev/address-pool": pool, "berth.dev/allow-shared-ip": key,
			"berth.dev/retain": retain, "berth.dev/renew": renew,
		}
		w, err := ReadWishes(annotations, "")
		if w.SharingKey != strings.TrimSpace(key) || w.Renew != strings.TrimSpace(renew) {
			t.Fatalf("sharing key %q is read as %q, renew %q as %q", key, w.SharingKey, renew, w.Renew)
		}
		if err != nil {
			var wishErr *WishError
			if !errors.As(err, &wishErr) || !strings.HasPrefix(err.Error(), wishErr.Field+": ") {
				t.Fatalf("error %v does not name the annotation", err)
			}
			// With the annotation at fault taken away it must not be named again.
			delete(annotations, wishErr.Field)
			if _, again := ReadWishes(annotations, ""); again != nil && again.Error() == err.Error() {
				t.Fatalf("error %v, also without that annotation", err)
			}
			return
		}
		checkAddresses(t, ips, w.Addresses)
		if w.Pool != strings.TrimSpace(pool) || w.Pool == "" || w.Retain <= 0 {
			t.Fatalf("accepted %q as %+v", annotations, w)
		}
		again, err := ReadWishes(writeWishes(w), "")
		if err != nil || !slices.Equal(again.Addresses, w.Addresses) || again.Pool != w.Pool || again.Retain != w.Retain || again.SharingKey != w.SharingKey {
			t.Fatalf("%+v, written out and read again, is %+v (%v)", w, again, err)
		}
	})
}

func checkAddresses(t *testing.T, text string, addresses []netip.Addr) {
	t.Helper()
	seen := map[netip.Addr]bool{}
	for _, a := range addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || seen[a] {
			t.Fatalf("accepted %s from %q", a, text)
		}
		seen[a] = true
	}
	if len(addresses) != strings.Count(text, ",")+1 {
		t.Fatalf("accepted %d addresses from %q", len(addresses), text)
	}
}

// writeWishes is the inverse of ReadWishes, by MetalLB's names where there are any.
func writeWishes(w Wishes) map[string]string {
	texts := make([]string, len(w.Addresses))
	for i, a := range w.Addresses {
		texts[i] = a.String()
	}
	retain := w.Retain.String()
	if w.Retain == RetainForever {
		retain = "forever"
	}
	return map[string]string{
		"metallb.io/loadBalancerIPs": strings.Join(texts, ", "), "metallb.universe.tf/address-pool": w.Pool,
		"metallb.io/allow-shared-ip": w.SharingKey, "berth.dev/retain": retain,
	}
}

// FuzzParseRetain: it is a positive duration or forever, or the error shows what
// was written.
func FuzzParseRetain(f *testing.F) {
	for _, seed := range []string{"24h", "forever", "0s", "-1h", "3d", "", "1h30m", "99999999999h"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		retain, err := ParseRetain(text)
		if err != nil {
			if retain != 0 || !strings.Contains(err.Error(), "neither a duration") {
				t.Fatalf("%q is %s, %v", text, retain, err)
			}
			return
		}
		again, err := ParseRetain(retain.String())
		if retain <= 0 || err != nil || again != retain {
			t.Fatalf("%q is %s, and that %s (%v)", text, retain, again, err)
		}
	})
}

// FuzzPool: whatever a pool's entries are, it is refused with the path of a field,
// or in force with the addresses that the entries say, none of which is excluded
// or special, and parts of which can be written out and read again.
func FuzzPool(f *testing.F) {
	for _, seed := range [][3]string{
		{"192.0.2.0/24", "192.0.2.10-192.0.2.20", "10m"}, {"2001:db8::/64", "2001:db8::1", ""}, {"192.0.2.1", "192.0.2.1", "0s"},
		{"127.0.0.1", "", "-1s"}, {"0.0.0.0/0", "::/0", "x"}, {"::-ffff::", " 192.0.2.1 - 192.0.2.2 ", "1h"}, {"", "", ""}, {"fe80::1%eth0", "::ffff:1.2.3.4", "1"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, entry, excluded, delay string) {
		object := pool("p", 1, v1beta1.AddressRange(entry))
		object.Spec.ExcludeAddresses = []v1beta1.AddressRange{v1beta1.AddressRange(excluded)}
		object.Spec.ReuseDelay = v1beta1.Duration(delay)
		snapshot, verdicts := Build(Objects{IPAddressPools: []*v1beta1.IPAddressPool{object}})
		verdict := verdicts.IPAddressPools["p"]
		p, inForce := snapshot.Pool("p")
		if inForce != verdict.Accepted {
			t.Fatalf("accepted is %v, in force is %v", verdict.Accepted, inForce)
		}
		if !inForce {
			if verdict.Reason != v1beta1.ReasonInvalid || !strings.HasPrefix(verdict.Message, "spec.") {
				t.Fatalf("refused with %s %q, which names no field", verdict.Reason, verdict.Message)
			}
			return
		}
		want, errRange := ipam.ParseRange(entry)
		cut, errCut := ipam.ParseRange(excluded)
		if errRange != nil || errCut != nil || len(p.Ranges) != 1 || p.Ranges[0] != want || p.ReuseDelay < 0 {
			t.Fatalf("%q without %q is in force as %v (%v, %v)", entry, excluded, p.Ranges, errRange, errCut)
		}
		for _, r := range p.Assignable {
			_, special := specialUse(r)
			if special || r.Overlaps(cut) || !want.Contains(r.From) || !want.Contains(r.To) {
				t.Fatalf("%q without %q hands out %s", entry, excluded, r)
			}
			if again, err := ipam.ParseRange(r.String()); err != nil || again != r {
				t.Fatalf("%s is read as %s (%v)", r, again, err)
			}
		}
	})
}

// FuzzReservation: whatever is reserved, the verdict names a field, or what is in
// force can be held.
func FuzzReservation(f *testing.F) {
	f.Add("192.0.2.0/30", "192.0.2.1", int32(0), "", int64(0))
	f.Add("", "192.0.2.1-192.0.2.2", int32(2), "IPv4", int64(3600))
	f.Add("nonsense", "::/0", int32(1024), "IPv6", int64(-1))
	f.Fuzz(func(t *testing.T, entry, held string, count int32, family string, seconds int64) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		object := &v1beta1.IPReservation{}
		object.Name = "r"
		object.Spec.For.Namespace, object.Spec.Family = "default", family
		object.Status.Addresses = []string{held}
		if entry != "" {
			object.Spec.Addresses = []v1beta1.AddressRange{v1beta1.AddressRange(entry)}
		}
		if count > 0 { // the API server takes no other
			object.Spec.Count, object.Spec.Pool = &count, "p"
		}
		snapshot, verdicts := Build(Objects{
			IPAddressPools: []*v1beta1.IPAddressPool{pool("p", 1, "192.0.2.0/24")}, IPReservations: []*v1beta1.IPReservation{object}, Now: now,
		})
		verdict := verdicts.IPReservations["r"]
		if verdict.Accepted != (len(snapshot.Reservations) == 1) || !verdict.Accepted && !strings.HasPrefix(verdict.Message, "spec") {
			t.Fatalf("verdict %+v, in force are %d", verdict, len(snapshot.Reservations))
		}
		for _, r := range snapshot.Reservations {
			if len(r.Ranges) == 0 && r.Count == 0 || len(r.Held) > r.Count {
				t.Fatalf("in force is %+v", r)
			}
		}
	})
}
