package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
)

// testRelease: a Service that is deleted, or that is no load balancer any more,
// gives its address back and nobody answers for it.
func testRelease(e *env) {
	// One address: whoever has it, it is the same.
	e.usePool(1)
	e.createDeployment(deployment{app: "web", replicas: 1})

	e.createService("deleted")
	addresses := e.waitServing("deleted")
	e.deleteService("deleted")
	e.waitSilent(addresses...)
	e.waitFree()

	e.createService("demoted")
	e.waitServing("demoted")
	e.editService("demoted", `{"spec":{"type":"ClusterIP"}}`)
	e.waitSilent(addresses...)
	e.waitFree()
	e.waitForgotten("demoted")

	// Promoted again while another waits: first come, first served.
	e.createService("next")
	e.waitServing("next")
	e.editService("demoted", `{"spec":{"type":"LoadBalancer"}}`)
	e.waitCondition("demoted", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")
	e.deleteService("next")
	if got, want := join(e.waitServing("demoted")), join(addresses); got != want {
		e.Errorf("the Service that waited has %s, not %s", got, want)
	}

	// The class cannot be changed in place, only with the type (KEP-1959).
	e.editService("demoted", `{"spec":{"type":"ClusterIP"}}`)
	e.editService("demoted", `{"spec":{"type":"LoadBalancer","loadBalancerClass":"example.com/other"}}`)
	e.waitSilent(addresses...)
	e.waitFree()
	e.waitForgotten("demoted")
}

// waitServing returns a Service's addresses once they are served.
func (e *env) waitServing(name string) []netip.Addr {
	e.Helper()
	addresses := e.waitAnnounced(name)
	for _, address := range addresses {
		e.waitServed(network.Client, address, servicePort, "/hostname")
	}
	return addresses
}

// waitFree returns when no address of the test's pool is in use, by the pool's
// own account.
func (e *env) waitFree() {
	e.Helper()
	e.waitFor("all addresses of the pool to be free", 10*time.Second, func(context.Context) (bool, string) {
		s := e.pool(e.namespace).Status
		return s.AssignedIPv4 == 0 && s.AssignedIPv6 == 0, fmt.Sprintf("%+v", s)
	})
}

// waitForgotten returns when a Service bears no trace of Berth.
func (e *env) waitForgotten(name string) {
	e.Helper()
	e.waitFor("Service "+name+" to bear no trace of Berth", 10*time.Second, func(context.Context) (bool, string) {
		service := e.service(name)
		_, annotated := service.Annotations[v1beta1.AnnotationIPAllocatedFromPool]
		traces := annotated || len(service.Status.LoadBalancer.Ingress) > 0 ||
			meta.FindStatusCondition(service.Status.Conditions, v1beta1.ConditionAddressAllocated) != nil ||
			meta.FindStatusCondition(service.Status.Conditions, v1beta1.ConditionAnnounced) != nil
		return !traces, fmt.Sprintf("%v %+v", service.Annotations, service.Status)
	})
}

// testSharing: Services that share an address are all served by the one node
// that owns it, and the address lives as long as the last of them.
func testSharing(e *env) {
	e.usePool(4)
	e.createDeployment(deployment{app: "web", replicas: nodes})
	key := annotated(v1beta1.AnnotationAllowSharedIP, "key")
	e.createService("http", key)
	addresses := e.waitServing("http")
	e.createService("other", key, onPort(81))
	e.createService("alias", annotated("metallb.io/allow-shared-ip", "key"), onPort(82))
	e.createService("alone", onPort(83))
	e.createService("other-key", annotated(v1beta1.AnnotationAllowSharedIP, "lock"), onPort(84))
	e.createService("same-port", key)
	for _, name := range []string{"other", "alias"} {
		if got := join(e.waitAnnounced(name)); got != join(addresses) {
			e.Errorf("%s has %s, not the shared %s", name, got, join(addresses))
		}
	}
	for _, name := range []string{"alone", "other-key", "same-port"} {
		for i, address := range e.waitAllocated(name) {
			if address == addresses[i] {
				e.Errorf("%s has the address %s that it must not share", name, address)
			}
		}
	}
	for _, address := range addresses {
		for port := servicePort; port < servicePort+3; port++ {
			e.waitServed(network.Client, address, port, "/hostname")
		}
		for _, name := range []string{"http", "other", "alias"} {
			e.checkAnnounced(name, address) // compares with the node that answers: one for all
		}
	}
	e.expectOneOwner("three Services share", time.Second, addresses...)

	e.deleteService("http")
	e.deleteService("alias")
	e.waitGone("alias")
	for _, address := range addresses {
		e.waitServed(network.Client, address, servicePort+1, "/hostname")
	}
	e.deleteService("other")
	e.waitSilent(addresses...)
}

// testSharingLocal: under Local, only Services with the same Pods share, and the
// owner has those Pods.
func testSharingLocal(e *env) {
	e.usePool(3)
	e.createDeployment(deployment{app: "web", replicas: 1, nodes: []string{"node-1"}})
	e.createDeployment(deployment{app: "mail", replicas: 1, nodes: []string{"node-2"}})
	shared := func(name, app string, port int32) []netip.Addr {
		e.createService(name, annotated(v1beta1.AnnotationAllowSharedIP, "key"), local, onPort(port), forPods(app))
		return e.waitAnnounced(name)
	}
	first, second := shared("web-1", "web", 80), shared("web-2", "web", 81)
	if join(first) != join(second) {
		e.Errorf("two Services of the same Pods have %s and %s", join(first), join(second))
	}
	third := shared("mail", "mail", 25)
	if join(third) == join(first) {
		e.Errorf("Services of different Pods share %s under externalTrafficPolicy Local", join(first))
	}
	e.waitOwners(first, among("node-1"))
	e.waitOwners(third, among("node-2"))
}
