package gobgp

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	bgppacket "github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// hooks is what a GoBGP server calls: as its logger and as its timing hook. What
// matters to an operator this package logs itself, once per transition; GoBGP's
// own lines are for debugging only.
type hooks struct {
	engine *engine
	logger log.Logger
	lost   sync.Once
}

// Observe implements server.FSMTimingHook.
func (h *hooks) Observe(op server.FSMOperation, _, _ time.Duration) { h.engine.done(op) }

// Debug implements log.Logger of GoBGP. It drops the lines, one per message and
// more, and picks out those that tell of a new session and of a peer's end.
func (h *hooks) Debug(msg string, fields gobgplog.Fields) {
	switch msg {
	case "state changed":
		switch fields["new"] {
		case bgppacket.BGP_FSM_ESTABLISHED.String():
			h.engine.establishing()
		case bgppacket.BGP_FSM_IDLE.String():
			h.lost.Do(func() { close(h.engine.lost) })
		}
	case "freed fsm.h":
		close(h.engine.freed)
	}
}

// Info implements log.Logger of GoBGP.
func (h *hooks) Info(msg string, fields gobgplog.Fields) { h.write(msg, fields) }

// Warn implements log.Logger of GoBGP.
func (h *hooks) Warn(msg string, fields gobgplog.Fields) { h.write(msg, fields) }

// Error implements log.Logger of GoBGP.
func (h *hooks) Error(msg string, fields gobgplog.Fields) { h.write(msg, fields) }

// Fatal implements log.Logger of GoBGP.
func (h *hooks) Fatal(msg string, fields gobgplog.Fields) { h.Panic(msg, fields) }

// Panic implements log.Logger of GoBGP, which calls it where it finds itself in
// a state that cannot be.
func (h *hooks) Panic(msg string, fields gobgplog.Fields) {
	panic(fmt.Sprintf("gobgp: %s %v", msg, fields))
}

// SetLevel implements log.Logger of GoBGP.
func (h *hooks) SetLevel(gobgplog.LogLevel) {}

// GetLevel implements log.Logger of GoBGP. It keeps GoBGP from putting together
// lines that Debug drops.
func (h *hooks) GetLevel() gobgplog.LogLevel { return gobgplog.InfoLevel }

func (h *hooks) write(msg string, fields gobgplog.Fields) {
	keyvals := []any{"msg", msg, "from", "gobgp"}
	names := make([]string, 0, len(fields))
	for name := range fields {
		if name != "Topic" && name != "Key" { // always "Peer" and loopback
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		keyvals = append(keyvals, name, fmt.Sprint(fields[name]))
	}
	level.Debug(h.logger).Log(keyvals...)
}
