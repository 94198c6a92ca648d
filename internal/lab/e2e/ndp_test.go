package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/berth-lb/berth/internal/lab/network"
)

// testNeighbors: what the kernel of a client does with an address of a Service
// works as with that of any host: it keeps the neighbor by unicast probes, and
// notices that the address is taken.
func testNeighbors(e *env) {
	e.usePool(1)
	e.createDeployment(deployment{app: "web", replicas: 1})
	e.createService("web")
	for _, address := range e.waitServing("web") {
		e.reprobe(address)
		e.probeForDuplicate(address)
		if address.Is6() {
			e.detectDuplicate(address)
		}
	}
}

// reprobe has the client's kernel verify the neighbor by unicast questions (RFC
// 4861 section 7.3.3, RFC 1122 section 2.3.2.1). In state PROBE it sends nothing
// else; were these not answered, the entry would be FAILED after three of them.
func (e *env) reprobe(address netip.Addr) {
	e.Helper()
	mac, _ := e.neighbor(network.Client, address)
	_, err := e.lab.Exec(e.ctx, network.Client, "ip", "neighbor", "change", address.String(), "lladdr", mac, "dev", "eth0", "nud", "probe")
	if err != nil {
		e.Fatal(err)
	}
	e.waitFor(fmt.Sprintf("the neighbor entry of %s to be REACHABLE again", address), 5*time.Second, func(context.Context) (bool, string) {
		now, state := e.neighbor(network.Client, address)
		return now == mac && state == "REACHABLE", now + " " + state
	})
}

// probeForDuplicate asks as a host does that wants the address for itself: with
// no address of its own (RFC 5227 section 2.1.1, RFC 4862 section 5.4.2).
func (e *env) probeForDuplicate(address netip.Addr) {
	e.Helper()
	a, err := e.lab.newAsker(network.Client, address)
	if err != nil {
		e.Fatal(err)
	}
	defer a.close()
	a.self = netip.IPv4Unspecified()
	if address.Is6() {
		a.self = netip.IPv6Unspecified()
	}
	ctx, cancel := context.WithTimeout(e.ctx, 3*time.Second)
	defer cancel()
	answers, err := a.collect(ctx, askInterval)
	if err != nil {
		e.Fatal(err)
	}
	owner, err := e.lab.Plan().Host(e.waitOwner(address))
	if err != nil {
		e.Fatal(err)
	}
	if len(answers) == 0 {
		e.Errorf("nobody defends %s against a host that wants it", address)
	}
	for _, found := range answers {
		if found.claimed != owner.MAC {
			e.Errorf("%s is defended by %s, not by its owner %s", address, e.lab.node(found.claimed), owner.Name)
		}
		const solicited, override = 0x40, 0x20
		if address.Is6() && (found.flags&solicited != 0 || found.flags&override == 0) {
			// RFC 4861 section 7.2.4: the answer goes to all nodes, so it is not
			// solicited.
			e.Errorf("%s is defended with flags %#x", address, found.flags)
		}
	}
}

// detectDuplicate gives the client's kernel the address, which must find out that
// it is taken.
func (e *env) detectDuplicate(address netip.Addr) {
	e.Helper()
	set := func(accept string) {
		_, err := e.lab.Exec(e.ctx, network.Client, "sh", "-c", "echo "+accept+" > /proc/sys/net/ipv6/conf/eth0/accept_dad")
		if err != nil {
			e.Fatal(err)
		}
	}
	set("1")
	defer set("0")
	prefix := address.String() + "/128"
	if _, err := e.lab.Exec(e.ctx, network.Client, "ip", "address", "add", prefix, "dev", "eth0"); err != nil {
		e.Fatal(err)
	}
	defer func() {
		if _, err := e.lab.Exec(e.ctx, network.Client, "ip", "address", "delete", prefix, "dev", "eth0"); err != nil {
			e.Error(err)
		}
	}()
	e.waitFor("duplicate address detection to fail", 10*time.Second, func(ctx context.Context) (bool, string) {
		out, err := e.lab.Exec(ctx, network.Client, "ip", "-6", "address", "show", "dev", "eth0", "to", prefix)
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(string(out), "dadfailed"), string(out)
	})
}
