package gobgp

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/internal/bgp"
)

// A collector makes metrics of a Speaker's states. They are all counted
// elsewhere, and a peer that is gone leaves none behind.
type collector struct {
	speaker *Speaker

	up, updates, notificationsSent, notificationsReceived, messages, prefixes, flaps *prometheus.Desc
}

func newCollector(s *Speaker) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("berth_bgp_"+name, help, append([]string{"peer"}, labels...), nil)
	}
	return &collector{
		speaker:               s,
		up:                    desc("session_up", "Whether the BGP session is established (1) or not (0)."),
		updates:               desc("updates_sent_total", "UPDATE messages sent."),
		notificationsSent:     desc("notifications_sent_total", "NOTIFICATION messages sent."),
		notificationsReceived: desc("notifications_received_total", "NOTIFICATION messages received."),
		messages:              desc("messages_total", "BGP messages by type and direction.", "direction", "type"),
		prefixes:              desc("prefixes_announced", "Prefixes that the peer knows from this node."),
		flaps:                 desc("session_flaps_total", "How often an established session was lost."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.updates, c.notificationsSent, c.notificationsReceived, c.messages, c.prefixes, c.flaps} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.speaker.States() {
		var up float64
		if s.State == bgp.Established {
			up = 1
		}
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.Name)
		}
		counter := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{s.Name}, labels...)...)
		}
		gauge(c.up, up)
		gauge(c.prefixes, float64(s.Announced))
		counter(c.updates, s.Sent.Update)
		counter(c.notificationsSent, s.Sent.Notification)
		counter(c.notificationsReceived, s.Received.Notification)
		counter(c.flaps, s.Flaps)
		for direction, m := range map[string]bgp.Messages{"sent": s.Sent, "received": s.Received} {
			counter(c.messages, m.Open, direction, "open")
			counter(c.messages, m.Update, direction, "update")
			counter(c.messages, m.Notification, direction, "notification")
			counter(c.messages, m.Keepalive, direction, "keepalive")
			counter(c.messages, m.RouteRefresh, direction, "route-refresh")
		}
	}
}
