package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
)

// Why a node tells no router of an address.
const (
	whyKubeProxy      = "kube-proxy is not ready there"
	whyDrained        = "it is drained"
	whyNotAdvertising = "not selected by a BGPAdvertisement that is for the address"
)

// telling is who tells routers of an address, and what is wrong with that.
type telling struct {
	lines []string
	// up is how many sessions there are to tell them over.
	up int
	// silent are the nodes that tell nobody, by the reason; waiting those that would
	// but have no session at all.
	silent  map[string][]string
	waiting []string
	// trouble is the first thing that is wrong with a session, or hint with one that
	// is up, and fix what to do about it.
	trouble, hint, fix string
}

// explainPeers tells who is to tell which routers.
func (x *explainer) explainPeers(a *announcing) {
	t := x.tellingOf(a)
	var state State
	switch {
	case t.up == 0 && a.served.anywhere:
		state = StateError
		if t.trouble == "" {
			t.trouble, t.fix = x.noSession(a, t)
		}
		if len(a.layer2) == 0 || !a.said.isAnnounced() {
			x.blame(rankPeers, StateError, t.trouble, t.fix)
		} else {
			x.blame(rankHint, StateWarning, t.trouble, t.fix)
		}
	case t.trouble != "":
		state = StateWarning
		x.blame(rankHint, StateWarning, t.trouble, t.fix)
	case t.hint != "":
		state = StateWarning
		x.blame(rankHint, StateWarning, t.hint, t.fix)
	default:
		state = x.doubtPeers(a)
	}
	x.step("Routers"+a.on, state, plural(t.up, "session")+" to tell them over", t.lines...)
}

// tellingOf looks at the sessions of all nodes.
func (x *explainer) tellingOf(a *announcing) *telling {
	t := &telling{silent: map[string][]string{}}
	for _, n := range byName(x.c.Nodes) {
		if why := x.silent(a, n); why != "" {
			t.silent[why] = append(t.silent[why], n.Name)
			t.lines = append(t.lines, n.Name+": tells no router: "+why)
			if why == whyKubeProxy && t.trouble == "" {
				t.trouble, t.fix = "kube-proxy is not ready on "+n.Name+", so that it tells no router", fixForProxy(n.Name)
			}
			continue
		}
		sessions := x.sessionsFor(a, n)
		if len(sessions) == 0 {
			t.waiting = append(t.waiting, n.Name)
			t.lines = append(t.lines, n.Name+": has no session with a BGPPeer that is to be told")
		}
		for i := range sessions {
			t.add(&sessions[i], a.addr)
		}
		if len(sessions) > 0 && x.c.proxyUnwell(n.Name) {
			t.lines = append(t.lines, n.Name+": kube-proxy is not well there")
			if t.trouble == "" {
				t.trouble, t.fix = proxyTrouble(n.Name)
			}
		}
	}
	return t
}

// add takes a session in that is for telling of an address.
func (t *telling) add(s *Session, addr netip.Addr) {
	family := string(v1beta1.FamilyIPv4)
	if addr.Is6() {
		family = string(v1beta1.FamilyIPv6)
	}
	var what, fix string
	switch {
	case s.State != v1beta1.BGPEstablished:
		what, fix = "is "+s.trouble(), fixForSession(s)
	case len(s.Families) > 0 && !slices.Contains(s.Families, family):
		what = "is established for " + strings.Join(s.Families, ", ") + " only, and not for " + family
		fix = fmt.Sprintf("Name %s in spec.families of BGPPeer %s, and activate it for the neighbor on the router.", family, s.Peer)
	default:
		t.up++
		line := fmt.Sprintf("%s: tells %s (%s)", s.Node, s.Name, s.Address)
		if trouble := s.trouble(); trouble != "" { // of BFD
			line += ", though " + trouble
			if t.hint == "" && t.trouble == "" {
				t.hint, t.fix = fmt.Sprintf("session %s of %s is not watched: %s", s.Name, s.Node, trouble), fixForBFD(s)
			}
		}
		t.lines = append(t.lines, line)
		return
	}
	t.lines = append(t.lines, fmt.Sprintf("%s: session %s %s", s.Node, s.Name, what))
	if t.trouble == "" {
		t.trouble, t.fix = fmt.Sprintf("session %s of %s %s", s.Name, s.Node, what), fix
	}
}

// fixForSession says what to do about a session that is not established, by what
// its speaker says of it.
func fixForSession(s *Session) string {
	var said string
	if s.LastError != nil {
		said = s.LastError.Message
	}
	switch {
	case s.State == v1beta1.BGPInvalid:
		return "Mend BGPPeer " + s.Peer + " as that says."
	case strings.Contains(said, "its AS number is"):
		return fmt.Sprintf("Set spec.peerASN of BGPPeer %s to the AS number that the router has, or the router's to that.", s.Peer)
	case strings.Contains(said, "bad peer AS"):
		return fmt.Sprintf("Set spec.myASN of BGPPeer %s to the AS number that the router expects of this neighbor, or that to spec.myASN.", s.Peer)
	case strings.Contains(said, "BFD"):
		return fixForBFD(s)
	case strings.Contains(said, "password"):
		return fmt.Sprintf("Make the password of BGPPeer %s that of the router. If it is, see whether the router at %s runs and can be reached.", s.Peer, s.Address)
	case strings.Contains(said, "connection refused"):
		return fmt.Sprintf("Start BGP on the router at %s and make the nodes its neighbors, or correct address and port in BGPPeer %s.", s.Address, s.Peer)
	case strings.Contains(said, "timeout"), strings.Contains(said, "no route to host"):
		return fmt.Sprintf("See whether the router at %s runs and can be reached; if so, correct the address in BGPPeer %s.", s.Address, s.Peer)
	}
	return "Mend that in BGPPeer " + s.Peer + " or on the router: address, AS numbers, password and the way there have to fit."
}

func fixForBFD(s *Session) string {
	return fmt.Sprintf("See whether the router watches this neighbor by BFD and lets its UDP packets through, or take spec.bfdProfile out of BGPPeer %s.", s.Peer)
}

func fixForProxy(node string) string {
	return "Get kube-proxy to run on " + node + "; Berth asks it at its healthz port whether its rules are up to date."
}

// proxyTrouble is what to say of a node whose kube-proxy is not well.
func proxyTrouble(node string) (what, fix string) {
	return "kube-proxy is not well on " + node, fixForProxy(node)
}

// noSession says why there is no session at all to tell routers over, and what to
// do about it.
func (x *explainer) noSession(a *announcing, t *telling) (why, fix string) {
	var names []string
	for _, adv := range a.bgp {
		names = append(names, adv.Name)
		if v := x.verdicts.BGPAdvertisements[adv.Name]; !v.Accepted {
			return fmt.Sprintf("BGPAdvertisement %s is for no router: %s", adv.Name, v.Message), fmt.Sprintf("Mend BGPAdvertisement %s as that says.", adv.Name)
		}
	}
	advertisements := "BGPAdvertisement " + strings.Join(names, ", ")
	if len(t.waiting) == 0 {
		return x.allSilent(t, advertisements)
	}
	for _, p := range byName(x.c.BGPPeers) {
		v := verdictOf(p.Status.Conditions, p.Generation)
		if (!v.Accepted || v.Reason != v1beta1.ReasonAccepted) && a.tells(p.Name) {
			return fmt.Sprintf("BGPPeer %s has no session: %s", p.Name, v.Message), fmt.Sprintf("Mend BGPPeer %s as that says.", p.Name)
		}
	}
	why = fmt.Sprintf("no node has a session to tell routers of %s; it would take one of %s with a BGPPeer of %s", a.addr, few(t.waiting, 5), advertisements)
	if len(x.c.BGPPeers) == 0 {
		return why, "Create a BGPPeer for the router."
	}
	return why, "Make a BGPPeer select nodes that can announce, and the BGPAdvertisement that peer."
}

// allSilent is noSession where no node would tell routers anything anyway: by the
// reason of those that have got furthest.
func (x *explainer) allSilent(t *telling, advertisements string) (why, fix string) {
	const every = "every node that may tell routers of it "
	for _, c := range []struct{ why, what, fix string }{
		{whyDrained, every + "is drained", "Take a node into service again: kubectl berth undrain NODE."},
		{whyEndpoint, every + "is " + whyEndpoint, "Run a ready Pod of the Service on a node that is selected and in service, or set externalTrafficPolicy: Cluster."},
		{whyNetwork, every + "is " + whyNetwork, "Get the network of the nodes going: see the condition NetworkUnavailable of the Nodes, which the CNI plugin clears."},
		{whyExcluded, every + "is " + whyExcluded, "Remove the label " + corev1.LabelNodeExcludeBalancers + " from nodes that may announce."},
		{whyNotAdvertising, "no node is selected by spec.nodeSelectors of " + advertisements, "Make spec.nodeSelectors of " + advertisements + " match nodes."},
	} {
		nodes := t.silent[c.why]
		switch {
		case len(nodes) == 0:
		case c.why == whyNotAdvertising:
			return c.what, c.fix
		default:
			return c.what + ": " + few(nodes, 5), strings.Replace(c.fix, "NODE", nodes[0], 1)
		}
	}
	return "there are no nodes", "See kubectl get nodes."
}

// doubtPeers warns of a BGPPeer that is told, but not in all respects in force.
func (x *explainer) doubtPeers(a *announcing) State {
	for _, p := range byName(x.c.BGPPeers) {
		v := verdictOf(p.Status.Conditions, p.Generation)
		if v.Reason != reasonPending && !v.Accepted && a.tells(p.Name) {
			x.blame(rankHint, StateWarning, fmt.Sprintf("BGPPeer %s: %s", p.Name, v.Message), fmt.Sprintf("Mend BGPPeer %s as that says.", p.Name))
			return StateWarning
		}
	}
	return StateOK
}

// tells says whether an advertisement of the address is for a BGPPeer.
func (a *announcing) tells(peer string) bool {
	return slices.ContainsFunc(a.bgp, func(adv *config.BGPAdvertisement) bool { return adv.SelectsPeer(peer) })
}

// silent says why a node tells no router of the address whatever its sessions.
func (x *explainer) silent(a *announcing, n *corev1.Node) string {
	if !slices.ContainsFunc(a.bgp, func(adv *config.BGPAdvertisement) bool {
		return config.MatchesAny(adv.NodeSelectors, labels.Set(n.Labels))
	}) {
		return whyNotAdvertising
	}
	switch {
	case excludedNode(n):
		return whyExcluded
	case networkUnavailable(n):
		return whyNetwork
	case drained(n):
		return whyDrained
	case a.served.anywhere && !a.served.on(n.Name):
		return whyEndpoint
	}
	if state := x.c.nodeState(n.Name); state != nil {
		if c := condition(state.Status.Conditions, v1beta1.ConditionBGPReady); c != nil && c.Reason == reasonWaitingForKubeProxy {
			return whyKubeProxy
		}
	}
	return ""
}

// sessionsFor returns the sessions of a node with peers that are to be told.
func (x *explainer) sessionsFor(a *announcing, n *corev1.Node) []Session {
	state := x.c.nodeState(n.Name)
	if state == nil {
		return nil
	}
	var sessions []Session
	for _, s := range state.Status.BGPSessions {
		if slices.ContainsFunc(a.bgp, func(adv *config.BGPAdvertisement) bool {
			return adv.SelectsPeer(s.Peer) && config.MatchesAny(adv.NodeSelectors, labels.Set(n.Labels))
		}) {
			sessions = append(sessions, Session{Node: n.Name, BGPSessionStatus: s})
		}
	}
	return sessions
}
