package membership

import (
	"bytes"
	stdlog "log"
	"net/netip"
	"regexp"
	"strings"

	"github.com/go-kit/log/level"
)

// listLogger returns the logger handed to memberlist. What matters to an operator is logged by this package, once per
// transition; memberlist itself repeats its complaints with every packet, so its lines are for debugging only. The one
// exception is a speaker with another key, of which only memberlist knows.
func (m *Membership) listLogger() *stdlog.Logger {
	return stdlog.New(&listWriter{m: m}, "", 0)
}

type listWriter struct{ m *Membership }

// from is how memberlist ends lines about something it has received.
var from = regexp.MustCompile(`from=(\S+)`)

func (w *listWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	_, text, _ = strings.Cut(text, "memberlist: ")
	if isKeyError(text) {
		if match := from.FindStringSubmatch(text); match != nil {
			w.m.keyRefused(match[1])
		}
	}
	level.Debug(w.m.logger).Log("msg", text, "from", "memberlist")
	return len(line), nil
}

// keyRefused notes that something from the given address and port was not encrypted with our key. memberlist may hold
// locks while it logs, but never one that is taken with mu held.
func (m *Membership) keyRefused(addr string) {
	m.metrics.keyRefused.Inc()
	host := addr
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		host = ap.Addr().Unmap().String()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		// Members understand us. What comes in their name may be from anybody: it must not keep this speaker from its work.
		if _, member := m.alive[p.Node]; !member && p.Addr.Addr().String() == host {
			m.refused[p.Node] = m.cfg.Clock.Now()
		}
	}
	m.reportKey(host)
}

// reportKey reports once that the speaker at host has another key. The caller holds mu.
func (m *Membership) reportKey(host string) {
	if !m.silent[keyOf(host)] {
		m.silent[keyOf(host)] = true
		level.Error(m.logger).Log("msg", "refusing a speaker that has another membership key, or none, until both "+
			"have the same", "addr", host)
	}
}

// refusedByPeers is the key in silent of the report that refusals keep the view from settling.
const refusedByPeers = "refused by peers"

// reportRefused reports once that speakers with another key keep the view from settling. The caller holds mu.
func (m *Membership) reportRefused(nodes []string) {
	if !m.silent[refusedByPeers] {
		m.silent[refusedByPeers] = true
		level.Error(m.logger).Log("msg", "taking no addresses: living speakers known from the API have another membership key; "+
			"if this lasts for longer than a minute, see that all of them can read the key and restart those that cannot",
			"nodes", strings.Join(nodes, ","))
	}
}

func keyOf(host string) string { return "key " + host }
