package watch

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what this package counts.
type Metrics struct {
	nodes         *prometheus.GaugeVec   // state
	speakersGone  prometheus.Gauge       //
	isolated      prometheus.Gauge       //
	transitions   *prometheus.CounterVec // state
	verdicts      *prometheus.CounterVec // direction
	confirmations *prometheus.CounterVec // reason, result
	falseAlarms   prometheus.Counter     //
	proxyChecks   *prometheus.CounterVec // result
	connections   *prometheus.GaugeVec   // direction
	refused       prometheus.Counter     //
}

// NewMetrics returns metrics registered on reg, or nowhere if reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: "berth", Subsystem: "watch", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "berth", Subsystem: "watch", Name: name, Help: help}
	}
	m := &Metrics{
		nodes:        prometheus.NewGaugeVec(gauge("nodes", "Other nodes by state: up, orphaned (the speaker is gone, the node forwards) or down."), []string{"state"}),
		speakersGone: prometheus.NewGauge(gauge("speakers_gone", "Nodes on which no speaker answers at present, whatever their state.")),
		isolated:     prometheus.NewGauge(gauge("isolated", "1 if this node seems to be cut off itself, so that it takes nothing over.")),
		transitions:  prometheus.NewCounterVec(counter("transitions_total", "How often a node entered a state."), []string{"state"}),
		verdicts:     prometheus.NewCounterVec(counter("verdicts_total", "What speakers told each other about nodes that fell silent or answer again."), []string{"direction"}),
		confirmations: prometheus.NewCounterVec(counter("confirmations_total",
			"Questions to a node whether it still answers, by why they were put (missed, told, gone, unsure) and by what became of them (answered, silent, late, failed)."),
			[]string{"reason", "result"}),
		falseAlarms: prometheus.NewCounter(counter("false_alarms_total", "Nodes that were suspected or called silent and answered when asked.")),
		proxyChecks: prometheus.NewCounterVec(counter("proxy_checks_total", "Questions to the kube-proxy of nodes whose speaker is gone."), []string{"result"}),
		connections: prometheus.NewGaugeVec(gauge("connections", "Watch connections that stand: accepted from speakers that watch this one (in), and to those that this one watches (out)."), []string{"direction"}),
		refused:     prometheus.NewCounter(counter("connections_refused_total", "Watch connections that were refused because they did not come from a speaker's address.")),
	}
	for _, s := range []State{Up, Orphaned, Down} {
		m.nodes.WithLabelValues(s.String())
		m.transitions.WithLabelValues(s.String())
	}
	for _, direction := range []string{"sent", "received"} {
		m.verdicts.WithLabelValues(direction)
	}
	for _, direction := range []string{"in", "out"} {
		m.connections.WithLabelValues(direction)
	}
	for s := range proxyResults {
		m.proxyChecks.WithLabelValues(proxyResults[s])
	}
	if reg != nil {
		reg.MustRegister(m.nodes, m.speakersGone, m.isolated, m.transitions, m.verdicts, m.confirmations, m.falseAlarms, m.proxyChecks, m.connections, m.refused)
	}
	return m
}

// proxyResults are the values of the label result of proxyChecks, by proxyState.
var proxyResults = [...]string{proxyUnknown: "unknown", proxyHealthy: "healthy", proxyUnhealthy: "unhealthy", proxySilent: "silent"}

// confirmed counts a question that was put for the first of its reasons.
func (m *Metrics) confirmed(why reasons, result string) {
	reason := "unsure"
	switch {
	case why&becauseMissed != 0:
		reason = "missed"
	case why&becauseTold != 0:
		reason = "told"
	case why&becauseGone != 0:
		reason = "gone"
	}
	m.confirmations.WithLabelValues(reason, result).Inc()
}

func (m *Metrics) observe(s *Snapshot) {
	counts, gone := [Down + 1]int{}, 0
	for _, standing := range s.Nodes {
		counts[standing.State]++
		if standing.SpeakerGone {
			gone++
		}
	}
	for state, count := range counts {
		m.nodes.WithLabelValues(State(state).String()).Set(float64(count))
	}
	m.speakersGone.Set(float64(gone))
	m.isolated.Set(0)
	if s.Isolated {
		m.isolated.Set(1)
	}
}
