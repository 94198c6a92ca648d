package membership

import "time"

// Why the view may not be settled, and how long the join round that settles it may take. Peers that are up answer
// within milliseconds; the limit is for those that never answer, such as a node that died but whose Pod the API still
// shows.
const (
	// startLimit bounds the round after start and after a link came back: the switch port may need a moment.
	startLimit = 2 * time.Second
	// aloneLimit bounds the round of a speaker that sees all others fail. It is short because this is also what failover
	// looks like to the survivor of two nodes, which should not wait; it is there because it is also what a speaker sees
	// that was stopped for a while (a suspended machine, a starved process) and whose timers then all fire at once.
	aloneLimit = 300 * time.Millisecond
)

// settling keeps count of the reasons to doubt the view and of the join rounds that answered them. A reason that comes
// up while a round is under way is answered only by the next one.
type settling struct {
	wanted, done uint64
	limit        time.Duration
}

// doubt asks for a join round that may take up to limit; a longer limit that was asked for before stays.
func (s *settling) doubt(limit time.Duration) {
	if s.settled() {
		s.limit = 0
	}
	s.limit = max(s.limit, limit)
	s.wanted++
}

func (s *settling) settled() bool { return s.done == s.wanted }

// begin returns what the next round answers, and how long it may take.
func (s *settling) begin() (round uint64, limit time.Duration) { return s.wanted, s.limit }

// finish records the end of a round.
func (s *settling) finish(round uint64) { s.done = max(s.done, round) }
