package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
)

// testAdvertisements: an address is announced by nodes that its advertisement
// selects, on interfaces that it names, for Services that it selects; where that
// leaves nobody, the Service says why.
func testAdvertisements(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	e.createDeployment(deployment{app: "web", replicas: 1})
	e.createService("web", labelled("tier", "front"))
	addresses := e.waitAllocated("web")

	e.expectNotAnnounced("web", addresses, "NoAdvertisement", "no L2Advertisement selects it")
	pools := []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}
	e.createAdvertisement(e.namespace, v1beta1.L2AdvertisementSpec{IPAddressPools: pools, NodeSelectors: onHosts("node-2")})
	e.waitOwners(addresses, among("node-2"))
	e.waitUse(1, len(addresses))

	spec := func(spec v1beta1.L2AdvertisementSpec) {
		e.Helper()
		spec.IPAddressPools = pools
		e.replaceAdvertisement(spec)
	}
	spec(v1beta1.L2AdvertisementSpec{NodeSelectors: onHosts("node-3")})
	e.waitOwners(addresses, among("node-3"))
	spec(v1beta1.L2AdvertisementSpec{NodeSelectors: onHosts("node-1", "node-3"), PreferredNodeSelectors: []v1beta1.PreferredNodeSelector{
		{Weight: 10, Preference: onHosts("node-2")[0]}, {Weight: 5, Preference: onHosts("node-1")[0]},
	}})
	// A preference moves nothing before it is asked to.
	e.patch("l2advertisements", e.namespace, map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{v1beta1.AnnotationRebalance: "1"},
	}})
	e.waitOwners(addresses, among("node-1"))
	spec(v1beta1.L2AdvertisementSpec{NodeSelectors: onHosts("node-9")})
	e.expectNotAnnounced("web", addresses, "NoEligibleNode", "none of 3 nodes is eligible: 3 not selected by an L2Advertisement")

	spec(v1beta1.L2AdvertisementSpec{Interfaces: []v1beta1.InterfaceName{"eth0"}})
	e.waitOwners(addresses, nil)
	spec(v1beta1.L2AdvertisementSpec{Interfaces: []v1beta1.InterfaceName{"eth9"}})
	e.expectNotAnnounced("web", addresses, "NoEligibleNode", "3 without a usable interface")

	spec(v1beta1.L2AdvertisementSpec{ServiceSelectors: byLabel("tier", "front")})
	e.waitOwners(addresses, nil)
	e.editService("web", `{"metadata":{"labels":{"tier":"back"}}}`)
	e.expectNotAnnounced("web", addresses, "NoAdvertisement", "no L2Advertisement selects it")
	e.waitUse(0, 0)
	spec(v1beta1.L2AdvertisementSpec{})
	e.waitOwners(addresses, nil)

	// The pool may be selected by its labels as well.
	e.replaceAdvertisement(v1beta1.L2AdvertisementSpec{IPAddressPoolSelectors: byLabel("kind", e.namespace)})
	e.expectNotAnnounced("web", addresses, "NoAdvertisement", "no L2Advertisement selects it")
	e.patchPool(e.namespace, map[string]any{"metadata": map[string]any{"labels": map[string]string{"kind": e.namespace}}})
	e.waitOwners(addresses, nil)
	e.waitCondition("web", v1beta1.ConditionAnnounced, metav1.ConditionTrue, "Announced")

	if err := e.lab.berth.Delete().Resource("l2advertisements").Name(e.namespace).Do(e.ctx).Error(); err != nil {
		e.Fatal(err)
	}
	e.expectNotAnnounced("web", addresses, "NoAdvertisement", "no L2Advertisement selects it")
	if got := join(e.addressesOf("web")); got != join(addresses) {
		e.Errorf("the Service has %s now, not %s: what is not announced is still its own", got, join(addresses))
	}
}

// waitUse waits until the test's advertisement says for how many Services and
// addresses it is.
func (e *env) waitUse(services, addresses int) {
	e.Helper()
	e.waitFor(fmt.Sprintf("L2Advertisement %s to be for %d Services and %d addresses", e.namespace, services, addresses), 20*time.Second,
		func(ctx context.Context) (bool, string) {
			var object v1beta1.L2Advertisement
			if err := e.getInto(ctx, "l2advertisements", e.namespace, &object); err != nil {
				return false, err.Error()
			}
			s := object.Status
			return int(s.Services) == services && int(s.Addresses) == addresses, fmt.Sprintf("it is for %d and %d", s.Services, s.Addresses)
		})
}

// expectNotAnnounced waits until nobody answers for a Service's addresses and it
// says why.
func (e *env) expectNotAnnounced(service string, addresses []netip.Addr, reason, why string) {
	e.Helper()
	e.waitCondition(service, v1beta1.ConditionAnnounced, metav1.ConditionFalse, reason, append(texts(addresses), why)...)
	e.waitSilent(addresses...)
}

func onHosts(names ...string) []v1beta1.LabelSelector {
	var selectors []v1beta1.LabelSelector
	for _, name := range names {
		selectors = append(selectors, byLabel(corev1.LabelHostname, name)...)
	}
	return selectors
}

func byLabel(key, value string) []v1beta1.LabelSelector {
	return []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{key: v1beta1.LabelValue(value)}}}
}

// replaceAdvertisement gives the test's advertisement another spec, whatever the
// controller writes into its status meanwhile.
func (e *env) replaceAdvertisement(spec v1beta1.L2AdvertisementSpec) {
	e.Helper()
	patch, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/spec", "value": spec}})
	if err != nil {
		e.Fatal(err)
	}
	if err := e.lab.berth.Patch(types.JSONPatchType).Resource("l2advertisements").Name(e.namespace).Body(patch).Do(e.ctx).Error(); err != nil {
		e.Fatal(err)
	}
}

// testExcludedNodes: a node with the label of Kubernetes that keeps it out of
// load balancing owns nothing; when all have it, the Service says so.
func testExcludedNodes(e *env) {
	e.usePool(2)
	e.createDeployment(deployment{app: "web", replicas: 1})
	e.createService("web")
	addresses := e.waitAnnounced("web")
	owners := e.waitOwners(addresses, nil)
	owner := owners[addresses[0]]
	e.exclude(owner, true)
	e.waitOwners(addresses, among(e.lab.otherNodes(owner)...))
	for _, node := range e.lab.otherNodes(owner) {
		e.exclude(node, true)
	}
	e.expectNotAnnounced("web", addresses, "NoEligibleNode", "3 excluded by the label "+corev1.LabelNodeExcludeBalancers)
	e.exclude(owner, false)
	e.waitOwners(addresses, among(owner))
	for _, address := range addresses {
		e.checkAnnounced("web", address)
	}
}

// exclude sets or removes the label on a node, which loses it at the end of the
// test in any case.
func (e *env) exclude(node string, excluded bool) {
	e.Helper()
	label := func(ctx context.Context, value string) error {
		patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, corev1.LabelNodeExcludeBalancers, value)
		_, err := e.lab.kube.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	value := "null"
	if excluded {
		value = `""`
		e.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 20*time.Second)
			defer cancel()
			if err := label(ctx, "null"); err != nil {
				e.Error(err)
			}
		})
	}
	if err := label(e.ctx, value); err != nil {
		e.Fatal(err)
	}
}
