package neighbor

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the counters of a Prober.
type Metrics struct {
	probes    *prometheus.CounterVec // protocol, interface
	answers   *prometheus.CounterVec // protocol, interface
	missed    *prometheus.CounterVec // protocol, interface
	excused   *prometheus.CounterVec // protocol, interface
	lost      *prometheus.CounterVec // protocol, interface
	conflicts *prometheus.CounterVec // protocol, interface
	errors    *prometheus.CounterVec // protocol, interface, kind
}

// Kinds of errors, values of the label "kind".
const (
	kindMalformed = "malformed" // a packet that violates its RFC
	kindOpen      = "open"      // a socket could not be opened
	kindRead      = "read"      // a socket failed
	kindSend      = "send"      // a probe could not be sent
)

// NewMetrics returns metrics registered on reg, or nowhere if reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "berth", Subsystem: "neighbor", Name: name, Help: help,
		}, append([]string{"protocol", "interface"}, labels...))
	}
	m := &Metrics{
		probes:    counter("probes_total", "ARP requests and neighbour solicitations sent to other hosts."),
		answers:   counter("answers_total", "Answers from hosts that are watched or asked."),
		missed:    counter("missed_total", "Probes of watched hosts that had no answer in time."),
		excused:   counter("excused_total", "Probes of watched hosts without an answer that count for nothing: the link had no carrier, the socket failed or was overrun."),
		lost:      counter("lost_frames_total", "Frames for which a socket had no room."),
		conflicts: counter("conflicts_total", "Addresses that another host was found to have or to probe for."),
		errors:    counter("errors_total", "Packets that were malformed and operations that failed, by kind.", "kind"),
	}
	if reg != nil {
		for _, v := range m.all() {
			reg.MustRegister(v)
		}
	}
	return m
}

func (m *Metrics) all() []*prometheus.CounterVec {
	return []*prometheus.CounterVec{m.probes, m.answers, m.missed, m.excused, m.lost, m.conflicts, m.errors}
}

// forget drops the series of a lane that nobody needs any more, so that
// interfaces that come and go do not pile up.
func (m *Metrics) forget(k laneKey) {
	for _, v := range m.all() {
		v.DeletePartialMatch(prometheus.Labels{"protocol": k.proto.String(), "interface": k.ifname})
	}
}

// laneMetrics are the Metrics of one protocol on one interface, looked up once.
type laneMetrics struct {
	probes, answers, missed, excused, lost, conflicts, malformed, send prometheus.Counter
}

func (m *Metrics) forLane(k laneKey) laneMetrics {
	proto := k.proto.String()
	return laneMetrics{
		probes:    m.probes.WithLabelValues(proto, k.ifname),
		answers:   m.answers.WithLabelValues(proto, k.ifname),
		missed:    m.missed.WithLabelValues(proto, k.ifname),
		excused:   m.excused.WithLabelValues(proto, k.ifname),
		lost:      m.lost.WithLabelValues(proto, k.ifname),
		conflicts: m.conflicts.WithLabelValues(proto, k.ifname),
		malformed: m.errors.WithLabelValues(proto, k.ifname, kindMalformed),
		send:      m.errors.WithLabelValues(proto, k.ifname, kindSend),
	}
}

func (m *Metrics) failed(k laneKey, kind string) {
	m.errors.WithLabelValues(k.proto.String(), k.ifname, kind).Inc()
}
