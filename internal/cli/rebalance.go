package cli

import (
	"maps"
	"slices"
	"strconv"
	"time"
)

// Owned is how many addresses each node owns.
type Owned map[string]int32

// OwnedBy counts the addresses of all nodes.
func OwnedBy(c *Cluster) Owned {
	owned := Owned{}
	for _, state := range c.NodeStates {
		owned[state.Name] = 0
		if l2 := state.Status.L2; l2 != nil {
			owned[state.Name] = l2.OwnedIPv4 + l2.OwnedIPv6
		}
	}
	return owned
}

// Settling notices that counts have settled: that they have been the same for some
// time.
type Settling struct {
	// Patience is for how long.
	Patience time.Duration
	last     Owned
	since    time.Time
}

// Settled takes in what the counts are now and says whether they have settled.
func (s *Settling) Settled(owned Owned, now time.Time) bool {
	if s.last == nil || !maps.Equal(s.last, owned) {
		s.last, s.since = owned, now
	}
	return now.Sub(s.since) >= s.Patience
}

// Rebalanced is the report of a rebalance.
type Rebalanced struct {
	L2Advertisements []string `json:"l2Advertisements"`
	Nodes            []Moved  `json:"nodes"`
}

// Moved is how many addresses a node owned before and owns now.
type Moved struct {
	Node   string `json:"node"`
	Before int32  `json:"before"`
	After  int32  `json:"after"`
}

// ReportRebalanced compares the counts before and after.
func ReportRebalanced(advertisements []string, before, after Owned) Rebalanced {
	r := Rebalanced{L2Advertisements: advertisements, Nodes: []Moved{}}
	for _, node := range slices.Sorted(maps.Keys(after)) {
		r.Nodes = append(r.Nodes, Moved{Node: node, Before: before[node], After: after[node]})
	}
	return r
}

func (r Rebalanced) text(p *Printer) {
	t := table{columns: []column{{name: "NODE"}, {name: "BEFORE"}, {name: "AFTER"}}}
	for _, n := range r.Nodes {
		t.add(plain(n.Node), plain(strconv.Itoa(int(n.Before))), plain(strconv.Itoa(int(n.After))))
	}
	t.print(p)
}

// L2AdvertisementNames returns the names of all L2Advertisements, in order.
func L2AdvertisementNames(c *Cluster) []string {
	var names []string
	for _, a := range byName(c.L2Advertisements) {
		names = append(names, a.Name)
	}
	return names
}
