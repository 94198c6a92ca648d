package l2

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What goes wrong once in a while does not add up to a link that takes nothing.
func TestUnsentIsForgotten(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	var s portStats
	for i, c := range []struct{ at, since time.Duration }{
		{0, 0}, {time.Second, 0}, {unsentMemory, 0}, {2*unsentMemory + time.Second, 2*unsentMemory + time.Second}, {2*unsentMemory + 2*time.Second, 2*unsentMemory + time.Second},
	} {
		s.sent(start.Add(c.at), unix.ENOBUFS)
		if u := s.unsent.Load(); !u.First.Equal(start.Add(c.since)) || !u.Last.Equal(start.Add(c.at)) {
			t.Errorf("packet %d: %+v", i, u)
		}
	}
}
