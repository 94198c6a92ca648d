package neighbor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/ether"
)

// maxDetects is how many addresses are detected at once. More wait for their
// turn: it bounds the kernel filter and the burst of broadcasts.
const maxDetects = 256

// ErrNoAnswer means that the question was put as it should be and nobody answered.
var ErrNoAnswer = errors.New("no answer")

// errOverrun is a question whose answer may have been lost on this side.
var errOverrun = errors.New("the socket was overrun by other frames")

// Ask asks t up to tries times, every so often, and returns who answered first.
// After the last question it waits every once more. The error wraps ErrNoAnswer
// if there was none; any other means that it could not be found out. Ask needs
// Run, and waits for it and for the first list of links.
func (p *Prober) Ask(ctx context.Context, t Target, tries int, every time.Duration) (ether.MAC, error) {
	addr, err := askable(t.Addr)
	if err != nil {
		return ether.MAC{}, err
	}
	o := p.do(ctx, &job{addr: addr, to: t.MAC, left: max(tries, 1), every: every}, t.Interface)
	if o.err == nil && !o.found {
		o.err = fmt.Errorf("%s: %w", t, ErrNoAnswer)
	}
	return o.mac, o.err
}

// Detect finds out whether another host on the link has addr, or is just finding
// out the same because it wants it, before addr is used for the first time: by
// the probes of RFC 5227 section 2.1.1 or RFC 4862 section 5.4.2. It returns as
// soon as there is one, with the address that it claims. What this node itself
// sends on any of its links does not count, nor does what is sent by or tells of
// one of disregard, which are for the other speakers. Without an error the
// question was put in full, or a rival found.
func (p *Prober) Detect(ctx context.Context, ifname string, addr netip.Addr, disregard ...ether.MAC) (rival ether.MAC, found bool, err error) {
	a, err := askable(addr)
	if err != nil {
		return rival, false, err
	}
	select {
	case p.detects <- struct{}{}:
		defer func() { <-p.detects }()
	case <-ctx.Done():
		return rival, false, ctx.Err()
	}
	o := p.do(ctx, &job{
		addr: a, detect: true, disregard: disregard, left: p.cfg.DetectProbes, every: p.cfg.DetectEvery,
	}, ifname)
	return o.mac, o.found, o.err
}

// An outcome is what came of a job.
type outcome struct {
	mac   ether.MAC
	found bool
	err   error
}

// A job is an Ask or a Detect under way. It is a task: to send the next probe,
// or to conclude.
type job struct {
	appointment
	lane      *lane
	addr      netip.Addr
	to        ether.MAC
	detect    bool
	disregard []ether.MAC
	every     time.Duration

	probe
	started bool
	left    int // probes to send
	sent    int
	unsent  error // why one could not be
	over    bool
	done    chan outcome // for one
}

// do has Run do j on an interface and waits for the outcome.
func (p *Prober) do(ctx context.Context, j *job, ifname string) outcome {
	j.done = make(chan outcome, 1)
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return outcome{err: errStopped}
	}
	j.lane = p.lane(ifname, j.addr)
	j.lane.jobs[j.addr] = append(j.lane.jobs[j.addr], j)
	if j.lane.conn != nil || j.lane.err != nil {
		p.agenda.set(j, p.clock.Now())
	}
	p.mu.Unlock()
	notify(p.wake)
	select {
	case o := <-j.done:
		return o
	case <-ctx.Done():
		p.mu.Lock()
		j.finish(outcome{err: ctx.Err()})
		p.mu.Unlock()
		return <-j.done
	}
}

func (j *job) run(now time.Time) {
	l := j.lane
	switch {
	case l.conn == nil && l.err != nil:
		j.finish(outcome{err: l.err})
		return
	case l.conn == nil:
		l.prober.agenda.cancel(j) // until the lane is up, or cannot be
		return
	}
	l.drain()
	if j.over {
		return
	}
	if !j.started {
		if err := j.start(); err != nil {
			j.finish(outcome{err: err})
			return
		}
	}
	if j.left == 0 {
		j.conclude(now)
		return
	}
	j.left--
	if err := l.ask(j.addr, j.to, j.detect); err != nil {
		j.unsent = err
	} else {
		j.sent++
	}
	l.prober.agenda.set(j, now.Add(j.every))
}

// start opens the ears for what j is about.
func (j *job) start() error {
	l := j.lane
	j.started = true
	j.lost = l.lost
	if !j.detect {
		return nil
	}
	if l.key.proto == protoNDP {
		// Others' probes go to the group (RFC 4862 section 5.4.2).
		if err := l.join(ether.SolicitedNode(j.addr)); err != nil {
			j.started = false
			return err
		}
	}
	if err := l.setFilter(); err != nil {
		return fmt.Errorf("detecting %s on %s: %w", j.addr, l.key.ifname, err)
	}
	return nil
}

// hear takes in what a frame says about the address.
func (j *job) hear(h heard) {
	switch {
	case !j.started:
	case !j.detect:
		if h.reply && j.sent > 0 {
			j.lane.metrics.answers.Inc()
			j.finish(outcome{mac: h.mac, found: true})
		}
	case !slices.Contains(j.disregard, h.mac) && !slices.Contains(j.disregard, h.src):
		j.lane.metrics.conflicts.Inc()
		j.finish(outcome{mac: h.mac, found: true})
	}
}

// conclude decides when the wait after the last probe has brought nothing.
func (j *job) conclude(now time.Time) {
	l := j.lane
	if more := j.grace(now.Sub(j.due), j.every); more > 0 {
		l.prober.agenda.set(j, now.Add(more))
		return
	}
	o := outcome{}
	if excuse, err := l.excuse(&j.probe); excuse {
		o.err = errOverrun
		if err != nil {
			o.err = err
		}
	} else if j.sent == 0 || j.detect && j.unsent != nil {
		o.err = j.unsent
	}
	j.finish(o)
}

// finish ends j with an outcome, unless it has ended.
func (j *job) finish(o outcome) {
	if j.over {
		return
	}
	j.over = true
	j.done <- o
	l := j.lane
	p := l.prober
	p.agenda.cancel(j)
	rest := slices.DeleteFunc(l.jobs[j.addr], func(o *job) bool { return o == j })
	if l.jobs[j.addr] = rest; len(rest) == 0 {
		delete(l.jobs, j.addr)
	}
	l.until = p.clock.Now().Add(linger)
	if len(l.jobs)+len(l.entries) == 0 {
		notify(p.wake) // to close the socket one day
	}
	if j.detect && j.started && l.conn != nil {
		j.stop()
	}
}

// stop takes start back. The filter stays as wide as it is until nothing is
// detected any more.
func (j *job) stop() {
	l := j.lane
	if l.key.proto == protoNDP {
		l.leave(ether.SolicitedNode(j.addr))
	}
	if len(l.detected()) == 0 {
		_ = l.setFilter() // it would only let in more than it must
	}
}

// detected returns the addresses that are being detected.
func (l *lane) detected() []netip.Addr {
	var out []netip.Addr
	for addr, jobs := range l.jobs {
		if slices.ContainsFunc(jobs, func(j *job) bool { return j.detect && j.started }) {
			out = append(out, addr)
		}
	}
	return out
}

func (l *lane) setFilter() error {
	return l.conn.SetFilter(filterFor(l.key.proto, l.id.mac, l.detected()))
}

// join joins a group unless it is joined: addresses with the same last 24 bits
// share one.
func (l *lane) join(group netip.Addr) error {
	if l.groups[group] == 0 {
		if err := l.conn.Join(group); err != nil {
			return err
		}
	}
	l.groups[group]++
	return nil
}

func (l *lane) leave(group netip.Addr) {
	l.groups[group]--
	if l.groups[group] > 0 {
		return
	}
	delete(l.groups, group)
	_ = l.conn.Leave(group) // what else is sent to the group is only filtered
}
