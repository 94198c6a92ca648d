package watch

import "time"

// reasons are why a node is asked; there may be several.
type reasons uint8

const (
	// becauseMissed: this node watches it and missed answers.
	becauseMissed reasons = 1 << iota
	// becauseTold: another speaker found it silent.
	becauseTold
	// becauseGone: its speaker is gone.
	becauseGone
	// becauseUnsure: it is Down and may have come back, or has not answered this node yet. Silence is no news then.
	becauseUnsure
)

// asking is a question that is under way.
type asking struct {
	id      uint64
	why     reasons
	started time.Time
	tries   int
	every   time.Duration
	repeats int
	// waiting: it was not answered, and what the witnesses say is awaited.
	waiting bool
}

// reply is what became of a question.
type reply struct {
	// answered is whether there was an answer, from whom.
	answered bool
	from     Target
	// failed says that it was not possible to ask.
	failed bool
}

// witness is the question whether anybody answers at all.
type witness struct {
	id      uint64
	started time.Time
	asking  bool
	repeats int
	// answered is when somebody last did.
	answered time.Time
	// known is how many were asked whose silence means something.
	known int
}

type witnessOrder struct {
	id uint64
	// targets are those of other nodes. The silence of the first counted of them means something; the others have never
	// answered, or are watched and may be silent for the same reason as the one that is asked about.
	targets [][]Target
	counted int
}

// put asks n, for a reason.
func (m *machine) put(now time.Time, n *node, why reasons, tries int) {
	if m.isolated() || len(n.targets) == 0 {
		return
	}
	n.askedAt = now
	if n.ask != nil {
		n.ask.why |= why
		return
	}
	n.ask = &asking{why: why, tries: tries, every: confirmEvery}
	if why == becauseTold {
		n.ask.every = toldEvery
	}
	m.order(now, n)
	if why&(becauseMissed|becauseGone) != 0 && !m.othersFresh(now, n) {
		m.askWitness(now) // in parallel, for it may be needed
	}
}

func (m *machine) order(now time.Time, n *node) {
	m.lastID++
	n.ask.id, n.ask.started = m.lastID, now
	m.todo.asks = append(m.todo.asks, askOrder{id: m.lastID, node: n.Name, targets: n.targets, tries: n.ask.tries, every: n.ask.every})
}

// late reports whether a question without an answer took so long that this process must have been stopped meanwhile.
func late(now, started time.Time, tries int, every time.Duration) bool {
	return now.Sub(started) > time.Duration(tries)*every+lateAfter
}

// setReply takes in what became of a question. What Heard says has to have been taken in before.
func (m *machine) setReply(now time.Time, id uint64, name string, r reply) {
	n := m.nodes[name]
	if n == nil || n.ask == nil || n.ask.id != id {
		return
	}
	a := n.ask
	switch {
	case r.answered:
		n.ask, n.unable = nil, 0
		m.metrics.confirmed(a.why, "answered")
		if a.why&(becauseMissed|becauseTold) != 0 {
			m.metrics.falseAlarms.Inc()
		}
		n.answered[r.from] = true
		n.cleared = n.missed
		m.alive(now, now, n)
	case r.failed:
		m.metrics.confirmed(a.why, "failed")
		n.ask = nil
		n.unable++
		m.judge(now, n)
	case late(now, a.started, a.tries, a.every) && a.repeats < maxRepeats:
		m.metrics.confirmed(a.why, "late")
		a.repeats++
		m.order(now, n)
	case late(now, a.started, a.tries, a.every):
		// Whoever hears nothing for want of time has found out nothing.
		m.metrics.confirmed(a.why, "late")
		n.ask = nil
		m.judge(now, n)
	default:
		m.metrics.confirmed(a.why, "silent")
		n.unable = 0
		m.conclude(now, n)
	}
	m.reorder(now)
}

// conclude decides what it means that n did not answer: that it is silent, that this node is cut off, or that this has to
// be found out first.
func (m *machine) conclude(now time.Time, n *node) {
	a, w := n.ask, &m.witness
	switch {
	case a.why == becauseUnsure:
		n.ask = nil
	case a.why&becauseTold != 0, m.othersAnswered(n, a.started):
		m.foundSilent(now, n)
	case w.asking || w.started.Before(a.started):
		a.waiting = true
		m.askWitness(now)
	case w.known == 0:
		m.foundSilent(now, n)
	default:
		m.cutSince = now
		m.setIsolated(now, true, m.blind)
	}
}

// othersFresh reports whether another node that this one watches answered a moment ago and is not suspected.
func (m *machine) othersFresh(now time.Time, n *node) bool {
	for _, o := range m.list {
		if o != n && o.missed == 0 && o.ask == nil && o.fresh(now) {
			return true
		}
	}
	return false
}

// othersAnswered reports whether anybody but n, which may be nil, has answered since then: this node's own link works.
func (m *machine) othersAnswered(n *node, since time.Time) bool {
	for _, o := range m.list {
		if o != n && !o.lastAnswer.Before(since) {
			return true
		}
	}
	return !m.witness.answered.Before(since)
}

// askWitness asks whether anybody answers: the witnesses that are configured, and other nodes.
func (m *machine) askWitness(now time.Time) {
	if m.witness.asking {
		return
	}
	m.lastID++
	m.witness.id, m.witness.started, m.witness.asking = m.lastID, now, true
	var known, unknown, watched [][]Target
	for _, n := range m.list {
		switch {
		case len(n.targets) == 0, !m.cut && (n.ask != nil || n.silent || n.Gone):
		case n.mine || n.silent || n.Gone:
			watched = append(watched, n.targets)
		case n.verifiable():
			known = append(known, n.targets)
		default:
			unknown = append(unknown, n.targets)
		}
	}
	order := &witnessOrder{id: m.lastID, counted: min(len(known), maxHelpers)}
	for _, group := range [][][]Target{known, unknown, watched} {
		order.targets = append(order.targets, group[:min(len(group), maxHelpers)]...)
	}
	m.todo.witness = order
}

// setWitness takes in whether any witness answered, and how many were asked whose silence would mean something.
func (m *machine) setWitness(now time.Time, id uint64, answered bool, known int) {
	w := &m.witness
	if !w.asking || w.id != id {
		return
	}
	w.asking = false
	w.known = known
	if !answered && late(now, w.started, confirmTries, confirmEvery) && w.repeats < maxRepeats {
		w.repeats++
		m.askWitness(now)
		return
	}
	w.repeats = 0
	if answered {
		w.answered = now
		if m.cut {
			m.setIsolated(now, false, m.blind)
		}
	}
	for _, n := range m.list {
		if n.ask != nil && n.ask.waiting {
			m.conclude(now, n)
		}
	}
	m.reorder(now)
}

// setHeard takes in how the watched nodes answer.
func (m *machine) setHeard(now time.Time, heard map[Target]Health) {
	for _, n := range m.list {
		if !n.watched.IsZero() {
			m.look(now, n, heard)
		}
	}
	m.reorder(now)
}

func (m *machine) look(now time.Time, n *node, heard map[Target]Health) {
	missed, known, failing := 0, false, false
	var newest time.Time
	for _, t := range n.targets {
		h, ok := heard[t]
		if !ok {
			continue
		}
		if h.Answered.After(newest) {
			newest = h.Answered
		}
		if !h.Answered.IsZero() {
			n.answered[t] = true
		}
		// An address that never answered may be on another link after all.
		if n.answered[t] && (!known || h.Missed < missed) {
			missed, known = h.Missed, true
		}
		failing = failing || n.answered[t] && h.Err != nil
	}
	n.missed = missed
	if newest.After(n.lastAnswer) {
		m.alive(now, newest, n)
	}
	if missed < suspectAfter {
		n.cleared = 0
	}
	if known && !failing && !n.silent && missed >= n.cleared+suspectAfter && now.Sub(n.watched) >= settleAfter {
		m.put(now, n, becauseMissed, confirmTries)
	}
}

// setVerdict takes in what another speaker says about a node.
func (m *machine) setVerdict(now time.Time, v Verdict) {
	n, by := m.nodes[v.Node], m.nodes[v.By]
	if n == nil || by == nil || by == n || by.Gone || v.Epoch < n.Epoch {
		return
	}
	m.metrics.verdicts.WithLabelValues("received").Inc()
	switch {
	case m.isolated():
	case !v.Silent:
		delete(n.verdicts, v.By)
		if n.silent && n.verifiable() {
			m.put(now, n, becauseUnsure, confirmTries)
		} else {
			n.silent = false
		}
	case n.silent:
	case len(n.targets) > 0:
		m.put(now, n, becauseTold, confirmTries)
	default:
		n.verdicts[v.By] = now
		said := 0
		for _, at := range n.verdicts {
			if now.Sub(at) < verdictFor {
				said++
			}
		}
		if said >= 2 || n.Gone {
			n.silent, n.silentAt = true, now
		}
	}
	m.judge(now, n)
	m.reorder(now)
}
