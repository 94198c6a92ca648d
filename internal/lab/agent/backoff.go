package agent

import "time"

// How long a container that keeps ending waits before it is started again, as with
// a kubelet.
const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 5 * time.Minute
	backoffReset = 10 * time.Minute
)

// backoff is the history of one container's restarts.
type backoff struct{ last time.Duration }

// next returns the pause before the next start of a container that ended after
// having run for a while. The first restart is immediate.
func (b *backoff) next(ran time.Duration) time.Duration {
	if ran >= backoffReset {
		b.last = 0
	}
	pause := b.last
	if b.last == 0 {
		b.last = firstBackoff
	} else {
		b.last = min(2*b.last, maxBackoff)
	}
	return pause
}
