package main

import (
	"cmp"
	"slices"

	"github.com/berth-lb/berth/internal/membership"
)

// A Node object may be deleted while its speaker goes on, and created again by the
// kubelet a moment later. What the speaker owns is handed over as if the node were
// drained; and the terms of those that are gone are known as long as the membership
// knows of them.

// withFormer returns the nodes and those speakers whose Node objects do not exist,
// in the order of their names. Their labels are not known.
func withFormer(nodes []*node, view *membership.View) []*node {
	var former []*node
	add := func(name string) {
		_, exists := slices.BinarySearchFunc(nodes, name, func(n *node, name string) int { return cmp.Compare(n.name, name) })
		if !exists {
			former = append(former, &node{name: name, draining: true, former: true})
		}
	}
	for i := range view.Members {
		add(view.Members[i].Node)
	}
	for i := range view.Gone {
		if name := view.Gone[i].Node; view.Member(name) == nil {
			add(name)
		}
	}
	if len(former) == 0 {
		return nodes
	}
	all := append(slices.Clone(nodes), former...)
	slices.SortFunc(all, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	return all
}
