package gobgp

import "time"

const (
	// minBackoff is how long to wait before the second attempt, maxBackoff before
	// those that follow many others: a router that comes back is called within
	// that time. The first attempt is made at once.
	minBackoff = time.Second
	maxBackoff = 15 * time.Second
	// stableAfter is how long a session has to have been up for the next attempt
	// to count as the first one.
	stableAfter = 10 * time.Second
	// discoveryTime is how long to wait for an unnumbered peer's advertisement
	// before saying that there is none.
	discoveryTime = 15 * time.Second
)

// A backoff says how long to wait before the next attempt to connect.
type backoff struct{ attempts int }

// next returns the time to wait; random is from 0 to 1. Up to a quarter of it is
// taken off at random, so that nodes do not call a router that returns all at
// once.
func (b *backoff) next(random float64) time.Duration {
	b.attempts++
	if b.attempts == 1 {
		return 0
	}
	wait := min(maxBackoff, minBackoff<<min(b.attempts-2, 10))
	return wait - time.Duration(random*float64(wait)/4)
}
