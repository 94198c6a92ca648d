package neighbor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/ether"
)

// slack is how late a task may run before the process counts as short of a CPU.
const slack = 10 * time.Millisecond

// errAddress is an address that nobody can be asked for.
var errAddress = errors.New("is not an address of one host")

// askable returns addr as lanes know it.
func askable(addr netip.Addr) (netip.Addr, error) {
	a := addr.Unmap().WithZone("")
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
		return a, fmt.Errorf("%s %w", addr, errAddress)
	}
	return a, nil
}

// An entry is a watched target. It is a task: to send a probe in its slot, or,
// while it is waiting for an answer, to judge that there was none.
type entry struct {
	appointment
	lane   *lane
	addr   netip.Addr
	target Target
	slot   int
	health Health

	probe
	waiting bool
	sent    time.Time // the last probe; zero if there was none
}

// A probe is what has to be known of a question to judge that it got no answer.
type probe struct {
	graced bool
	lost   uint64
}

// add begins to watch t.
func (p *Prober) add(t Target) {
	e := &entry{target: t, slot: -1}
	p.entries[t] = e
	addr, err := askable(t.Addr)
	if err != nil {
		e.health.Err = err
		return
	}
	e.addr, e.slot = addr, p.slots.take()
	e.lane = p.lane(t.Interface, addr)
	e.lane.entries[addr] = append(e.lane.entries[addr], e)
	e.health.Err = e.lane.err
	p.agenda.set(e, p.slots.after(e.slot, p.clock.Now().Add(-1)))
}

// remove ceases to watch e.
func (p *Prober) remove(e *entry) {
	delete(p.entries, e.target)
	if e.lane == nil {
		return
	}
	p.agenda.cancel(e)
	p.slots.release(e.slot)
	rest := slices.DeleteFunc(e.lane.entries[e.addr], func(o *entry) bool { return o == e })
	if e.lane.entries[e.addr] = rest; len(rest) == 0 {
		delete(e.lane.entries, e.addr)
	}
}

func (e *entry) run(now time.Time) {
	if !e.waiting {
		e.send(now)
		return
	}
	e.lane.drain()
	if e.waiting {
		e.judge(now)
	}
}

// send sends a probe and waits for the answer. Slots that were slept through are
// left out.
func (e *entry) send(now time.Time) {
	p := e.lane.prober
	p.agenda.set(e, p.slots.after(e.slot, now))
	if e.lane.conn == nil {
		return // the lane says why
	}
	to := e.target.MAC
	if to == (ether.MAC{}) && e.health.Missed == 0 {
		to = e.health.MAC
	}
	if err := e.lane.ask(e.addr, to, false); err != nil {
		e.blame(err)
		return
	}
	e.waiting, e.sent = true, now
	e.probe = probe{lost: e.lane.lost}
	p.agenda.set(e, now.Add(p.cfg.Wait))
}

// judge decides on a probe that nothing in the socket answers.
func (e *entry) judge(now time.Time) {
	p := e.lane.prober
	if more := e.grace(now.Sub(e.due), p.cfg.Wait); more > 0 {
		p.agenda.set(e, now.Add(more))
		return
	}
	e.waiting = false
	p.agenda.set(e, p.slots.after(e.slot, e.sent))
	if excuse, err := e.lane.excuse(&e.probe); excuse {
		e.lane.metrics.excused.Inc()
		if err != nil {
			e.blame(err)
		}
		return
	}
	e.lane.metrics.missed.Inc()
	e.health.Missed++
	e.health.Err = nil
	notify(p.changes)
}

// grace returns how much longer to wait for an answer when the decision comes
// late; once for each probe.
func (b *probe) grace(late, most time.Duration) time.Duration {
	if late <= slack || b.graced {
		return 0
	}
	b.graced = true
	return min(late, most)
}

// answered takes in an answer. One that comes late, even after another probe was
// sent, shows that the target lives all the same.
func (e *entry) answered(mac ether.MAC) {
	if e.sent.IsZero() {
		return
	}
	h := Health{Answered: e.sent, MAC: mac}
	changed := e.health.Answered.IsZero() || e.health.Missed > 0 || e.health.MAC != mac || e.health.Err != nil
	e.health = h
	p := e.lane.prober
	if e.waiting {
		e.waiting = false
		p.agenda.set(e, p.slots.after(e.slot, e.sent))
	}
	if changed {
		notify(p.changes)
	}
}

// void forgets a probe under way, which must not be judged.
func (e *entry) void() {
	if e.waiting {
		e.waiting = false
		p := e.lane.prober
		p.agenda.set(e, p.slots.after(e.slot, p.clock.Now()))
		e.lane.metrics.excused.Inc()
	}
}

// blame says why the target could not be asked, or nil if it can again.
func (e *entry) blame(err error) {
	if message(e.health.Err) != message(err) {
		notify(e.lane.prober.changes)
	}
	e.health.Err = err
}

// message is the text of err, empty for nil.
func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
