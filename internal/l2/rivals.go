package l2

import (
	"net/netip"
	"sync"
	"time"
)

// A Rival is another station that was seen to say that it has an address which
// this node answers for as its owner: in an ARP packet of any operation, in a
// neighbour advertisement, or in a probe for duplicates of IPv6. (The probe of
// ARP is a mere question; it is answered.)
type Rival struct {
	Addr      netip.Addr
	Interface string
	MAC       MAC
	At        time.Time
}

const (
	// rivalInterval is how often the same rival is reported at most.
	rivalInterval = time.Second
	// rivalQueue is how many reports wait for the reader; more are dropped, and
	// made when the rival is heard again.
	rivalQueue = 256
	// rivalMemory bounds the rivals that are told apart within rivalInterval. An
	// attacker who forges more of them is reported often enough.
	rivalMemory = 1024
)

// rivalry reports rivals.
type rivalry struct {
	reports chan Rival

	mu   sync.Mutex
	last map[rivalKey]time.Time // when it was reported
}

type rivalKey struct {
	addr netip.Addr
	mac  MAC
}

func newRivalry() *rivalry {
	return &rivalry{reports: make(chan Rival, rivalQueue), last: make(map[rivalKey]time.Time)}
}

// report reports r unless it was a short while ago.
func (v *rivalry) report(r Rival) {
	key := rivalKey{r.Addr, r.MAC}
	v.mu.Lock()
	defer v.mu.Unlock()
	if last, known := v.last[key]; known && r.At.Sub(last) < rivalInterval {
		return
	}
	if len(v.last) >= rivalMemory {
		for k, last := range v.last {
			if r.At.Sub(last) >= rivalInterval {
				delete(v.last, k)
			}
		}
		if len(v.last) >= rivalMemory {
			return
		}
	}
	select {
	case v.reports <- r:
		v.last[key] = r.At
	default:
	}
}
