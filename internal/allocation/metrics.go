package allocation

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/internal/ipam"
)

// Metrics tell how pools are filled and how allocation goes.
type Metrics struct {
	addresses *prometheus.GaugeVec   // by pool, family, state
	failures  *prometheus.CounterVec // by reason
	latency   prometheus.Histogram
	queue     prometheus.Gauge
	// pools are the pools and families that addresses has.
	pools map[poolFamily]bool
}

type poolFamily struct {
	pool   string
	family ipam.Family
}

// NewMetrics registers the metrics on reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		addresses: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_pool_addresses",
			Help: "Addresses of a pool, by family and state: assigned, reserved, resting, quarantined, available or out_of_pool.",
		}, []string{"pool", "family", "state"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_allocation_failures_total",
			Help: "Attempts to give a Service its addresses that failed, by the reason in its condition.",
		}, []string{"reason"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "berth_allocation_duration_seconds",
			Help:    "Time from when a Service without an address is first seen until the API server has its address.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		queue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_queue_depth",
			Help: "Changed objects that wait to be dealt with.",
		}),
	}
	reg.MustRegister(m.addresses, m.failures, m.latency, m.queue)
	return m
}

func (m *Metrics) refused(reason string) { m.failures.WithLabelValues(reason).Inc() }

func (m *Metrics) observe(a *ipam.Allocator) {
	gone := m.pools
	m.pools = map[poolFamily]bool{}
	for _, pool := range a.Stats() {
		for family, s := range map[ipam.Family]ipam.FamilyStats{ipam.IPv4: pool.IPv4, ipam.IPv6: pool.IPv6} {
			if s.Total.IsZero() && s.OutOfPool == 0 {
				continue
			}
			m.pools[poolFamily{pool.Pool, family}] = true
			delete(gone, poolFamily{pool.Pool, family})
			for state, n := range map[string]float64{
				"assigned": float64(s.Assigned), "reserved": s.Reserved.Float64(), "resting": float64(s.Resting),
				"quarantined": float64(s.Quarantined), "available": s.Available.Float64(), "out_of_pool": float64(s.OutOfPool),
			} {
				m.addresses.WithLabelValues(pool.Pool, family.String(), state).Set(n)
			}
		}
	}
	for g := range gone {
		m.addresses.DeletePartialMatch(prometheus.Labels{"pool": g.pool, "family": g.family.String()})
	}
}
