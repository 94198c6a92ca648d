package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/l2"
)

// trouble is for how long nobody answered for an address, or several did who said
// not the same.
type trouble struct {
	none, many       time.Time // since when
	longest, longMix time.Duration
	// macs are all that were ever told.
	macs []l2.MAC
}

// answer takes in what a resident answers for.
func (w *town) answer(r *resident, epoch int, d l2.Desired) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.epoch != epoch || !r.running {
		return
	}
	var fresh []netip.Addr
	for a, answer := range d {
		if before, did := r.answers[a]; answer.StandIn == nil && (!did || before.StandIn != nil) {
			fresh = append(fresh, a)
		}
	}
	r.answers = d
	w.observe()
	w.hearAll(r, fresh)
}

// announce has the others hear that a resident announces addresses again.
func (w *town) announce(r *resident, epoch int, addrs []netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.epoch == epoch && r.running {
		w.hearAll(r, addrs)
	}
}

// hearAll has those who answer for any of the addresses too hear of a rival. The
// caller holds mu.
func (w *town) hearAll(r *resident, addrs []netip.Addr) {
	time.AfterFunc(newsDelay, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, a := range addrs {
			for _, o := range w.residents {
				answer, does := o.answers[a]
				if !does || o == r || answer.StandIn != nil || !r.reaches(o) {
					continue
				}
				// Package l2 tells of the same rival once a second.
				if key := (rivalry{a, r.name}); time.Since(o.rivals[key]) >= time.Second {
					o.rivals[key] = time.Now()
					o.l2.rivals <- l2.Rival{Addr: a, Interface: "eth0", MAC: r.mac, At: time.Now()}
				}
			}
		}
	})
}

// observe looks at who answers for what, as a client on the first side does. The
// caller holds mu.
func (w *town) observe() {
	now := time.Now()
	for a, tr := range w.trouble {
		macs := map[l2.MAC]bool{}
		for _, r := range w.residents {
			if answer, does := r.answers[a]; does && !answer.Armed && !r.off && r.side == 0 {
				mac := r.mac
				if answer.StandIn != nil {
					mac = answer.StandIn["eth0"]
				}
				macs[mac] = true
				if !slices.Contains(tr.macs, mac) {
					tr.macs = append(tr.macs, mac)
				}
			}
		}
		note(&tr.none, &tr.longest, len(macs) == 0, now)
		note(&tr.many, &tr.longMix, len(macs) > 1, now)
	}
}

func note(since *time.Time, longest *time.Duration, is bool, now time.Time) {
	if !since.IsZero() {
		*longest = max(*longest, now.Sub(*since))
	}
	switch {
	case !is:
		*since = time.Time{}
	case since.IsZero():
		*since = now
	}
}

// forget begins to look at troubles anew.
func (w *town) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, tr := range w.trouble {
		tr.longest, tr.longMix, tr.macs = 0, 0, nil
	}
	w.observe()
}

// wantTrouble checks that nobody answered or several did for so long at the most.
func (w *town) wantTrouble(none, many time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.observe()
	for a, tr := range w.trouble {
		if tr.longest > none || tr.longMix > many {
			w.t.Errorf("%s: nobody for %s, several for %s; may be %s and %s", a, tr.longest, tr.longMix, none, many)
		}
	}
}

// wantStill checks that all clients were told the same all the time.
func (w *town) wantStill() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for a, tr := range w.trouble {
		if len(tr.macs) != 1 {
			w.t.Errorf("%s was at %v", a, tr.macs)
		}
	}
}

// owners returns who owns what, and checks that that is one for each address, and
// that nobody else claims it.
func (w *town) owners() map[netip.Addr]string {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	owners := map[netip.Addr]string{}
	for a := range w.trouble {
		var answer, claim []string
		for _, r := range w.residents {
			if announcement, does := r.answers[a]; does && announcement.StandIn == nil {
				answer = append(answer, r.name)
			}
			if c, does := r.said.claims.Get(a); does && r.running {
				claim = append(claim, fmt.Sprint(r.name, c.Term))
				if c.Provisional || c.To != "" {
					w.t.Errorf("%s claims %s by %+v", r.name, a, c)
				}
			}
		}
		if len(answer) != 1 || len(claim) != 1 {
			w.t.Errorf("%s is answered for by %q and claimed by %q", a, answer, claim)
			continue
		}
		owners[a] = answer[0]
	}
	return owners
}

// answered returns what a resident answers for as the owner.
func (w *town) answered(node string) []netip.Addr {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []netip.Addr
	for a, answer := range w.resident(node).answers {
		if answer.StandIn == nil {
			all = append(all, a)
		}
	}
	return all
}

func (w *town) loads() map[string]int {
	w.t.Helper()
	loads := map[string]int{}
	for _, owner := range w.owners() {
		loads[owner]++
	}
	return loads
}
