package allocation

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
)

// request is what a Service asks for, in the allocator's terms.
type request struct {
	ipam.Request
	// service and named tell how the pools of the request came about.
	service config.Service
	named   string
	// renew is the value of the annotation berth.dev/renew.
	renew string
	// unknown are annotations that are ignored.
	unknown []string
}

// newRequest reads what a Service asks for. An error is a *refusal.
// The namespace is nil if it is not known; held is what the Service has.
func newRequest(svc *corev1.Service, namespace *corev1.Namespace, snapshot *config.Snapshot, verdicts config.Verdicts, held []ipam.Assigned) (request, error) {
	var namespaceLabels labels.Set
	if namespace != nil {
		namespaceLabels = namespace.Labels
	}
	req := request{
		Request: ipam.Request{
			Owner:    ownerOf(svc),
			Families: familiesOf(svc),
			Partial:  svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack,
		},
		service: config.Service{Namespace: svc.Namespace, Labels: svc.Labels, NamespaceLabels: namespaceLabels},
	}
	wishes, err := config.ReadWishes(svc.Annotations, svc.Spec.LoadBalancerIP)
	req.unknown = wishes.Unknown
	req.Sharing = sharingOf(svc, namespace, wishes.SharingKey)
	if err != nil {
		return req, &refusal{reason: reasonInvalidRequest, message: err.Error()}
	}
	req.Addresses = wishes.Addresses
	req.renew = wishes.Renew
	if wishes.Pool != "" {
		req.named = wishes.Pool
		req.Named = true
		if err := permitted(wishes.Pool, req.service, snapshot, verdicts); err != nil && !heldFrom(wishes.Pool, held, snapshot) {
			return req, err
		}
		req.Pools = []string{wishes.Pool}
		return req, nil
	}
	for _, pool := range snapshot.AutoAssignPools(req.service) {
		req.Pools = append(req.Pools, pool.Name)
	}
	// An address may be asked for wherever it is, also in a pool that does not
	// assign by itself.
	for _, pool := range snapshot.Pools {
		if len(wishes.Addresses) > 0 && !pool.AutoAssign && pool.Serves(req.service) {
			req.OnRequest = append(req.OnRequest, pool.Name)
		}
	}
	return req, nil
}

// heldFrom says that a pool in force gave a Service what it has. That the pool is
// for others by now takes nothing away.
func heldFrom(pool string, held []ipam.Assigned, snapshot *config.Snapshot) bool {
	_, inForce := snapshot.Pool(pool)
	return inForce && slices.ContainsFunc(held, func(a ipam.Assigned) bool { return a.From == pool })
}

// permitted says whether a Service may have addresses of the pool it names.
func permitted(name string, svc config.Service, snapshot *config.Snapshot, verdicts config.Verdicts) error {
	pool, found := snapshot.Pool(name)
	if verdict, exists := verdicts.IPAddressPools[name]; !found && exists {
		return &refusal{reason: reasonUnknownPool, message: fmt.Sprintf("it asks for pool %s, which is not in force: %s", name, verdict.Message)}
	}
	if !found {
		return &refusal{reason: reasonUnknownPool, message: fmt.Sprintf("it asks for pool %s, and there is no IPAddressPool of that name", name)}
	}
	if why := pool.Excludes(svc); why != "" {
		return &refusal{reason: reasonPoolNotAllowed, message: fmt.Sprintf("it asks for pool %s, which it may not use: %s", name, why)}
	}
	return nil
}

func ownerOf(svc *corev1.Service) ipam.Owner {
	return ipam.Owner{Namespace: svc.Namespace, Name: svc.Name}
}

func familiesOf(svc *corev1.Service) []ipam.Family {
	var families []ipam.Family
	for _, f := range svc.Spec.IPFamilies {
		if f == corev1.IPv6Protocol {
			families = append(families, ipam.IPv6)
		} else {
			families = append(families, ipam.IPv4)
		}
	}
	return families
}

// sharingOf returns how a Service shares its address under key. Under
// externalTrafficPolicy Local traffic must go where the Pods are, so only
// Services with the same Pods may share.
func sharingOf(svc *corev1.Service, namespace *corev1.Namespace, key string) *ipam.Sharing {
	if key == "" {
		return nil
	}
	sharing := &ipam.Sharing{
		Key:              key,
		AcrossNamespaces: namespace != nil && namespace.Annotations[v1beta1.AnnotationShareAcrossNamespaces] == "true",
	}
	for _, p := range svc.Spec.Ports {
		protocol, err := ipam.ParseProtocol(string(p.Protocol))
		if err != nil {
			continue // the API server knows no other protocols
		}
		sharing.Ports = append(sharing.Ports, ipam.Port{Protocol: protocol, Number: uint16(p.Port)})
	}
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		sharing.Backend = "the Pods " + labels.Set(svc.Spec.Selector).String()
		if len(svc.Spec.Selector) == 0 { // whoever writes its EndpointSlices knows
			sharing.Backend = "the endpoints of Service " + ownerOf(svc).String()
		}
	}
	return sharing
}

// ingressOf returns the addresses in a Service's status.
func ingressOf(svc *corev1.Service) []netip.Addr { return addressesIn(svc.Status.LoadBalancer.Ingress) }

func addressesIn(ingress []corev1.LoadBalancerIngress) []netip.Addr {
	var addrs []netip.Addr
	for _, i := range ingress {
		if addr, err := ipam.ParseAddr(i.IP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
