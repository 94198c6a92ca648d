package allocation

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

// Metrics tell how pools are filled and how allocation goes.
type Metrics struct {
	addresses *prometheus.GaugeVec   // by pool, family, state
	failures  *prometheus.CounterVec // by reason
	latency   prometheus.Histogram
	queue     prometheus.Gauge
	leader    prometheus.Gauge
	waiting   prometheus.Gauge
	accepted  *prometheus.GaugeVec // by kind, name
	// judged are the objects that accepted has.
	judged map[k8s.Key]bool
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
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_controller_leader",
			Help: "1 if this controller leads, 0 if it stands by.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_services_waiting",
			Help: "Services that lack an address that they ask for.",
		}),
		accepted: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_config_object_accepted",
			Help: "1 if the custom resource is in force, 0 if it was rejected; its condition Accepted says why.",
		}, []string{"kind", "name"}),
	}
	reg.MustRegister(m.addresses, m.failures, m.latency, m.queue, m.leader, m.waiting, m.accepted)
	return m
}

// Lead says that this replica has the lead.
func (m *Metrics) Lead() { m.leader.Set(1) }

// StepDown says that it has not, and forgets what only the leader knows.
func (m *Metrics) StepDown() {
	m.leader.Set(0)
	m.waiting.Set(0)
	m.queue.Set(0)
	m.addresses.Reset()
	m.accepted.Reset()
	m.pools, m.judged = nil, nil
}

// observe counts what the controller has decided.
func (c *Controller) observe() {
	c.metrics.observe(c.allocator)
	c.metrics.waiting.Set(float64(len(c.waiting)))
	reservations := make(map[string]config.Verdict, len(c.verdicts.IPReservations))
	for name := range c.verdicts.IPReservations {
		reservations[name] = c.reservationVerdict(name)
	}
	c.metrics.judge(map[k8s.Kind]map[string]config.Verdict{
		k8s.KindIPAddressPool: c.verdicts.IPAddressPools, k8s.KindIPReservation: reservations, k8s.KindL2Advertisement: c.verdicts.L2Advertisements,
		k8s.KindBGPPeer: c.verdicts.BGPPeers, k8s.KindBGPAdvertisement: c.verdicts.BGPAdvertisements,
		k8s.KindCommunity: c.verdicts.Communities, k8s.KindBFDProfile: c.verdicts.BFDProfiles,
	})
}

// judge takes in which objects are in force.
func (m *Metrics) judge(verdicts map[k8s.Kind]map[string]config.Verdict) {
	gone := m.judged
	m.judged = map[k8s.Key]bool{}
	for kind, byName := range verdicts {
		for name, verdict := range byName {
			value := 0.0
			if verdict.Accepted {
				value = 1
			}
			m.accepted.WithLabelValues(string(kind), name).Set(value)
			m.judged[k8s.Key{Kind: kind, Name: name}] = true
			delete(gone, k8s.Key{Kind: kind, Name: name})
		}
	}
	for key := range gone {
		m.accepted.DeleteLabelValues(string(key.Kind), key.Name)
	}
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
