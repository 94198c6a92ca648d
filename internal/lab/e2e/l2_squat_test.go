package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// stranger is the host that takes addresses, by its MAC as well.
func (e *env) stranger() network.Host {
	e.Helper()
	host, err := e.lab.Plan().Host(network.Stranger)
	if err != nil {
		e.Fatal(err)
	}
	return host
}

// squat has the stranger take addresses until the test ends.
func (e *env) squat(announce bool, addresses ...netip.Addr) {
	e.Helper()
	e.healed()
	for _, address := range addresses {
		if err := e.lab.Squat(address, lab.SquatOptions{Announce: announce}); err != nil {
			e.Fatal(err)
		}
	}
}

func (e *env) vacate(addresses ...netip.Addr) {
	e.Helper()
	for _, address := range addresses {
		if err := e.lab.Vacate("", address); err != nil {
			e.Fatal(err)
		}
	}
}

// testSquatterFirst: a foreign host has an address before it is announced for the
// first time. It is quarantined, the Service gets another, and is told who has the
// first; a Service that asks for just this one is refused it.
func (f *fleet) testSquatterFirst() {
	e := newEnv(f.T, f.lab)
	taken := e.address(0)
	e.squat(false, taken...)
	e.usePool(4)
	e.createDeployment(deployment{app: "web", replicas: 2})
	began := time.Now()
	e.createService("web")
	var got []netip.Addr
	e.waitFor("the Service to get addresses that nobody has", 20*time.Second, func(context.Context) (bool, string) {
		got = e.addressesOf("web")
		return len(got) == len(taken) && !slices.ContainsFunc(got, func(a netip.Addr) bool { return slices.Contains(taken, a) }), join(got)
	})
	measured.add("foreign host has an address: until the Service has another", time.Since(began))
	e.waitAnnounced("web")
	e.waitOwners(got, nil)
	for _, address := range got {
		e.waitServed(network.Client, address, servicePort, "/hostname")
	}
	e.waitQuarantined(taken)
	mac := e.stranger().MAC
	for _, address := range taken {
		e.waitAnyEvent("web", address.String(), mac)
	}

	e.createService("asks", annotated(v1beta1.AnnotationLoadBalancerIPs, join(taken)))
	e.waitCondition("asks", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, v1beta1.ReasonAddressConflict, mac)
	e.expectOnlyStranger(taken)
	e.vacate(taken...)
	e.waitAnnounced("asks")
	for _, address := range taken {
		e.waitServed(network.Client, address, servicePort, "/hostname")
	}
}

// askBriefly asks from the client who has addresses.
func (e *env) askBriefly(addresses []netip.Addr) map[netip.Addr]claims {
	e.Helper()
	looking := e.lookOut(network.Client, askInterval, addresses...)
	began := time.Now()
	e.pause(glance, "answers take a moment")
	looking.stop()
	all := map[netip.Addr]claims{}
	for _, address := range addresses {
		all[address] = looking.claims(address, began, time.Now())
	}
	return all
}

// expectOnlyStranger fails the test unless the stranger alone answers.
func (e *env) expectOnlyStranger(addresses []netip.Addr) {
	e.Helper()
	e.waitFor("the stranger to answer for "+join(addresses), 20*time.Second, func(context.Context) (bool, string) {
		answered := true
		for address, c := range e.askBriefly(addresses) {
			if who, only := c.owner(); len(c) > 0 && (!only || who != network.Stranger) {
				e.Errorf("%s is the stranger's, but is answered for by %v", address, c)
			}
			answered = answered && len(c) > 0
		}
		return answered, "nobody answers"
	})
}

// waitQuarantined returns when the pool says of each address that the stranger has
// it, and which node has seen that.
func (e *env) waitQuarantined(addresses []netip.Addr) {
	e.Helper()
	mac := e.stranger().MAC
	e.waitFor("the pool to quarantine "+join(addresses), 20*time.Second, func(context.Context) (bool, string) {
		quarantined := e.pool(e.namespace).Status.Quarantined
		found := 0
		for _, q := range quarantined {
			address, err := netip.ParseAddr(q.Address)
			if err == nil && slices.Contains(addresses, address) && q.MAC == mac && slices.Contains(e.lab.otherNodes(), q.Node) {
				found++
			}
		}
		return found == len(addresses), fmt.Sprintf("%+v", quarantined)
	})
}

// waitAnyEvent returns when there is an event about a Service, whatever its reason,
// that contains all the texts.
func (e *env) waitAnyEvent(service string, texts ...string) {
	e.Helper()
	e.waitFor(fmt.Sprintf("an event on Service %s with %q", service, texts), 20*time.Second, func(ctx context.Context) (bool, string) {
		events, err := e.events(ctx, service)
		if err != nil {
			return false, err.Error()
		}
		var seen []string
		for _, event := range events {
			if containsAll(event.Message, texts) {
				return true, ""
			}
			seen = append(seen, event.Reason+": "+event.Message)
		}
		return false, strings.Join(seen, "; ")
	})
}

// testSquatterLater: a foreign host takes an address that is in use, and says so to
// everyone. The owner defends it, the Service and the node say who it is, and when
// the advertisement says to yield, the owner does, until the other is gone.
func (f *fleet) testSquatterLater() {
	e := newEnv(f.T, f.lab)
	e.usePool(4)
	e.createDeployment(deployment{app: "web", replicas: 2})
	e.createService("web")
	addresses := e.waitAnnounced("web")
	owners := e.waitOwners(addresses, nil)
	for _, address := range addresses {
		e.waitServed(network.Client, address, servicePort, "/hostname")
	}
	mac := e.stranger().MAC

	began := time.Now()
	e.squat(true, addresses...)
	for _, address := range addresses {
		host, err := e.lab.Plan().Host(owners[address])
		if err != nil {
			e.Fatal(err)
		}
		e.waitFor("the client to believe the owner of "+address.String()+" again", 10*time.Second, func(context.Context) (bool, string) {
			now, state := e.neighbor(network.Client, address)
			return now == host.MAC, now + " " + state
		})
	}
	measured.add("foreign host announces an address: until the client is back at the owner", time.Since(began))
	for _, address := range addresses {
		e.waitAnyEvent("web", address.String(), mac)
		e.waitConflict(owners[address], address)
		e.waitConflictMetric(owners[address])
	}
	e.waitFor("the Service to name the foreign host", 20*time.Second, func(context.Context) (bool, string) {
		message := e.announcedMessage("web")
		return strings.Contains(message, mac), message
	})

	e.patch("l2advertisements", e.namespace, map[string]any{"spec": map[string]any{"onConflict": v1beta1.ConflictYield}})
	e.waitFor("the owner to yield", 20*time.Second, func(context.Context) (bool, string) {
		all := e.askBriefly(addresses)
		for _, c := range all {
			if who, only := c.owner(); !only || who != network.Stranger {
				return false, fmt.Sprint(all)
			}
		}
		return true, ""
	})
	e.vacate(addresses...)
	e.waitOwnersFor(time.Minute, addresses, nil)
}

// waitConflict returns when a node says that the stranger has an address.
func (e *env) waitConflict(node string, address netip.Addr) {
	e.Helper()
	mac := e.stranger().MAC
	e.waitFor(node+" to report that another has "+address.String(), 20*time.Second, func(ctx context.Context) (bool, string) {
		state := &v1beta1.NodeState{}
		if err := e.lab.berth.Get().Resource("nodestates").Name(node).Do(ctx).Into(state); err != nil {
			return false, err.Error()
		}
		for _, c := range state.Status.AddressConflicts {
			if c.Address == address.String() && c.MAC == mac {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%+v", state.Status)
	})
}

// waitConflictMetric returns when a speaker counts another host that has its address.
func (e *env) waitConflictMetric(node string) {
	e.Helper()
	const counter = `berth_speaker_rivals_total{who="foreign"}`
	e.waitFor("the speaker on "+node+" to count a foreign host", 20*time.Second, func(ctx context.Context) (bool, string) {
		values, err := e.tryMetrics(ctx, e.speakerOf(node), 7957)
		return values[counter] > 0, fmt.Sprintf("%s is %v (error %v)", counter, values[counter], err)
	})
}
