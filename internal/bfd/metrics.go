package bfd

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the counters of a Monitor.
type Metrics struct {
	up           *prometheus.GaugeVec   // peer, local, hops
	received     *prometheus.CounterVec // peer, local, hops
	sent         *prometheus.CounterVec // peer, local, hops
	echoReceived *prometheus.CounterVec // peer, local, hops
	echoSent     *prometheus.CounterVec // peer, local, hops
	ups          *prometheus.CounterVec // peer, local, hops
	downs        *prometheus.CounterVec // peer, local, hops
	sendErrors   *prometheus.CounterVec // peer, local, hops
	discarded    *prometheus.CounterVec // reason
}

// Reasons to discard a packet, values of the label "reason".
const (
	discardMalformed = "malformed" // it violates RFC 5880
	discardTTL       = "ttl"       // it comes from too far away
	discardUnknown   = "unknown"   // it belongs to no session
)

// NewMetrics returns metrics registered on reg, or nowhere if reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	labels := []string{"peer", "local", "hops"}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "berth", Subsystem: "bfd", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "berth", Subsystem: "bfd", Name: "session_up", Help: "1 if the session is up, 0 if it is not.",
		}, labels),
		received:     counter("control_packets_received_total", "BFD control packets of the session that were received."),
		sent:         counter("control_packets_sent_total", "BFD control packets of the session that were sent."),
		echoReceived: counter("echo_packets_received_total", "BFD echo packets of the session that came back."),
		echoSent:     counter("echo_packets_sent_total", "BFD echo packets of the session that were sent."),
		ups:          counter("session_up_events_total", "How often the session came up."),
		downs:        counter("session_down_events_total", "How often the session was up and went down."),
		sendErrors:   counter("send_errors_total", "BFD packets of the session that the kernel refused to send."),
		discarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "berth", Subsystem: "bfd", Name: "discarded_packets_total",
			Help: "BFD control packets that were discarded: malformed, from too far away, or of no session.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{discardMalformed, discardTTL, discardUnknown} {
		m.discarded.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(m.up, m.received, m.sent, m.echoReceived, m.echoSent, m.ups, m.downs, m.sendErrors, m.discarded)
	}
	return m
}

// linkMetrics are the Metrics of one session, looked up once.
type linkMetrics struct {
	up                                                             prometheus.Gauge
	received, sent, echoReceived, echoSent, ups, downs, sendErrors prometheus.Counter
}

// labels of a session: its peer as a user would write it, its source address if
// that is configured, and whether it spans one hop or several.
func (m *Metrics) labels(k key) prometheus.Labels {
	local, hops := "", "single"
	if k.local.IsValid() {
		local = k.local.String()
	}
	if k.multihop {
		hops = "multi"
	}
	return prometheus.Labels{"peer": k.String(), "local": local, "hops": hops}
}

func (m *Metrics) forLink(k key) linkMetrics {
	labels := m.labels(k)
	return linkMetrics{
		up:           m.up.With(labels),
		received:     m.received.With(labels),
		sent:         m.sent.With(labels),
		echoReceived: m.echoReceived.With(labels),
		echoSent:     m.echoSent.With(labels),
		ups:          m.ups.With(labels),
		downs:        m.downs.With(labels),
		sendErrors:   m.sendErrors.With(labels),
	}
}

// forget drops the series of a session that is not kept any more.
func (m *Metrics) forget(k key) {
	labels := m.labels(k)
	for _, v := range []interface {
		Delete(prometheus.Labels) bool
	}{m.up, m.received, m.sent, m.echoReceived, m.echoSent, m.ups, m.downs, m.sendErrors} {
		v.Delete(labels)
	}
}
