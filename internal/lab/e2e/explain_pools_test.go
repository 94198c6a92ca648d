package e2e

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

// classSituations are about Services that are not Berth's.
func (x *explained) classSituations() []situation {
	of := func(change func(*corev1.Service)) func(*env) {
		return func(e *env) {
			x.layer2(e, nil)
			x.web(e, change)
		}
	}
	return []situation{
		{
			name: "not-of-type-loadbalancer", arrange: of(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }),
			cause: "not of type LoadBalancer", fix: "Set spec.type: LoadBalancer", mend: edited(`{"spec":{"type":"LoadBalancer"}}`),
		},
		{
			name: "external-name", arrange: func(e *env) {
				e.createService("web", func(s *corev1.Service) {
					s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
				})
			},
			cause: "not of type LoadBalancer", fix: "selector",
		},
		{
			name: "wrong-class", arrange: of(ofClass("example.com/lb")),
			cause: "another controller's class, example.com/lb", fix: v1beta1.LoadBalancerClass,
		},
	}
}

// poolSituations are about Services that get no address, or another than they
// should, because of the pools.
func (x *explained) poolSituations() []situation {
	pool := func(change func(*v1beta1.IPAddressPool), changes ...func(*corev1.Service)) func(*env) {
		return func(e *env) {
			x.advertised(e, 4, change)
			x.web(e, changes...)
		}
	}
	others := func(p *v1beta1.IPAddressPool) {
		p.Spec.ServiceAllocation.Namespaces = []v1beta1.ObjectName{v1beta1.ObjectName(p.Name + "-others")}
	}
	return []situation{
		{
			name: "pool-for-other-namespaces", arrange: pool(others),
			cause: "no pool is for this Service", fix: "make one of those above be for its namespace", status: "NAMESPACE/web: NoPool",
			mend: func(e *env) {
				patched("ipaddresspools", map[string]any{"serviceAllocation": map[string]any{"namespaces": []string{e.namespace}}})(e)
			},
		},
		{
			name:    "pool-for-other-labels",
			arrange: pool(func(p *v1beta1.IPAddressPool) { p.Spec.ServiceAllocation.ServiceSelectors = selector("app", "mail") }, labelled("app", "web")),
			cause:   "serviceSelectors of pool NAMESPACE", fix: "Label the Service",
			mend: edited(`{"metadata":{"labels":{"app":"mail"}}}`),
		},
		{
			name: "pool-by-request-only", arrange: pool(func(p *v1beta1.IPAddressPool) { p.Spec.AutoAssign = ptr.To(false) }),
			cause: "autoAssign of pool NAMESPACE is false", fix: v1beta1.AnnotationAddressPool + ": NAMESPACE",
			mend: func(e *env) { e.annotate("web", v1beta1.AnnotationAddressPool, e.namespace) },
		},
		{
			name: "pool-disabled", arrange: pool(func(p *v1beta1.IPAddressPool) { p.Spec.Disabled = true }),
			cause: "PoolDisabled", fix: "disabled: false", status: "NAMESPACE/web: PoolDisabled",
			mend: patched("ipaddresspools", map[string]any{"disabled": false}),
		},
		{
			name: "pool-full", arrange: func(e *env) {
				x.advertised(e, 1, nil)
				x.other(e)
				x.web(e)
			},
			cause: "its one address is assigned", fix: "Add addresses", status: "NAMESPACE/web: PoolExhausted",
			mend: func(e *env) { patched("ipaddresspools", map[string]any{"addresses": e.ranges(0, 2)})(e) },
		},
		{
			name: "pool-excludes-all", arrange: func(e *env) {
				e.createPool(e.namespace, e.ranges(0, 2), func(p *v1beta1.IPAddressPool) { p.Spec.ExcludeAddresses = e.ranges(0, 2) })
				x.web(e)
			},
			cause: "PoolExhausted", fix: "Add addresses",
		},
		{
			name: "pool-overlaps", arrange: func(e *env) {
				younger := e.namespace + "-younger" // of two of one second, the first by name is the older
				e.createPool(e.namespace, e.ranges(0, 4), others)
				e.create("ipaddresspools", e.newPool(younger, e.ranges(2, 4)))
				e.waitAccepted(younger, false)
				x.web(e)
			},
			cause: "pool NAMESPACE-younger is not in force", fix: "IPAddressPool NAMESPACE-younger", status: "IPAddressPool NAMESPACE-younger: Overlap",
		},
		{
			name: "pool-unknown", arrange: pool(nil, annotated(v1beta1.AnnotationAddressPool, "nowhere")),
			cause: "no IPAddressPool of that name", fix: v1beta1.AnnotationAddressPool, status: "NAMESPACE/web: UnknownPool",
		},
		{
			name: "pool-not-allowed", arrange: func(e *env) {
				e.createPool(e.namespace, e.ranges(0, 4), others)
				x.web(e, annotated(v1beta1.AnnotationAddressPool, e.namespace))
			},
			cause: "other namespaces", fix: "serviceAllocation",
		},
		{
			name: "quota", arrange: func(e *env) {
				x.advertised(e, 4, func(p *v1beta1.IPAddressPool) {
					p.Spec.Quota = &v1beta1.PoolQuota{ServicesPerNamespace: ptr.To(int32(1))}
				})
				x.other(e)
				x.web(e)
			},
			cause: "may have 1 Service", fix: "Raise the pool's quota", status: "NAMESPACE/web: QuotaExceeded",
			mend: patched("ipaddresspools", map[string]any{"quota": map[string]any{"servicesPerNamespace": 2}}),
		},
		{
			name: "no-ipv6-pool", arrange: func(e *env) {
				e.createPool(e.namespace, ofIPv4(e.ranges(0, 4)), nil)
				x.web(e, withPolicy(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol))
			},
			cause: "no IPv6 addresses", fix: "IPv6",
		},
		{
			name: "out-of-pool", arrange: func(e *env) {
				x.layer2(e, func(s *v1beta1.L2AdvertisementSpec) { s.NodeSelectors = onNode("node-1") })
				x.web(e)
				e.waitAnnounced("web")
				e.patchPool(e.namespace, map[string]any{"spec": map[string]any{"addresses": e.ranges(2, 2)}})
			},
			cause: "OutOfPool", fix: v1beta1.AnnotationRenew,
		},
	}
}

// wishSituations are about Services that ask for what they cannot have.
func (x *explained) wishSituations() []situation {
	const ips, share = v1beta1.AnnotationLoadBalancerIPs, v1beta1.AnnotationAllowSharedIP
	// asking makes a Service that asks for the nth address of the slot.
	asking := func(nth int, before func(*env), changes ...func(*corev1.Service)) func(*env) {
		return func(e *env) {
			e.createPool(e.namespace, e.ranges(0, 4), nil)
			if before != nil {
				before(e)
			}
			x.web(e, append(changes, annotated(ips, e.address(nth)[0].String()))...)
		}
	}
	taken := func(changes ...func(*corev1.Service)) func(*env) { return func(e *env) { x.other(e, changes...) } }
	return []situation{
		{name: "address-in-no-pool", arrange: asking(15, nil), cause: "not in any pool", fix: "in a pool", status: "NAMESPACE/web: AddressNotInPool"},
		{name: "address-in-use", arrange: asking(0, taken()), cause: "NAMESPACE/other", fix: "share", status: "NAMESPACE/web: AddressInUse"},
		{
			name: "sharing-other-key", arrange: asking(0, taken(annotated(share, "one")), annotated(share, "two"), onPort(81)),
			cause: "sharing key", fix: "the same " + share,
		},
		{
			name: "sharing-same-port", arrange: asking(0, taken(annotated(share, "key")), annotated(share, "key")),
			cause: "80", fix: "different ports",
		},
		{
			name: "sharing-local-and-cluster", arrange: asking(0, taken(annotated(share, "key"), local), annotated(share, "key"), onPort(81)),
			cause: "externalTrafficPolicy", fix: "externalTrafficPolicy",
		},
		{
			name: "address-reserved", arrange: asking(0, func(e *env) {
				e.waitReservation(e.reservation("held", func(s *v1beta1.IPReservationSpec) { s.Addresses, s.For.Service = e.ranges(0, 1), "somebody" }), v1beta1.ReasonAccepted)
			}),
			cause: "NAMESPACE-held", fix: "IPReservation", status: "NAMESPACE/web: AddressReserved",
		},
		{
			name: "address-at-rest", arrange: func(e *env) {
				e.createPool(e.namespace, e.ranges(0, 4), func(p *v1beta1.IPAddressPool) { p.Spec.ReuseDelay = "1h" })
				x.other(e)
				e.deleteService("other")
				e.waitFor("the address to rest", 10*time.Second, func(context.Context) (bool, string) {
					resting := e.pool(e.namespace).Status.Resting
					return len(resting) > 0, fmt.Sprintf("%+v", resting)
				})
				x.web(e, annotated(ips, e.address(0)[0].String()))
			},
			cause: "NAMESPACE/other", fix: "Wait",
		},
		{
			name: "ip-at-rest", arrange: func(e *env) {
				e.createPool(e.namespace, e.ranges(0, 4), func(p *v1beta1.IPAddressPool) { p.Spec.ReuseDelay = "1h" })
				x.other(e)
				e.deleteService("other")
			},
			subject: ipOf(0), cause: "NAMESPACE/other gave it up", fix: "",
		},
		{name: "address-malformed", arrange: func(e *env) {
			e.createPool(e.namespace, e.ranges(0, 4), nil)
			x.web(e, annotated(ips, "192.0.2.300"))
		}, cause: "192.0.2.300", fix: "Correct"},
		{name: "address-of-other-family", arrange: func(e *env) {
			e.createPool(e.namespace, e.ranges(0, 4), nil)
			x.web(e, annotated(ips, e.address(0)[1].String()))
		}, cause: "FamilyMismatch", fix: "IPv4"},
		{
			name: "annotation-misspelt", arrange: func(e *env) {
				x.layer2(e, func(s *v1beta1.L2AdvertisementSpec) { s.NodeSelectors = onNode("node-1") })
				x.web(e, annotated("berth.dev/address-pools", e.namespace))
			},
			cause: "berth.dev/address-pools", fix: "Correct its name",
		},
		{
			name: "ip-free", arrange: func(e *env) { e.createPool(e.namespace, e.ranges(0, 4), nil) },
			subject: ipOf(0), cause: "no Service has it", fix: ips,
		},
		{
			name: "ip-in-no-pool", arrange: func(*env) {}, subject: ipOf(15),
			cause: "no address of Berth's", fix: "IPAddressPool",
		},
	}
}

// ipOf explains the nth address of the slot.
func ipOf(nth int) func(*env) string {
	return func(e *env) string { return "ip/" + e.address(nth)[0].String() }
}
