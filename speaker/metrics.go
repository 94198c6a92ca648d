package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/internal/bfd"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/neighbor"
	"github.com/berth-lb/berth/internal/watch"
)

// partMetrics are those of all parts of a speaker but BGP's, which come from the
// sessions themselves.
type partMetrics struct {
	contact    *k8s.Contact
	loop       *metrics
	writer     *k8s.WriterMetrics
	membership *membership.Metrics
	watch      *watch.Metrics
	neighbor   *neighbor.Metrics
	l2         *l2.Metrics
	bfd        *bfd.Metrics
}

func newPartMetrics(reg prometheus.Registerer) partMetrics {
	return partMetrics{
		contact: k8s.NewContact(clock.RealClock{}, reg),
		loop:    newMetrics(reg), writer: k8s.NewWriterMetrics(reg), membership: membership.NewMetrics(reg),
		watch: watch.NewMetrics(reg), neighbor: neighbor.NewMetrics(reg), l2: l2.NewMetrics(reg), bfd: bfd.NewMetrics(reg),
	}
}

// metrics are what the speaker's loop counts.
type metrics struct {
	owned        *prometheus.GaugeVec
	taken        prometheus.Counter
	given        prometheus.Counter
	planDuration prometheus.Histogram
	rivals       *prometheus.CounterVec
	standingIn   prometheus.Gauge
	unheard      prometheus.Counter
	proxyARP     prometheus.Gauge
	withoutOwner prometheus.Gauge
	contested    prometheus.Gauge
	conflicts    *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		owned: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_speaker_addresses_owned",
			Help: "Addresses that this node answers for.",
		}, []string{"family"}),
		taken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_speaker_takeovers_total",
			Help: "Addresses that this node began to answer for.",
		}),
		given: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_speaker_releases_total",
			Help: "Addresses that this node no longer answers for.",
		}),
		planDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "berth_speaker_plan_duration_seconds",
			Help:    "Time to decide about all addresses once. Its count is the number of plans made.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 9),
		}),
		unheard: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_speaker_audits_failed_total",
			Help: "Questions for an address to the living speaker that owns it that were not answered.",
		}),
		standingIn: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_speaker_standing_in_nodes",
			Help: "Nodes whose speaker is away and for which this node answers.",
		}),
		proxyARP: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_speaker_proxy_arp_hosts",
			Help: "Hosts that answered for so many addresses before their first use that they seem to answer for every address.",
		}),
		rivals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_speaker_rivals_total",
			Help: "Times that another station was heard to speak for an address of this node, by who it is: a speaker or a foreign host.",
		}, []string{"who"}),
	}
	m.withoutOwner = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "berth_speaker_addresses_without_owner",
		Help: "Addresses with endpoints, selected by an L2Advertisement, that no node answers for: none is eligible, or the one that is has not taken them.",
	})
	m.contested = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "berth_speaker_addresses_contested",
		Help: "Addresses of this node that another living speaker claims too.",
	})
	m.conflicts = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "berth_speaker_address_conflicts",
		Help: "Addresses that a foreign host on the network has, by whether this node answers for them all the same (defended) or leaves them to it (yielded).",
	}, []string{"state"})
	reg.MustRegister(m.owned, m.taken, m.given, m.planDuration, m.rivals, m.standingIn, m.unheard, m.proxyARP, m.withoutOwner, m.contested, m.conflicts)
	m.conflicts.WithLabelValues("defended")
	m.conflicts.WithLabelValues("yielded")
	m.owned.WithLabelValues("ipv4")
	m.owned.WithLabelValues("ipv6")
	m.rivals.WithLabelValues("speaker")
	m.rivals.WithLabelValues("foreign")
	return m
}

// observe counts what a plan makes of the addresses, and what other hosts do.
func (m *metrics) observe(p *plan, c *conflicts) {
	withoutOwner := len(p.late)
	for _, place := range p.placements {
		if place.outcome == noNode {
			withoutOwner++
		}
	}
	m.withoutOwner.Set(float64(withoutOwner))
	m.contested.Set(float64(len(p.contested)))
	yielded, defended := 0, 0
	for _, k := range c.known {
		switch {
		case k.yields:
			yielded++
		case !k.proxied: // those have a metric of their own
			defended++
		}
	}
	m.conflicts.WithLabelValues("yielded").Set(float64(yielded))
	m.conflicts.WithLabelValues("defended").Set(float64(defended))
}
