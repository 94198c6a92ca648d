package membership

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/memberlist"
)

// maxVerdicts bounds the verdicts that wait to be sent, and those that wait to be read.
const maxVerdicts = 256

// Verdict is what one speaker has found out about another.
type Verdict struct {
	// Node is whom it is about, and Epoch which process of its speaker.
	Node  string
	Epoch uint64
	// Silent says that the node does not answer; otherwise that its speaker alone is gone.
	Silent bool
	// By is the node of who says so.
	By string
}

// Broadcast tells all members, also the one that it is about, at once and only once: packets may be lost. Without By, it is
// this speaker who says so.
func (m *Membership) Broadcast(v Verdict) {
	v.By = cmp.Or(v.By, m.cfg.Node)
	m.mu.Lock()
	defer m.mu.Unlock()
	if pushOut(m.outbox, v) {
		m.metrics.verdicts.WithLabelValues("dropped").Inc()
	}
}

// Verdicts receives what others broadcast, even if it is about this speaker. If it is not read, the oldest are dropped.
func (m *Membership) Verdicts() <-chan Verdict { return m.verdicts }

// hear passes on a verdict of another speaker. The caller holds mu.
func (m *Membership) hear(v Verdict) {
	m.metrics.verdicts.WithLabelValues("received").Inc()
	if pushOut(m.verdicts, v) {
		m.metrics.verdicts.WithLabelValues("dropped").Inc()
	}
}

// pushOut puts v into the queue and reports whether the oldest had to go for that. There is one caller at a time.
func pushOut(queue chan Verdict, v Verdict) (dropped bool) {
	for {
		select {
		case queue <- v:
			return dropped
		default:
		}
		select {
		case <-queue:
			dropped = true
		default:
		}
	}
}

// verdictLoop sends verdicts. It waits for nothing else, because they are urgent.
func (m *Membership) verdictLoop(ctx context.Context, list *memberlist.Memberlist) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case v := <-m.outbox:
			m.metrics.verdicts.WithLabelValues("sent").Inc()
			m.mu.Lock()
			others := m.others()
			m.mu.Unlock()
			sendPackets(list, others, verdictMessage(v))
		}
	}
}

func verdictMessage(v Verdict) []byte {
	b := binary.AppendUvarint(appendString([]byte{kindVerdict}, v.Node), v.Epoch)
	var flags byte
	if v.Silent {
		flags |= flagSilent
	}
	return appendString(append(b, flags), v.By)
}

func decodeVerdict(b []byte) (*Verdict, error) {
	d := decoder{b: b}
	v := &Verdict{Node: d.string(maxNodeName), Epoch: d.uint()}
	v.Silent = d.uint()&flagSilent != 0
	v.By = d.string(maxNodeName)
	if d.err == nil && (v.Node == "" || v.By == "") {
		d.fail(errors.New("a name is missing"))
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding verdict: %w", d.err)
	}
	return v, nil
}
