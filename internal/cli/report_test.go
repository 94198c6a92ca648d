package cli

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"
)

func TestReports(t *testing.T) {
	for _, report := range []struct {
		name string
		make func(*Cluster) Report
	}{
		{"pools", func(c *Cluster) Report { return ReportPools(c) }},
		{"services", func(c *Cluster) Report { return ReportServices(c) }},
		{"nodes", func(c *Cluster) Report { return ReportNodes(c) }},
		{"peers", func(c *Cluster) Report { return ReportPeers(c) }},
		{"routes", func(c *Cluster) Report { return ReportRoutes(c) }},
	} {
		for _, cluster := range []struct {
			name string
			make func() *Cluster
		}{{"healthy", healthy}, {"troubled", troubled}, {"empty", func() *Cluster { return &Cluster{Now: now} }}} {
			t.Run(report.name+"/"+cluster.name, func(t *testing.T) {
				for _, format := range Formats() {
					golden(t, report.name+"/"+cluster.name+"."+format, render(t, report.make(cluster.make()), Format(format)))
				}
			})
		}
	}
}

func TestVersion(t *testing.T) {
	for _, format := range Formats() {
		golden(t, "version."+format, render(t, Version{Version: "v1.2.3", Go: "go1.26", Platform: "linux/amd64"}, Format(format)))
	}
}

func TestUnknownFormat(t *testing.T) {
	if err := Write(&strings.Builder{}, Version{}, "xml", false); err == nil {
		t.Error("format xml was accepted")
	}
}

// Colours change nothing but the colour: columns stay where they are.
func TestColours(t *testing.T) {
	var b strings.Builder
	if err := Write(&b, ReportServices(troubled()), FormatTable, true); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if !strings.Contains(text, "\x1b[31m<pending>\x1b[0m") {
		t.Errorf("what is wrong is not red:\n%q", text)
	}
	for _, code := range []string{"\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"} {
		text = strings.ReplaceAll(text, code, "")
	}
	if diff := cmp.Diff(render(t, ReportServices(troubled()), FormatTable), text); diff != "" {
		t.Error(diff)
	}
}

func TestParseAnnounced(t *testing.T) {
	for _, test := range []struct {
		message string
		want    []Announcement
	}{
		{"192.0.2.1 by ARP from node-1 (eth0, eth1)", []Announcement{{Address: "192.0.2.1", Protocol: "ARP", Node: "node-1", Interfaces: []string{"eth0", "eth1"}}}},
		{"2001:db8::1 by NDP from node-1 (eth0), though another host, 02:00:00:00:00:01, speaks for it too", []Announcement{{Address: "2001:db8::1", Protocol: "NDP", Node: "node-1", Interfaces: []string{"eth0"}}}},
		{"192.0.2.1 by BGP from 1 node to a", []Announcement{{Address: "192.0.2.1", BGPNodes: 1, BGPPeers: []string{"a"}}}},
		{"192.0.2.1 by ARP from n (eth0) and by BGP from 3 nodes to a, b", []Announcement{{Address: "192.0.2.1", Protocol: "ARP", Node: "n", Interfaces: []string{"eth0"}, BGPNodes: 3, BGPPeers: []string{"a", "b"}}}},
		{"192.0.2.1 by BGP from 2 nodes to a, but not on the network of the nodes: 192.0.2.1 is not announced: none of 2 nodes is eligible: 2 without a usable interface", []Announcement{{Address: "192.0.2.1", BGPNodes: 2, BGPPeers: []string{"a"}}}},
		{"192.0.2.1 is not announced: there are no nodes; 192.0.2.2 by ARP from n (eth0)", []Announcement{{Address: "192.0.2.1"}, {Address: "192.0.2.2", Protocol: "ARP", Node: "n", Interfaces: []string{"eth0"}}}},
		{"192.0.2.1 is not announced: node n should announce it but does not yet; see its NodeState for conflicts, or its log", []Announcement{{Address: "192.0.2.1"}}},
		{"nonsense", nil},
	} {
		got := parseAnnounced(&metav1.Condition{Message: test.message})
		for i := range got {
			got[i].Message = ""
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.message, diff)
		}
	}
}
