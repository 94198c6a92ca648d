package l2

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the counters of an Announcer.
type Metrics struct {
	received   *prometheus.CounterVec // protocol, interface
	replied    *prometheus.CounterVec // protocol, interface
	gratuitous *prometheus.CounterVec // protocol, interface
	updates    *prometheus.CounterVec // protocol, interface
	stoodIn    *prometheus.CounterVec // protocol, interface
	rivals     *prometheus.CounterVec // protocol, interface
	addresses  *prometheus.GaugeVec   // protocol, interface
	standIns   *prometheus.GaugeVec   // protocol, interface
	errors     *prometheus.CounterVec // protocol, interface, kind
}

// Kinds of errors, values of the label "kind".
const (
	kindMalformed = "malformed" // a packet that violates its RFC
	kindOpen      = "open"      // a socket could not be opened
	kindRead      = "read"      // a socket failed
	kindSend      = "send"      // a packet could not be sent
	kindFilter    = "filter"    // the kernel refused a filter program
	kindGroup     = "group"     // a multicast group could not be joined
	kindCorrect   = "correct"   // this node's kernel could not be told what is announced
)

// NewMetrics returns metrics registered on reg, or nowhere if reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "berth", Subsystem: "l2", Name: name, Help: help,
		}, append([]string{"protocol", "interface"}, labels...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "berth", Subsystem: "l2", Name: name, Help: help,
		}, []string{"protocol", "interface"})
	}
	m := &Metrics{
		received:   counter("requests_received_total", "ARP requests and neighbour solicitations for an address that this node answers for or may have to soon."),
		replied:    counter("replies_sent_total", "ARP replies and solicited neighbour advertisements sent."),
		gratuitous: counter("gratuitous_sent_total", "Gratuitous ARP packets and unsolicited neighbour advertisements sent."),
		updates:    counter("updates_sent_total", "Unicast ARP replies and neighbour advertisements sent at a takeover to recent askers."),
		stoodIn:    counter("stand_in_replies_total", "Answers given with the MAC of an owner whose speaker is away."),
		rivals:     counter("rival_packets_total", "Packets of other stations that claim an address of which this node is the owner."),
		errors:     counter("errors_total", "Packets that were malformed and operations that failed, by kind.", "kind"),
		addresses:  gauge("addresses", "Addresses that this node answers for as their owner."),
		standIns:   gauge("stand_ins", "Addresses that this node answers for in place of their owner."),
	}
	if reg != nil {
		reg.MustRegister(m.received, m.replied, m.gratuitous, m.updates, m.stoodIn, m.rivals, m.errors, m.addresses, m.standIns)
	}
	return m
}

// forget drops the series of a port that no address asks for any more, so that
// interfaces that come and go do not pile up.
func (m *Metrics) forget(k portKey) {
	labels := prometheus.Labels{"protocol": k.proto.String(), "interface": k.ifname}
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.received, m.replied, m.gratuitous, m.updates, m.stoodIn, m.rivals, m.errors, m.addresses, m.standIns} {
		v.DeletePartialMatch(labels)
	}
}

// portMetrics are the Metrics of one protocol on one interface, looked up once.
type portMetrics struct {
	received, replied, gratuitous, updates, stoodIn, rivals, malformed, send, correct prometheus.Counter
}

func (m *Metrics) forPort(k portKey) portMetrics {
	proto := k.proto.String()
	return portMetrics{
		received:   m.received.WithLabelValues(proto, k.ifname),
		replied:    m.replied.WithLabelValues(proto, k.ifname),
		gratuitous: m.gratuitous.WithLabelValues(proto, k.ifname),
		updates:    m.updates.WithLabelValues(proto, k.ifname),
		stoodIn:    m.stoodIn.WithLabelValues(proto, k.ifname),
		rivals:     m.rivals.WithLabelValues(proto, k.ifname),
		malformed:  m.errors.WithLabelValues(proto, k.ifname, kindMalformed),
		send:       m.errors.WithLabelValues(proto, k.ifname, kindSend),
		correct:    m.errors.WithLabelValues(proto, k.ifname, kindCorrect),
	}
}

func (m *Metrics) failed(k portKey, kind string) {
	m.errors.WithLabelValues(k.proto.String(), k.ifname, kind).Inc()
}
