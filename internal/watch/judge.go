package watch

import "time"

// judge decides on n from all that is known of it.
func (m *machine) judge(now time.Time, n *node) {
	state, why := m.stateOf(now, n)
	is := Standing{State: state, SpeakerGone: n.Gone || n.Abstains || n.ended, Since: n.standing.Since}
	was := n.standing
	left := n.Gone && n.Left && !n.Returns
	if n.judged && m.isolated() && !left && (is.State > was.State || is.SpeakerGone && !was.SpeakerGone) {
		return // not this node's to say
	}
	if is.State != was.State || !n.judged {
		is.Since = now
	}
	if is == was && n.judged {
		return
	}
	if n.judged || is != (Standing{Since: now}) {
		m.todo.moved = append(m.todo.moved, transition{node: n.Name, was: was, is: is, why: why})
	}
	n.standing, n.judged = is, true
	m.dirty = true
}

// stateOf returns what a node is good for and the reason, in words that go with "because".
func (m *machine) stateOf(now time.Time, n *node) (State, string) {
	switch {
	case n.Gone && n.Left && !n.Returns:
		return Down, "its speaker left for good"
	case n.silent:
		return Down, "its kernel does not answer"
	case !n.Gone && n.Abstains:
		return Up, "its speaker has started anew and holds no address yet"
	case !n.Gone && n.ended:
		return Up, "the connection to its speaker ended"
	case !n.Gone:
		return Up, "its speaker lives"
	case n.judged && n.standing.State == Down && !m.serves(now, n):
		return Down, "its speaker has not returned"
	case m.limit == 0:
		return Down, "its speaker is gone and standing in is switched off"
	case !n.Left && (len(n.targets) == 0 && len(m.links) > 0 || n.unable >= unableLimit):
		// Without own links this process has only just started, and does not know yet whom it can ask.
		return Down, "its speaker failed and its kernel cannot be asked"
	case n.proxy != proxyHealthy && n.proxy != proxyUnknown && now.Sub(n.proxyWell) >= proxyPatience:
		return Down, "its speaker is gone and its kube-proxy does not work"
	case now.Sub(n.goneSince) >= m.limit && !m.deaf():
		return Down, "its speaker did not return in time"
	case n.Left:
		return Orphaned, "its speaker left and will return"
	}
	return Orphaned, "its speaker failed"
}

// mayServe reports whether a node that is Down, whose speaker is gone, can be orphaned again. What others took over
// meanwhile stays theirs, but there may be addresses that none of them could.
func (m *machine) mayServe(now time.Time, n *node) bool {
	return n.standing.State == Down && n.Gone && (!n.Left || n.Returns) && len(n.targets) > 0 && now.Sub(n.goneSince) < m.limit
}

// serves reports whether such a node has turned out to forward.
func (m *machine) serves(now time.Time, n *node) bool {
	down := n.standing.Since
	return m.mayServe(now, n) && n.lastAnswer.After(down) && (!m.asksProxy || n.proxy == proxyHealthy && n.proxyWell.After(down))
}

// deaf reports whether all other speakers, several, are gone though their nodes are there. Then it is rather this one that
// does not hear them, and what they do meanwhile is not known here.
func (m *machine) deaf() bool {
	gone := 0
	for _, n := range m.list {
		if !n.Gone || n.silent {
			return false
		}
		gone++
	}
	return gone > 1
}

// isolated reports whether this node seems to be the one that is cut off.
func (m *machine) isolated() bool { return m.cut || m.blind }

// setIsolated takes in whether this node is cut off. When that is over, everything is looked at afresh.
func (m *machine) setIsolated(now time.Time, cut, blind bool) {
	was := m.isolated()
	m.cut, m.blind = cut, blind
	if m.isolated() == was {
		return
	}
	m.todo.touched = true
	if !was {
		why := "none of the nodes that it watches answers, and no witness either"
		if blind {
			why = "it has lost its own links"
		}
		m.todo.moved = append(m.todo.moved, transition{why: why, is: Standing{State: Down}})
		for _, n := range m.list {
			n.ask = nil
		}
		return
	}
	m.todo.moved = append(m.todo.moved, transition{why: "it gets answers again"})
	for _, n := range m.list {
		n.missed, n.cleared = 0, 0
		if !n.watched.IsZero() {
			n.watched = now
		}
		if n.Gone && n.standing.State != Down {
			m.put(now, n, becauseGone, confirmTries)
		}
		m.judge(now, n)
	}
}

// alive takes in that the kernel of n answered at the given time.
func (m *machine) alive(now, at time.Time, n *node) {
	if at.After(n.lastAnswer) {
		n.lastAnswer = at
	}
	if m.cut && !at.Before(m.cutSince) {
		m.setIsolated(now, false, m.blind)
	}
	if !n.silent {
		return
	}
	n.silent = false
	clear(n.verdicts)
	if n.mine && !n.Gone {
		m.say(now, n, false)
	}
	m.judge(now, n)
}

// foundSilent takes in that the kernel of n does not answer and that this node is not to blame.
func (m *machine) foundSilent(now time.Time, n *node) {
	if n.ask != nil && n.ask.why&becauseMissed != 0 && n.mine {
		m.say(now, n, true)
	}
	n.ask = nil
	n.silent, n.silentAt = true, now
	m.judge(now, n)
}

// say tells the others about n, and will repeat it.
func (m *machine) say(now time.Time, n *node, silent bool) {
	n.saying, n.saidAt, n.repeated = silent, now, 0
	m.broadcast(n)
}

func (m *machine) broadcast(n *node) {
	m.metrics.verdicts.WithLabelValues("sent").Inc()
	m.todo.verdicts = append(m.todo.verdicts, Verdict{Node: n.Name, Epoch: n.Epoch, Silent: n.saying, By: m.self})
}

// repeat says again what may have been lost, as long as it is true.
func (m *machine) repeat(now time.Time, n *node) {
	if n.saidAt.IsZero() {
		return
	}
	if n.saying != n.silent || m.isolated() || n.repeated == len(repeats) {
		n.saidAt = time.Time{}
		return
	}
	if now.Sub(n.saidAt) >= repeats[n.repeated] {
		n.repeated++
		m.broadcast(n)
	}
}
