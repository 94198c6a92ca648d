package cli

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
)

// announcing is what there is to say about one address.
type announcing struct {
	addr     netip.Addr
	services []*corev1.Service
	layer2   []*config.L2Advertisement
	bgp      []*config.BGPAdvertisement
	served   served
	// said is what the condition says of the address, and reason that of the
	// condition; "" where there is none.
	said   Announcement
	reason string
	// on is put behind the names of steps.
	on string
}

// explainAnnouncement follows one address from the advertisements to whoever
// announces it.
func (x *explainer) explainAnnouncement(addr netip.Addr, several bool) {
	a := announcing{addr: addr, services: x.c.sharers(addr)}
	if len(a.services) == 0 {
		a.services = []*corev1.Service{x.svc}
	}
	if several {
		a.on = " " + map[bool]string{true: "IPv4", false: "IPv6"}[addr.Is4()]
	}
	for _, svc := range a.services {
		for _, adv := range x.snapshot.L2AdvertisementsFor(announcedOf(svc), addr) {
			if !slices.Contains(a.layer2, adv) {
				a.layer2 = append(a.layer2, adv)
			}
		}
		for _, adv := range x.snapshot.BGPAdvertisementsFor(announcedOf(svc), addr) {
			if !slices.Contains(a.bgp, adv) {
				a.bgp = append(a.bgp, adv)
			}
		}
	}
	a.served = x.c.servedAt(addr, a.services)
	if c := condition(x.svc.Status.Conditions, v1beta1.ConditionAnnounced); c != nil {
		a.reason = c.Reason
		a.said = announcementOf(x.svc, addr)
	}
	x.explainAdvertisements(&a)
	if len(a.layer2) > 0 {
		x.explainNodes(&a)
	}
	if len(a.bgp) > 0 {
		x.explainPeers(&a)
	}
	x.explainEndpoints(&a)
	x.explainCondition(&a)
}

func (x *explainer) explainAdvertisements(a *announcing) {
	var lines, names []string
	for _, adv := range byName(x.c.L2Advertisements) {
		var text string
		in := slices.ContainsFunc(a.layer2, func(l *config.L2Advertisement) bool { return l.Name == adv.Name })
		i := slices.IndexFunc(x.snapshot.L2Advertisements, func(l *config.L2Advertisement) bool { return l.Name == adv.Name })
		switch {
		case in:
			names, text = append(names, "L2Advertisement "+adv.Name), "matches"
		case i < 0:
			text = "not in force: " + x.verdicts.L2Advertisements[adv.Name].Message
		default:
			text = a.unmatched(x.snapshot.L2Advertisements[i].ServiceSelectors, x.verdicts.L2Advertisements[adv.Name])
		}
		lines = append(lines, "L2Advertisement "+adv.Name+": "+text)
	}
	for _, adv := range byName(x.c.BGPAdvertisements) {
		var text string
		in := slices.ContainsFunc(a.bgp, func(b *config.BGPAdvertisement) bool { return b.Name == adv.Name })
		i := slices.IndexFunc(x.snapshot.BGPAdvertisements, func(b *config.BGPAdvertisement) bool { return b.Name == adv.Name })
		switch {
		case in:
			names, text = append(names, "BGPAdvertisement "+adv.Name), "matches"
		case i < 0:
			text = "not in force: " + x.verdicts.BGPAdvertisements[adv.Name].Message
		default:
			text = a.unmatched(x.snapshot.BGPAdvertisements[i].ServiceSelectors, x.verdicts.BGPAdvertisements[adv.Name])
		}
		lines = append(lines, "BGPAdvertisement "+adv.Name+": "+text)
	}
	if len(names) > 0 {
		x.step("Advertised"+a.on, StateOK, a.addr.String()+" by "+strings.Join(names, ", "), lines...)
		return
	}
	x.step("Advertised"+a.on, StateError, "no advertisement is for "+a.addr.String(), lines...)
	why, fix := x.nearestAdvertisement(a)
	if fix == "" {
		fix = fmt.Sprintf("Create an L2Advertisement or BGPAdvertisement for pool %s, or make one of those above match pool and Service.",
			strings.Join(announcedOf(x.svc).Pools, ", "))
	}
	x.blame(rankAdvertisement, StateError, "no advertisement is for "+a.addr.String()+why, fix)
}

// unmatched says why an advertisement is not for the address though it can be used.
func (a *announcing) unmatched(serviceSelectors []labels.Selector, v config.Verdict) string {
	switch {
	case !v.Accepted:
		return "not in force: " + v.Message
	case !a.matchedBy(serviceSelectors):
		return "its serviceSelectors do not match the labels of the Service"
	}
	return "it is for other pools"
}

// matchedBy says whether any of the Services at the address is selected.
func (a *announcing) matchedBy(serviceSelectors []labels.Selector) bool {
	return slices.ContainsFunc(a.services, func(svc *corev1.Service) bool { return config.MatchesAny(serviceSelectors, svc.Labels) })
}

// Why nodes do not own an address, as far as the API server knows.
const (
	whyNotSelected = "not selected by an L2Advertisement that is for the address"
	whyExcluded    = "excluded by the label " + corev1.LabelNodeExcludeBalancers
	whyNetwork     = "NetworkUnavailable"
	whySpeaker     = "without a ready speaker"
	whyEndpoint    = "without a serving endpoint there, which externalTrafficPolicy Local needs"
	whyInterface   = "without a usable interface, as the speakers say"
)

// inMessage is how a speaker's condition names nodes without an interface.
const inMessage = "without a usable interface"

// nodeWhy says why a node cannot own the address; "" if nothing is known against
// it.
func (x *explainer) nodeWhy(a *announcing, n *corev1.Node) string {
	switch why := x.c.unfit(n); {
	case !selectedBy(a.layer2, n):
		return whyNotSelected
	case why != "":
		return why
	case len(a.served.local) > 0 && !a.served.on(n.Name):
		return whyEndpoint
	case a.reason != "" && !a.said.isAnnounced() && strings.Contains(a.said.Message, inMessage):
		return whyInterface
	}
	return ""
}

// selectedBy says whether one of the advertisements is for the node.
func selectedBy(advertisements []*config.L2Advertisement, n *corev1.Node) bool {
	return slices.ContainsFunc(advertisements, func(adv *config.L2Advertisement) bool {
		return config.MatchesAny(adv.NodeSelectors, labels.Set(n.Labels))
	})
}

// unfit says why a node can own no address at all; "" if nothing is known against it.
func (c *Cluster) unfit(n *corev1.Node) string {
	switch {
	case excludedNode(n):
		return whyExcluded
	case networkUnavailable(n):
		return whyNetwork
	case c.isUnread("pods"):
	default:
		if pod := c.speakerOf(n.Name); pod == nil || !podReady(pod) {
			return whySpeaker
		}
	}
	return ""
}

func (x *explainer) explainNodes(a *announcing) {
	if x.c.isUnread("nodes") {
		x.step("Nodes"+a.on, StateUnknown, "cannot read nodes")
		return
	}
	counts := map[string]int{}
	var lines []string
	var speaker string // the first that is in the way
	eligible, state := 0, StateOK
	for _, n := range byName(x.c.Nodes) {
		why := x.nodeWhy(a, n)
		switch {
		case n.Name == a.said.Node:
			eligible++
			if x.c.proxyUnwell(n.Name) {
				state = StateError
			}
			lines = append(lines, n.Name+": "+x.ownerLine(a, n.Name, why))
		case why == whySpeaker:
			counts[why]++
			trouble := x.c.speakerTrouble(n.Name)
			speaker = cmp.Or(speaker, trouble)
			lines = append(lines, fmt.Sprintf("%s: not eligible: %s (%s)", n.Name, why, trouble))
		case why != "":
			counts[why]++
			lines = append(lines, n.Name+": not eligible: "+why)
		case drained(n):
			eligible++
			lines = append(lines, n.Name+": drained: it owns only what no other node can")
		default:
			eligible++
			lines = append(lines, n.Name+": eligible")
		}
	}
	if eligible == 0 {
		state = StateError
		why := first(counts, []string{whyEndpoint, whyInterface, whySpeaker, whyNetwork, whyExcluded, whyNotSelected})
		what := fmt.Sprintf("no node can own %s; of %s %d %s", a.addr, plural(len(x.c.Nodes), "node"), counts[why], isOrAre(counts[why], why))
		if why == whySpeaker {
			what += ": " + speaker
		}
		x.blame(rankNodes, StateError, what, x.fixForNodes(why, a))
	}
	x.step("Nodes"+a.on, state, fmt.Sprintf("%d of %d can own %s", eligible, len(x.c.Nodes), a.addr), lines...)
}

// ownerLine says of the owner of an address how it does.
func (x *explainer) ownerLine(a *announcing, node, why string) string {
	text := "owner, on " + strings.Join(a.said.Interfaces, ", ")
	if why == whySpeaker { // others answer in its place
		text += "; its speaker is not ready, so that another answers in its place"
	}
	if x.c.proxyUnwell(node) {
		text += "; kube-proxy is not well there"
		what, fix := proxyTrouble(node)
		x.blame(rankNodes, StateError, what+", which owns "+a.addr.String(), fix)
	}
	return text
}

func isOrAre(n int, why string) string {
	if n == 1 {
		return "is " + why
	}
	return "are " + why
}

// first returns the first of the reasons that some node has: the nodes that it
// stops have got furthest.
func first(counts map[string]int, reasons []string) string {
	for _, why := range reasons {
		if counts[why] > 0 {
			return why
		}
	}
	return reasons[len(reasons)-1]
}

func (x *explainer) fixForNodes(why string, a *announcing) string {
	var names []string
	for _, adv := range a.layer2 {
		names = append(names, adv.Name)
	}
	advertisements := "L2Advertisement " + strings.Join(names, ", ")
	switch why {
	case whyEndpoint:
		return "Run a ready Pod of the Service on a node that is eligible otherwise, or set externalTrafficPolicy: Cluster."
	case whyInterface:
		for _, adv := range a.layer2 {
			if len(adv.Interfaces) > 0 {
				return fmt.Sprintf("Name in spec.interfaces of %s interfaces that the nodes have (now: %s), and that are up.", advertisements, strings.Join(adv.Interfaces, ", "))
			}
		}
		return fmt.Sprintf("No interface of the nodes has the subnet of %s: name one in spec.interfaces of %s, or use addresses of the nodes' network.", a.addr, advertisements)
	case whySpeaker:
		return fmt.Sprintf("Get the speakers to run: kubectl -n %s get pods -l %s=%s -o wide, and their logs.", x.c.Namespace, componentLabel, componentSpeaker)
	case whyNetwork:
		return "Get the network of the nodes going: see the condition NetworkUnavailable of the Nodes, which the CNI plugin clears."
	case whyExcluded:
		return "Remove the label " + corev1.LabelNodeExcludeBalancers + " from nodes that may announce; Kubernetes sets it on control-plane nodes."
	}
	return "Make spec.nodeSelectors of " + advertisements + " match nodes."
}

func (x *explainer) explainEndpoints(a *announcing) {
	if x.c.isUnread("endpointslices") {
		x.step("Endpoints"+a.on, StateUnknown, "cannot read endpointslices")
		return
	}
	e := x.c.endpointsOf(x.svc, a.addr)
	parts := []string{fmt.Sprintf("%d ready", sum(e.ready))}
	if n := nodesIn(e.ready); len(n) > 0 {
		parts[0] += " (" + few(n, 5) + ")"
	}
	if n := sum(e.terminating); n > 0 {
		parts = append(parts, fmt.Sprintf("%d terminating but serving (%s)", n, few(nodesIn(e.terminating), 5)))
	}
	if e.unready > 0 {
		parts = append(parts, fmt.Sprintf("%d not ready", e.unready))
	}
	state := StateOK
	if !e.serve() {
		state = StateError
		level := StateError
		if a.served.anywhere { // of another Service that shares the address
			level = StateWarning
		}
		fix := fmt.Sprintf("Get a Pod of the Service ready: kubectl -n %s get pods -l '%s'.", x.svc.Namespace, labels.Set(x.svc.Spec.Selector))
		switch {
		case e.unready == 0 && len(x.svc.Spec.Selector) == 0:
			fix = "The Service has no selector: create EndpointSlices for it, or give it one."
		case e.unready == 0:
			fix = fmt.Sprintf("No Pod matches spec.selector %s of the Service: start one, or correct the selector.", labels.Set(x.svc.Spec.Selector))
		}
		x.blame(rankEndpoints, level, "no endpoint of the Service serves: "+strings.Join(parts, ", "), fix)
	}
	x.step("Endpoints"+a.on, state, strings.Join(parts, ", ")+"; externalTrafficPolicy "+string(x.svc.Spec.ExternalTrafficPolicy))
}

// explainCondition tells what the speakers say, which counts.
func (x *explainer) explainCondition(a *announcing) {
	c := condition(x.svc.Status.Conditions, v1beta1.ConditionAnnounced)
	if c == nil {
		x.step("Announced"+a.on, StateError, "no speaker has said anything about the Service")
		x.blame(rankAnnounced, StateError, "no speaker has said anything about the Service", fmt.Sprintf(
			"See whether speakers run: kubectl -n %s get pods -l %s=%s -o wide.", x.c.Namespace, componentLabel, componentSpeaker))
		return
	}
	message := a.said.Message
	if message == "" {
		message = c.Message
	}
	state := StateOK
	conflict := x.conflictOf(a.addr)
	switch {
	case a.said.isAnnounced() && (strings.Contains(message, "speaks for it too") || conflict != ""):
		state = StateWarning
		x.blame(rankAnnounced, StateError, "another host has "+a.addr.String()+" too: "+conflict+"clients may reach either", fixForAddress(v1beta1.ReasonAddressConflict, x.svc))
	case a.said.isAnnounced():
	case c.Reason == v1beta1.ReasonAddressConflict || conflict != "" && strings.Contains(message, "another host"):
		state = StateError
		x.blame(rankAnnounced, StateError, message, fixForAddress(v1beta1.ReasonAddressConflict, x.svc))
	case strings.Contains(message, v1beta1.PreparingText):
		state = StateWarning
		x.blame(rankAnnounced, StateWarning, message, "Wait some seconds.")
	case c.Reason == "AnnouncementFailing":
		state = StateError
		x.blame(rankAnnounced, StateError, message, "Look at the log of the speaker that the message names; mend what its network interface lacks.")
	default:
		state = StateError
		x.blame(rankAnnounced, StateError, message, "See the message; if it contradicts what is above, wait for the speakers to take the last change in.")
	}
	x.step("Announced"+a.on, state, message)
}

// conflictOf describes the host that a node hears with the address, "" if none.
func (x *explainer) conflictOf(addr netip.Addr) string {
	for _, state := range byName(x.c.NodeStates) {
		for _, c := range state.Status.AddressConflicts {
			if c.Address == addr.String() {
				return fmt.Sprintf("%s, heard by %s on %s; ", c.MAC, state.Name, c.Interface)
			}
		}
	}
	return ""
}

// explainClient tells what a client should see.
func (x *explainer) explainClient(addresses []netip.Addr) {
	if len(addresses) == 0 {
		x.step("Client", StateError, "nothing to connect to: EXTERNAL-IP is <pending>")
		return
	}
	var lines []string
	state := StateOK
	for _, addr := range addresses {
		a := announcementOf(x.svc, addr)
		tool := map[bool]string{true: "arping -c 3 ", false: "ndisc6 "}[addr.Is4()] + addr.String()
		switch {
		case a.Node != "":
			lines = append(lines, fmt.Sprintf("%s: on the Ethernet of the nodes, %s shows the MAC of %s (%s)", addr, tool, a.Node, strings.Join(a.Interfaces, ", ")))
		case a.BGPNodes > 0:
			lines = append(lines, fmt.Sprintf("%s: the routers have %s for it; it is on no Ethernet, so %s gets no answer", addr, plural(a.BGPNodes, "next hop"), tool))
		default:
			state = StateError
			lines = append(lines, fmt.Sprintf("%s: nobody answers; connections fail", addr))
		}
	}
	var ports []string
	for _, port := range x.svc.Spec.Ports {
		ports = append(ports, fmt.Sprintf("%d/%s", port.Port, port.Protocol))
	}
	summary := "connections to " + few(ports, 5) + " reach a ready Pod on any node, which sees a node's address for the client's"
	if isLocal(x.svc) {
		summary = "connections to " + few(ports, 5) + " reach a Pod on the node that they enter by, which sees the client's own address"
	}
	if state == StateError {
		summary = "not every address works"
	}
	x.step("Client", state, summary, lines...)
}
