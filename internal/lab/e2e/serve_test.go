package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
)

// testService: a Service gets addresses, says so, and is fetched from beside the
// nodes and through the router; the node that it says announces it does.
func testService(e *env) {
	e.usePool(4)
	e.createDeployment(deployment{app: "web", replicas: 1})
	e.createService("web")
	out, err := e.lab.Kubectl(e.ctx, nil, "wait", "--for=condition="+v1beta1.ConditionAddressAllocated,
		"service/web", "--namespace", e.namespace, "--timeout=20s")
	if err != nil {
		e.Fatalf("kubectl wait: %v: %s", err, out)
	}
	addresses := e.waitAnnounced("web")
	if got, want := join(addresses), join(e.address(0)); got != want {
		e.Errorf("the Service has %s, not the first addresses of its pool, %s", got, want)
	}
	out, err = e.lab.Kubectl(e.ctx, nil, "get", "service", "web", "--namespace", e.namespace, "--no-headers")
	if columns := strings.Fields(string(out)); err != nil || len(columns) < 4 || columns[3] != join(addresses) {
		e.Errorf("kubectl get svc shows %q (error %v), without %s", out, err, join(addresses))
	}
	service := e.service("web")
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if ingress.IPMode == nil || *ingress.IPMode != "VIP" {
			e.Errorf("%s has ipMode %v, not VIP", ingress.IP, ingress.IPMode)
		}
	}
	if pool := service.Annotations[v1beta1.AnnotationIPAllocatedFromPool]; pool != e.namespace {
		e.Errorf("the Service says that its pool is %q", pool)
	}
	e.waitEvent("web", "AddressAllocated", texts(addresses)...)
	for _, address := range addresses {
		e.checkAnnounced("web", address)
		e.waitEvent("web", "Announced", address.String(), e.waitOwner(address), "eth0")
		for _, host := range []string{network.Client, network.WANClient} {
			if pod := e.waitServed(host, address, servicePort, "/hostname"); !strings.HasPrefix(pod, "web-") {
				e.Errorf("%s fetched %q from %s", host, pod, address)
			}
		}
	}
	e.checkByTools(addresses)
}

// testFirstConnection: whoever connects as soon as a Service has an address, or says
// that it is announced, is served at the first attempt, whether its Pods were there
// before it or came later.
func testFirstConnection(e *env) {
	const services = 6
	e.usePool(services)
	e.createDeployment(deployment{app: "web", replicas: 2})
	e.waitRolledOut("web")
	excused := 0
	for i := range services {
		name := fmt.Sprintf("web-%d", i)
		meter := e.meterStalls()
		app := "web"
		if i >= services-2 { // the Pods come after the Service
			app = name
		}
		e.createService(name, forPods(app))
		addresses := e.waitAllocated(name)
		if app == name {
			e.createDeployment(deployment{app: app, replicas: 1})
		}
		if i%2 == 1 || app == name {
			addresses = e.waitAnnounced(name)
		}
		began := time.Now()
		err := e.connectOnce(addresses)
		switch stalled := meter.longest(); {
		case err != nil && stalled > stalling && excused < services/2:
			excused++
			e.Logf("Service %s, while the machine was busy with something else for %s: %v", name, stalled, err)
		case err != nil:
			e.Errorf("Service %s, %s after it had its addresses: %v", name, time.Since(began), err)
		case i%2 == 0 && app == "web":
			measured.add("from EXTERNAL-IP to the first answers", time.Since(began))
		}
	}
}

// connectOnce fetches a page from each of the addresses at the same time, without a
// second attempt.
func (e *env) connectOnce(addresses []netip.Addr) error {
	e.Helper()
	var group errgroup.Group
	for _, address := range addresses {
		group.Go(func() error {
			_, err := e.lab.Exec(e.ctx, network.Client, "curl", "--silent", "--show-error", "--max-time", "5", urlOf(address, servicePort, "/hostname"))
			return err
		})
	}
	return group.Wait()
}

func texts(addresses []netip.Addr) []string {
	return strings.Split(join(addresses), ",")
}

// checkAnnounced makes sure that the Service names the node that answers for an
// address, its interface and the protocol.
func (e *env) checkAnnounced(service string, address netip.Addr) {
	e.Helper()
	owner := e.waitOwner(address)
	protocol := "ARP"
	if address.Is6() {
		protocol = "NDP"
	}
	part := fmt.Sprintf("%s by %s from %s (eth0)", address, protocol, owner)
	e.waitFor("Service "+service+" to say "+part, 10*time.Second, func(context.Context) (bool, string) {
		message := e.announcedMessage(service)
		return strings.Contains(message, part), message
	})
}

func (e *env) announcedMessage(service string) string {
	e.Helper()
	for _, c := range e.service(service).Status.Conditions {
		if c.Type == v1beta1.ConditionAnnounced {
			return c.Message
		}
	}
	return ""
}

// checkByTools looks at the owner by other means than questions of this suite's
// own making: arping, and what the client's kernel has found out.
func (e *env) checkByTools(addresses []netip.Addr) {
	e.Helper()
	for _, address := range addresses {
		owner, err := e.lab.Plan().Host(e.waitOwner(address))
		if err != nil {
			e.Fatal(err)
		}
		if mac, state := e.neighbor(network.Client, address); mac != owner.MAC {
			e.Errorf("the client's kernel has %s at %s (%s), not at %s of %s", address, mac, state, owner.MAC, owner.Name)
		}
		if address.Is6() {
			continue
		}
		out, err := e.lab.Exec(e.ctx, network.Client, "arping", "-c", "2", "-w", "2", "-i", "eth0", address.String())
		if err != nil {
			e.Errorf("arping: %v", err)
		}
		for _, node := range e.lab.Plan().Nodes() {
			if shown := strings.Contains(string(out), node.MAC); shown != (node.Name == owner.Name) {
				e.Errorf("%s is owned by %s, but arping shows %s: %v\n%s", address, owner.Name, node.Name, shown, out)
			}
		}
	}
}

// testAllPods: under externalTrafficPolicy Cluster, traffic reaches the Pods on
// all nodes, whichever owns the address.
func testAllPods(e *env) {
	e.usePool(2)
	e.createDeployment(deployment{app: "web", replicas: nodes})
	e.createService("web")
	for _, address := range e.waitAnnounced("web") {
		e.waitServed(network.Client, address, servicePort, "/hostname")
		seen := map[string]int{}
		e.waitFor("traffic to reach all Pods through "+address.String(), 20*time.Second, func(context.Context) (bool, string) {
			for range 10 {
				pod, err := e.lab.get(e.ctx, network.Client, urlOf(address, servicePort, "/hostname"))
				if err != nil {
					return false, err.Error()
				}
				seen[pod]++
			}
			return len(seen) == nodes, fmt.Sprint(seen)
		})
		for _, pod := range e.pods("web") {
			if seen[pod.Name] == 0 {
				e.Errorf("no traffic to %s reached Pod %s: %v", address, pod.Name, seen)
			}
		}
	}
}

// testManyAddresses: the addresses of many Services are spread over the nodes,
// and each has one owner.
func testManyAddresses(e *env) {
	const services = 12
	e.usePool(services)
	e.createDeployment(deployment{app: "web", replicas: 1})
	for i := range services {
		e.createService(fmt.Sprintf("web-%d", i))
	}
	var addresses []netip.Addr
	for i := range services {
		addresses = append(addresses, e.waitAnnounced(fmt.Sprintf("web-%d", i))...)
	}
	owned := map[string]int{}
	for _, owner := range e.waitOwners(addresses, nil) {
		owned[owner]++
	}
	for _, address := range addresses {
		e.waitServed(network.Client, address, servicePort, "/hostname")
	}
	if len(owned) < 2 {
		e.Errorf("%d addresses are all owned by one node: %v", len(addresses), owned)
	}
	e.Logf("addresses per node: %v", owned)
}
