package bfd

import (
	"net/netip"
	"testing"
)

// TestApplyingTheSameChangesNothing: whoever applies again whenever something has
// changed must not be told of a change for that.
func TestApplyingTheSameChangesNothing(t *testing.T) {
	t.Parallel()
	m := New(Options{})
	configs := []Config{{Name: "a", Peer: netip.MustParseAddr("192.0.2.1")}}
	m.Apply(nil)
	if m.pending {
		t.Error("nothing is news")
	}
	m.Apply(configs)
	if !m.pending {
		t.Error("a session is no news")
	}
	m.pending = false
	m.Apply(configs)
	if m.pending {
		t.Error("the same session is news")
	}
}
