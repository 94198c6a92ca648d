package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/internal/ipam"
)

type metrics struct {
	addresses *prometheus.GaugeVec   // by pool, family, state
	failures  *prometheus.CounterVec // by reason
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		addresses: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_pool_addresses",
			Help: "Addresses of a pool, by family and state: assigned or available.",
		}, []string{"pool", "family", "state"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_allocation_failures_total",
			Help: "Attempts to give a Service its addresses that failed, by the reason in its condition.",
		}, []string{"reason"}),
	}
	reg.MustRegister(m.addresses, m.failures)
	return m
}

func (m *metrics) refused(reason string) { m.failures.WithLabelValues(reason).Inc() }

func (m *metrics) observe(a *ipam.Allocator) {
	m.addresses.Reset()
	for _, pool := range a.Stats() {
		for family, s := range map[ipam.Family]ipam.FamilyStats{ipam.IPv4: pool.IPv4, ipam.IPv6: pool.IPv6} {
			if s.Total.IsZero() {
				continue
			}
			m.addresses.WithLabelValues(pool.Pool, family.String(), "assigned").Set(float64(s.Assigned))
			m.addresses.WithLabelValues(pool.Pool, family.String(), "available").Set(s.Available.Float64())
		}
	}
}
