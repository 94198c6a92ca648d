package cli

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

func TestStatus(t *testing.T) {
	many := func() *Cluster {
		c := healthy()
		for i := range 20 {
			s := newService("lab", fmt.Sprintf("pending-%02d", i))
			take(s, "PoolExhausted", "no address is free in pool general")
			c.Services = append(c.Services, s)
		}
		return c
	}
	blind := func() *Cluster {
		c := healthy()
		c.Pods, c.Lease = nil, nil
		c.Unread = []Unread{{"leases", "forbidden"}, {"pods", "forbidden"}}
		return c
	}
	for _, test := range []struct {
		name    string
		make    func() *Cluster
		healthy bool
	}{
		{"healthy", healthy, true},
		{"troubled", troubled, false},
		{"many", many, false},
		{"blind", blind, true},
		{"empty", func() *Cluster { return &Cluster{Now: now, Namespace: "berth-system"} }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			status := ReportStatus(test.make())
			if status.Healthy != test.healthy {
				t.Errorf("healthy is %t", status.Healthy)
			}
			for _, format := range Formats() {
				golden(t, "status/"+test.name+"."+format, render(t, status, Format(format)))
			}
		})
	}
}

// Each of these alone is found, by the check that it belongs to.
func TestStatusFinds(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Cluster)
		check  string
		state  State
		says   string
	}{
		{"no lease", func(c *Cluster) { c.Lease = nil }, "Controller", StateError, "no controller has ever led"},
		{"no holder", func(c *Cluster) { c.Lease.Spec.HolderIdentity = nil }, "Controller", StateError, "nobody holds"},
		{"standby down", func(c *Cluster) { c.Pods[1].Status.Conditions = nil }, "Controller", StateWarning, "controller-b"},
		{"no speaker", func(c *Cluster) { c.Pods = c.Pods[:4] }, "Speakers", StateError, "no speaker runs here"},
		{"silent speaker", func(c *Cluster) { c.NodeStates = c.NodeStates[:2] }, "Speakers", StateError, "reported nothing"},
		{"kube-proxy", func(c *Cluster) {
			set(&c.NodeStates[0].Status.Conditions, v1beta1.ConditionBGPReady, false, reasonWaitingForKubeProxy, "")
		}, "Speakers", StateError, "kube-proxy"},
		{"edited", func(c *Cluster) { c.Pools[0].Generation = 2; c.Pools[0].Status.Conditions[0].ObservedGeneration = 1 }, "Configuration", StateWarning, "latest change"},
		{"unjudged", func(c *Cluster) { c.L2Advertisements[0].Status.Conditions = nil }, "Configuration", StateWarning, "not looked at it"},
		{"no advertisement", func(c *Cluster) { c.L2Advertisements, c.BGPAdvertisements = nil, nil }, "Configuration", StateWarning, "no address is announced"},
		{"full", func(c *Cluster) { c.Pools[0].Status.IPv4.Available = 0 }, "Pools", StateWarning, "no IPv4 address is left"},
		{"pending", func(c *Cluster) { take(c.Services[0], "NoPool", "none") }, "Services", StateError, "NoPool"},
		{"unjudged service", func(c *Cluster) { c.Services[0].Status = corev1.ServiceStatus{} }, "Services", StateError, "not looked at it"},
		{"BFD", func(c *Cluster) { c.NodeStates[0].Status.BGPSessions[0].BFD.State = "Down" }, "BGP", StateWarning, "BFD is Down"},
		{"conflict", func(c *Cluster) {
			c.NodeStates[0].Status.AddressConflicts = []v1beta1.AddressConflict{{Address: "192.0.2.0", MAC: "02::", BeforeUse: true}}
		}, "Conflicts", StateWarning, "given to nobody"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := healthy()
			test.change(c)
			status := ReportStatus(c)
			for _, check := range status.Checks {
				found := slices.ContainsFunc(check.Findings, func(f Finding) bool { return strings.Contains(f.Object+f.What, test.says) })
				if want := check.Name == test.check; found != want || want && check.State != test.state {
					t.Errorf("%s is %s: %v", check.Name, check.State, check.Findings)
				}
			}
			if status.Healthy == (test.state == StateError) {
				t.Errorf("healthy is %t", status.Healthy)
			}
		})
	}
}
