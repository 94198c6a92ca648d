package main

import (
	"github.com/prometheus/client_golang/prometheus"
)

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
	reg.MustRegister(m.owned, m.taken, m.given, m.planDuration, m.rivals, m.standingIn, m.unheard, m.proxyARP)
	m.owned.WithLabelValues("ipv4")
	m.owned.WithLabelValues("ipv6")
	m.rivals.WithLabelValues("speaker")
	m.rivals.WithLabelValues("foreign")
	return m
}
