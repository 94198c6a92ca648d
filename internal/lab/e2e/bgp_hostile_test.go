package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// fullTable is how many prefixes the router announces in the test of that name,
// and tableMemory how much memory that may cost a speaker.
const (
	fullTable   = 200_000
	tableMemory = 20 << 20
)

// testBGPFullTable: a router that announces all of the Internet costs the speakers
// next to no memory, and changes nothing on the nodes.
func testBGPFullTable(f bgpFaults) {
	f.connect(nil)
	sessions, starts := f.settled(), f.processStarts()
	routes := f.nodeRoutes()
	before := map[string]float64{}
	for _, node := range f.lab.otherNodes() {
		before[node] = f.metrics(f.speakerOf(node), 7957)["process_resident_memory_bytes"]
	}
	began := time.Now()
	f.router.configure(func(c *routers.Config) { c.Announce = routers.FullTable(fullTable) })
	const received = `berth_bgp_messages_total{direction="received",peer="ipv4",type="update"}`
	peak, last := map[string]float64{}, map[string]float64{}
	since := time.Now()
	f.waitFor("all speakers to have heard the table", time.Minute, func(context.Context) (bool, string) {
		heard := true
		for _, node := range f.lab.otherNodes() {
			values := f.metrics(f.speakerOf(node), 7957)
			peak[node] = max(peak[node], values["process_resident_memory_bytes"])
			if values[received] != last[node] {
				last[node], since = values[received], time.Now()
			}
			// No more than some 1,300 prefixes fit into a message (RFC 4271 section 4).
			heard = heard && values[received] > fullTable/1300
		}
		return heard && time.Since(since) > 2*time.Second, fmt.Sprint(last)
	})
	f.Logf("%d prefixes came in %v messages in %s", fullTable, last, since.Sub(began).Round(time.Millisecond))
	for _, node := range f.lab.otherNodes() {
		grown := int64(peak[node] - before[node])
		measured.note(f.row(fmt.Sprintf("%d prefixes heard, speaker's memory grows by", fullTable)), max(grown, 0), func(n int64) string {
			return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
		})
		if grown >= tableMemory {
			f.Errorf("the speaker on %s has grown by %d MiB, from %d MiB", node, grown>>20, int64(before[node])>>20)
		}
	}
	if now := f.nodeRoutes(); now != routes {
		f.Errorf("the nodes' kernels had %s routes, now %s", routes, now)
	}
	for neighbor, now := range f.router.waitAllUp() {
		if !now.SameAs(sessions[neighbor]) {
			f.Errorf("the session with %s was %+v, is now %+v", neighbor, sessions[neighbor], now)
		}
	}
	f.expectSameProcesses(starts)
	f.waitProbing()
}

// nodeRoutes says how many routes each node's kernel has in all tables, but for
// those that exist because somebody was spoken to.
func (f bgpFaults) nodeRoutes() string {
	f.Helper()
	var counts []string
	for _, node := range f.lab.otherNodes() {
		out, err := f.lab.Exec(f.ctx, node, "sh", "-c", "ip -4 route show table all | wc -l; ip -6 route show table all | wc -l")
		if err != nil {
			f.Fatal(err)
		}
		counts = append(counts, node+" "+strings.Join(strings.Fields(string(out)), "+"))
	}
	return strings.Join(counts, ", ")
}

// hostileASN is the AS of peers that do not keep to the protocol.
const hostileASN = 64999

// hostility is one way not to keep to it: what is sent once the session is up, or
// instead of the OPEN message, and how that has to end: with a NOTIFICATION of a
// code and subcode (RFC 4271 section 4.5), or not at all.
type hostility struct {
	name    string
	message []byte
	first   bool
	ends    string
}

const stays = "stays"

func hostilities() []hostility {
	update := func(body ...byte) []byte { return bgpMessage(2, body) }
	badMarker := bgpMessage(4, nil)
	badMarker[3] = 0
	header := func(length uint16, kind byte) []byte {
		m := bgpMessage(kind, nil)
		binary.BigEndian.PutUint16(m[16:], length)
		return m
	}
	return []hostility{
		{name: "marker", message: badMarker, ends: "NOTIFICATION 1/1"},
		{name: "length-short", message: header(18, 4), ends: "NOTIFICATION 1/2"},
		{name: "length-long", message: header(5000, 2), ends: "NOTIFICATION 1/2"},
		{name: "keepalive-body", message: bgpMessage(4, []byte{1}), ends: "NOTIFICATION 1/2"},
		{name: "type", message: bgpMessage(9, nil), ends: "NOTIFICATION 1/3"},
		// Nothing of an UPDATE is looked at, so that none is too bad.
		{name: "update-lengths", message: update(0xFF, 0xFF, 0, 0), ends: stays},
		{name: "update-attributes", message: update(0, 0, 0, 4, 0x40, 1, 200, 0), ends: stays},
		{name: "update-nlri", message: update(0, 0, 0, 0, 255, 1, 2, 3), ends: stays},
		{name: "update-flood", message: bytes.Repeat(update(0, 0, 0, 3, 0xC0, 8, 3), 50_000), ends: stays},
		{name: "second-open", message: hostileOpen(4, 90), ends: "NOTIFICATION 5/3"},
		{name: "open-version", message: hostileOpen(3, 90), first: true, ends: "NOTIFICATION 2/1"},
		{name: "open-hold-time", message: hostileOpen(4, 1), first: true, ends: "NOTIFICATION 2/6"},
		{name: "open-parameters", message: bgpMessage(1, slices.Concat(hostileOpen(4, 90)[19:28], []byte{200, 2, 255, 1})), first: true, ends: "NOTIFICATION 2/0"},
		{name: "noise", message: bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 1000), first: true, ends: "NOTIFICATION 1/1"},
	}
}

// bgpMessage frames a body (RFC 4271 section 4.1).
func bgpMessage(kind byte, body []byte) []byte {
	m := bytes.Repeat([]byte{0xFF}, 16)
	m = binary.BigEndian.AppendUint16(m, uint16(19+len(body)))
	return append(append(m, kind), body...)
}

// hostileOpen is an OPEN message of a peer that speaks both families.
func hostileOpen(version byte, hold uint16) []byte {
	body := binary.BigEndian.AppendUint16([]byte{version}, hostileASN&0xFFFF)
	body = binary.BigEndian.AppendUint16(body, hold)
	capabilities := []byte{2, 12, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1}
	return bgpMessage(1, slices.Concat(body, []byte{192, 0, 2, 200, byte(len(capabilities))}, capabilities))
}

// hostilePeer takes one connection, does what is hostile, and says how it ended.
func hostilePeer(listener net.Listener, h hostility) (string, error) {
	conn, err := listener.Accept()
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	const patience = 5 * time.Second
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	messages := [][]byte{hostileOpen(4, 90), bgpMessage(4, nil)}
	if h.first {
		messages = [][]byte{h.message}
	}
	for _, m := range messages {
		if _, err := conn.Write(m); err != nil {
			return "", err
		}
	}
	for {
		kind, body, err := readBGP(conn)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return stays, nil
		case err != nil:
			return "closed", nil
		case kind == 3 && len(body) >= 2:
			return fmt.Sprintf("NOTIFICATION %d/%d", body[0], body[1]), nil
		case kind == 4 && !h.first: // its KEEPALIVE: the session is up
			h.first = true
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				return "", err
			}
			if _, err := conn.Write(h.message); err != nil {
				return "", err
			}
		}
	}
}

func readBGP(r io.Reader) (kind byte, body []byte, err error) {
	header := make([]byte, 19)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, nil, err
	}
	body = make([]byte, max(19, binary.BigEndian.Uint16(header[16:]))-19)
	_, err = io.ReadFull(r, body)
	return header[18], body, err
}

// testBGPMalformed: peers that do not keep to the protocol lose their own session,
// where that is called for, and nobody else anything.
func testBGPMalformed(f bgpFaults) {
	f.connect(nil)
	sessions, starts := f.settled(), f.processStarts()
	const firstPort = 1790
	router, err := f.lab.Plan().Host(network.Router)
	if err != nil {
		f.Fatal(err)
	}
	ended := map[string]chan string{}
	for i, h := range hostilities() {
		address := netip.AddrPortFrom(router.IPs()[i%2], firstPort+uint16(i))
		listener := f.listenOn(network.Router, address)
		done := make(chan string, 1)
		ended[h.name] = done
		go func() {
			end, err := hostilePeer(listener, h)
			if err != nil {
				end = err.Error()
			}
			done <- end
		}()
		f.createBGP("bgppeers", "BGPPeer", "hostile-"+h.name, v1beta1.BGPPeerSpec{
			MyASN: nodeASN, PeerASN: hostileASN, PeerAddress: v1beta1.PeerAddress(address.Addr().String()), PeerPort: int32(address.Port()),
			NodeSelectors: []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{corev1.LabelHostname: faultVictim}}},
		})
	}
	for _, h := range hostilities() {
		select {
		case end := <-ended[h.name]:
			if end != h.ends {
				f.Errorf("%s: the session: %s, want: %s", h.name, end, h.ends)
			}
		case <-time.After(bgpTimeout):
			f.Errorf("%s: the speaker has not connected", h.name)
		case <-f.ctx.Done():
			f.Fatal("the run ends")
		}
	}
	for neighbor, now := range f.router.waitAllUp() {
		if !now.SameAs(sessions[neighbor]) {
			f.Errorf("the session with %s was %+v, is now %+v", neighbor, sessions[neighbor], now)
		}
	}
	f.expectSameProcesses(starts)
	f.waitProbing()
}

// listenOn listens on one of the lab's hosts until the test ends.
func (f bgpFaults) listenOn(host string, address netip.AddrPort) net.Listener {
	f.Helper()
	var listener net.Listener
	if err := f.lab.inside(host).Do(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(f.ctx, "tcp", address.String())
		return err
	}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = listener.Close() })
	return listener
}

// reannounceDelay is the least time between a route's withdrawal and its return, as
// docs/bgp.md has it.
const reannounceDelay = 3 * time.Second

// testBGPHoldDown: an endpoint that comes and goes several times a second does not
// make the routers follow.
func testBGPHoldDown(f bgpFaults) {
	f.createBGP("bgpadvertisements", "BGPAdvertisement", "all", v1beta1.BGPAdvertisementSpec{})
	f.connectOnly(nil)
	f.createService("flapping", local, func(s *corev1.Service) { s.Spec.Selector = nil })
	f.Cleanup(func() { f.deleteService("flapping") })
	pod := f.pods("web")[0]
	f.createEndpoints("flapping", &pod)
	addresses := f.waitAllocated("flapping")
	for _, address := range addresses {
		f.router.waitECMP(address, pod.Spec.NodeName)
	}
	updates := func() float64 {
		return f.metrics(f.speakerOf(pod.Spec.NodeName), 7957)[`berth_bgp_updates_sent_total{peer="ipv4"}`]
	}
	sent, watching := updates(), f.watchHops(addresses[0])
	const flapFor, every = 4 * reannounceDelay, 200 * time.Millisecond
	// Each return follows the withdrawal before it by three seconds at least.
	most := func(d time.Duration) int { return 2 * int(d/reannounceDelay+1) }
	changes, began := 0, time.Now()
	for time.Since(began) < flapFor || changes <= most(time.Since(began)) {
		f.switchEndpoints("flapping", changes%2 == 1)
		changes++
		f.pause(every, "the endpoint comes and goes several times a second")
	}
	took := time.Since(began).Round(time.Second)
	f.switchEndpoints("flapping", true)
	for _, address := range addresses {
		f.router.waitECMP(address, pod.Spec.NodeName)
	}
	seen, told := watching.stop(), int(updates()-sent)
	f.Logf("%d changes of the endpoint in %s: %d UPDATE messages, %d changes of the route: %v", changes, took, told, len(seen)-1, seen)
	measured.note(f.row(fmt.Sprintf("%d flaps of an endpoint in %s, UPDATE messages", changes, took)), int64(told), func(n int64) string { return strconv.FormatInt(n, 10) })
	if told < 2 || told > most(took) {
		f.Errorf("%d changes of the endpoint have made %d UPDATE messages, want 2 to %d", changes, told, most(took))
	}
	var gone time.Time
	for _, change := range seen {
		if len(change.hops) == 0 {
			gone = change.at
		} else if away := change.at.Sub(gone); !gone.IsZero() && away < reannounceDelay/2 { // who saw it go may have been late
			f.Errorf("the route returned %s after it was withdrawn", away)
		}
	}
}

// createEndpoints makes a Pod the only endpoint of a Service that selects none.
func (e *env) createEndpoints(service string, pod *corev1.Pod) {
	e.Helper()
	for _, ip := range pod.Status.PodIPs {
		kind := discoveryv1.AddressTypeIPv4
		if netip.MustParseAddr(ip.IP).Is6() {
			kind = discoveryv1.AddressTypeIPv6
		}
		name, port, protocol := "http", int32(podPort), corev1.ProtocolTCP
		_, err := e.lab.kube.DiscoveryV1().EndpointSlices(e.namespace).Create(e.ctx, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Name: service + "-" + strings.ToLower(string(kind)), Labels: map[string]string{discoveryv1.LabelServiceName: service},
			},
			AddressType: kind,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{ip.IP}, NodeName: &pod.Spec.NodeName, Conditions: conditionsOf(true)}},
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
		}, metav1.CreateOptions{})
		if err != nil {
			e.Fatal(err)
		}
	}
}

func conditionsOf(ready bool) discoveryv1.EndpointConditions {
	return discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready}
}

// switchEndpoints makes all endpoints of a Service ready, or none.
func (e *env) switchEndpoints(service string, ready bool) {
	e.Helper()
	client := e.lab.kube.DiscoveryV1().EndpointSlices(e.namespace)
	list, err := client.List(e.ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		e.Fatal(err)
	}
	for i := range list.Items {
		slice := &list.Items[i]
		for n := range slice.Endpoints {
			slice.Endpoints[n].Conditions = conditionsOf(ready)
		}
		if _, err := client.Update(e.ctx, slice, metav1.UpdateOptions{}); err != nil {
			e.Fatal(err)
		}
	}
}

// testBGPKubeProxy: a speaker that starts on a node whose kube-proxy does not answer
// announces nothing until it does.
func testBGPKubeProxy(f bgpFaults) {
	f.connect(nil)
	proxy := "kube-proxy@" + faultVictim
	f.Cleanup(func() {
		if err := f.lab.Thaw(proxy); err != nil {
			f.Error(err)
		}
	})
	if err := f.lab.Freeze(proxy); err != nil {
		f.Fatal(err)
	}
	old := f.speakerOf(faultVictim)
	if err := f.lab.kube.CoreV1().Pods(berthNamespace).Delete(f.ctx, old.Name, metav1.DeleteOptions{}); err != nil {
		f.Fatal(err)
	}
	f.waitFor("another speaker", time.Minute, func(context.Context) (bool, string) {
		now := f.speakerOf(faultVictim)
		return now.UID != old.UID, now.Name
	})
	f.stays("no route to "+faultVictim, 3*time.Second, func(ctx context.Context) (bool, string) {
		for _, address := range f.addresses {
			paths, err := f.router.Route(ctx, hostPrefix(address))
			if err != nil || len(paths) != nodes-1 {
				return false, fmt.Sprintf("%+v (error %v)", paths, err)
			}
		}
		return true, ""
	})
	f.noFailure("speaker on a node whose kube-proxy recovers", func() {
		began := time.Now()
		if err := f.lab.Thaw(proxy); err != nil {
			f.Fatal(err)
		}
		for _, address := range f.addresses {
			f.router.waitECMP(address, f.lab.otherNodes()...)
		}
		measured.add(f.row("kube-proxy healthy, until the node's routes are there"), time.Since(began))
	})
}
