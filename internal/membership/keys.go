package membership

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-kit/log/level"
	"github.com/hashicorp/memberlist"
)

const (
	keyBytes = 32 // AES-256
	// keyDelay is how long a changed key only opens what others send before this speaker sends with it. By then all have to
	// have it: it is longer than a client of the API server takes to find that its connection is dead (45 s) and to watch anew.
	keyDelay = time.Minute
	// refusedHold is how long a refusal because of another key counts. A round asks again, and rounds follow each other
	// while the view is not settled.
	refusedHold = 2 * time.Second
)

func newRing(key []byte) (*memberlist.Keyring, error) {
	if len(key) == 0 {
		return nil, nil //nolint:nilnil // memberlist takes no keyring for no encryption.
	}
	return memberlist.NewKeyring(nil, slices.Clone(key))
}

// SetKey replaces the key while the group runs. What is encrypted with it can be read at once; this speaker sends with it
// a minute later, when all others can read it too. The former key goes on being read until the process ends.
func (m *Membership) SetKey(key []byte) error {
	if len(key) != keyBytes {
		return fmt.Errorf("membership: new key has %d bytes; AES-256 needs %d", len(key), keyBytes)
	}
	if m.ring == nil {
		return fmt.Errorf("membership: a group without encryption cannot be given a key while it runs")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if bytes.Equal(key, m.newest) {
		return nil
	}
	m.newest = slices.Clone(key)
	if err := m.ring.AddKey(m.newest); err != nil {
		return fmt.Errorf("membership: installing the new key: %w", err)
	}
	level.Info(m.logger).Log("msg", "the membership key has changed; sending with it when the others can be expected to have it",
		"after", m.cfg.keyDelay)
	kick(m.keyKick)
	return nil
}

// keyLoop begins to send with a changed key after the delay.
func (m *Membership) keyLoop(ctx context.Context) error {
	due := time.NewTimer(0)
	due.Stop()
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.keyKick:
			due.Reset(m.cfg.keyDelay)
		case <-due.C:
			m.useNewest()
		}
	}
}

func (m *Membership) useNewest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ring.UseKey(m.newest); err != nil { // SetKey has put it there
		level.Error(m.logger).Log("msg", "cannot use the new membership key", "err", err)
		return
	}
	level.Info(m.logger).Log("msg", "sending with the new membership key")
}

// refusedPeers returns the names of the known peers that have another key, sorted. They are alive and may answer for any
// address. The caller holds mu.
func (m *Membership) refusedPeers() []string {
	var names []string
	for node, at := range m.refused {
		if m.cfg.Clock.Since(at) <= refusedHold && !m.recentlyLeft(node) {
			names = append(names, node)
		}
	}
	slices.Sort(names)
	return names
}
