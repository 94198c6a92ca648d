package metallb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
)

// Annotations that MetalLB writes or reads, without their prefix.
const allocatedFrom = "ip-allocated-from-pool"

var prefixes = []string{"metallb.io/", "metallb.universe.tf/"}

// services says what becomes of the Services that MetalLB has given addresses.
func (c *conversion) services(all []*corev1.Service, snapshot *config.Snapshot) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *corev1.Service) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	classes, kept, sharers := map[string]int{}, 0, map[netip.Addr][]*corev1.Service{}
	for _, svc := range all {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.LoadBalancerClass != nil && !isMetalLBs(svc) {
			continue
		}
		if class := svc.Spec.LoadBalancerClass; class != nil {
			classes[*class]++
		}
		c.wishes(svc, snapshot)
		if c.keeps(svc, snapshot) {
			kept++
		}
		for _, addr := range addressesOf(svc) {
			sharers[addr] = append(sharers[addr], svc)
		}
	}
	if kept > 0 {
		c.Remarks = append(c.Remarks, fmt.Sprintf("Services: %d keep the addresses that they have", kept))
	}
	c.classes(classes)
	c.sharing(sharers, snapshot)
}

// isMetalLBs says that a Service has an annotation that MetalLB writes or reads.
func isMetalLBs(svc *corev1.Service) bool {
	for key := range svc.Annotations {
		if _, is := suffix(key); is {
			return true
		}
	}
	return false
}

func suffix(annotation string) (name string, is bool) {
	for _, prefix := range prefixes {
		if name, is := strings.CutPrefix(annotation, prefix); is {
			return name, true
		}
	}
	return "", false
}

// wishes says what Berth will not do for a Service.
func (c *conversion) wishes(svc *corev1.Service, snapshot *config.Snapshot) {
	wishes, err := config.ReadWishes(svc.Annotations, svc.Spec.LoadBalancerIP)
	if err != nil {
		c.warn(svc, "%v", err)
	}
	if _, found := snapshot.Pool(wishes.Pool); wishes.Pool != "" && !found {
		c.warn(svc, "asks for pool %s, which is not among those converted", wishes.Pool)
	}
	var unknown []string
	for key := range svc.Annotations {
		if name, is := suffix(key); is && !slices.Contains([]string{"address-pool", "loadBalancerIPs", "allow-shared-ip", allocatedFrom}, name) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	for _, key := range unknown {
		c.warn(svc, "annotation %s means nothing to Berth", key)
	}
}

func (c *conversion) warn(svc *corev1.Service, format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf("Service %s/%s: ", svc.Namespace, svc.Name)+fmt.Sprintf(format, args...))
}

// keeps says whether a Service with addresses has them from Berth as well. The
// controller takes over what a pool may hand out, and what MetalLB has marked.
func (c *conversion) keeps(svc *corev1.Service, snapshot *config.Snapshot) bool {
	marked := false
	for _, prefix := range prefixes {
		_, has := svc.Annotations[prefix+allocatedFrom]
		marked = marked || has
	}
	addresses := addressesOf(svc)
	for _, addr := range addresses {
		pool, found := snapshot.PoolOf(addr)
		switch {
		case !marked && (!found || !pool.MayAssign(addr)):
			c.warn(svc, "would lose %s: no pool has it to give, and no annotation says that MetalLB gave it", addr)
			return false
		case !found:
			c.Remarks = append(c.Remarks, fmt.Sprintf("Service %s/%s: keeps %s, which is in no pool", svc.Namespace, svc.Name, addr))
		}
	}
	return len(addresses) > 0
}

func addressesOf(svc *corev1.Service) []netip.Addr {
	var addrs []netip.Addr
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if addr, err := ipam.ParseAddr(ingress.IP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// classes says how Berth has to be started. A Service's class cannot be changed.
func (c *conversion) classes(count map[string]int) {
	delete(count, v1beta1.LoadBalancerClass)
	for class, n := range count {
		c.Warnings = append(c.Warnings, fmt.Sprintf("loadBalancerClass %s: Services have it (%d), and theirs cannot be changed; start Berth's controller and speakers with --load-balancer-class=%s", class, n, class))
	}
	slices.Sort(c.Warnings)
	if len(count) > 1 {
		c.Warnings = append(c.Warnings, "Berth serves one loadBalancerClass only, beside Services that have none")
	}
}

// sharing lets Services of different namespaces keep the address that they share.
func (c *conversion) sharing(sharers map[netip.Addr][]*corev1.Service, snapshot *config.Snapshot) {
	across := map[string][]string{}
	for addr, services := range sharers {
		pool, found := snapshot.PoolOf(addr)
		if found && slices.ContainsFunc(services, func(svc *corev1.Service) bool { return svc.Namespace != services[0].Namespace }) {
			across[pool.Name] = append(across[pool.Name], addr.String())
		}
	}
	for name, addresses := range across {
		slices.Sort(addresses)
		object, pool := c.pool(name)
		pool.Spec.ShareAcrossNamespaces = true
		object.Remarks = append(object.Remarks, "spec.shareAcrossNamespaces: true, as Services of different namespaces share "+strings.Join(addresses, ", ")+". Otherwise sharing ends at the namespace, unlike with MetalLB")
	}
}
