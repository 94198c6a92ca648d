package allocation

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

// takenByCluster returns the addresses that the cluster itself uses: those of
// its nodes, and the ranges of its Services and Pods. An address of those must
// never be given to a Service of type LoadBalancer.
func takenByCluster(cache *k8s.Cache) []config.Taken {
	var taken []config.Taken
	for _, cidr := range cache.ServiceCIDRs.List() {
		taken = append(taken, prefixes(cidr.Spec.CIDRs, "ServiceCIDR "+cidr.Name)...)
	}
	for _, node := range cache.Nodes.List() {
		for _, a := range node.Status.Addresses {
			if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
				continue
			}
			if addr, err := ipam.ParseAddr(a.Address); err == nil {
				taken = append(taken, config.Taken{Range: ipam.Range{From: addr, To: addr}, By: "node " + node.Name})
			}
		}
		taken = append(taken, prefixes(node.Spec.PodCIDRs, "the Pods of node "+node.Name)...)
	}
	slices.SortFunc(taken, func(a, b config.Taken) int {
		return cmp.Or(a.Range.From.Compare(b.Range.From), a.Range.To.Compare(b.Range.To), cmp.Compare(a.By, b.By))
	})
	return taken
}

func prefixes(texts []string, by string) []config.Taken {
	var taken []config.Taken
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			taken = append(taken, config.Taken{Range: ipam.RangeOf(prefix), By: by})
		}
	}
	return taken
}
