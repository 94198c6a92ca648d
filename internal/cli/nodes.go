package cli

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Nodes is the report of the nodes and of what their speakers say.
type Nodes struct {
	Nodes []Node `json:"nodes"`
}

// Node is one node.
type Node struct {
	Name string `json:"name"`
	// Speaker is the Pod of its speaker, and SpeakerState says how that is doing;
	// both are empty where Pods could not be read.
	Speaker      string `json:"speaker,omitempty"`
	SpeakerState string `json:"speakerState,omitempty"`
	// Reported says that its speaker has reported at all.
	Reported      bool                      `json:"reported"`
	OwnedIPv4     int32                     `json:"ownedIPv4"`
	OwnedIPv6     int32                     `json:"ownedIPv6"`
	StandingInFor []string                  `json:"standingInFor,omitempty"`
	Conflicts     []v1beta1.AddressConflict `json:"conflicts,omitempty"`
	Sessions      int                       `json:"sessions"`
	SessionsUp    int                       `json:"sessionsUp"`
	SessionsDown  []string                  `json:"sessionsDown,omitempty"`
	Routes        int32                     `json:"routes"`
	Drained       bool                      `json:"drained,omitempty"`
	Excluded      bool                      `json:"excluded,omitempty"`
	BGPReason     string                    `json:"bgpReason,omitempty"`
	ProxyDown     bool                      `json:"kubeProxyDown,omitempty"`
	State         State                     `json:"state"`
	Notes         []string                  `json:"notes,omitempty"`
}

// reasonWaitingForKubeProxy of the condition BGPReady.
const reasonWaitingForKubeProxy = "WaitingForKubeProxy"

// kubeProxyUnwell says whether a speaker has found its node's kube-proxy unwell.
func kubeProxyUnwell(status *v1beta1.NodeStateStatus) bool {
	c := condition(status.Conditions, v1beta1.ConditionKubeProxyReady)
	return c != nil && c.Status == metav1.ConditionFalse
}

func (c *Cluster) proxyUnwell(node string) bool {
	state := c.nodeState(node)
	return state != nil && kubeProxyUnwell(&state.Status)
}

// speakerTrouble says why the speaker of a node is not ready.
func (c *Cluster) speakerTrouble(node string) string {
	pod := c.speakerOf(node)
	if pod == nil {
		return "none runs on " + node
	}
	return pod.Name + " on " + node + ": " + podTrouble(pod)
}

// ReportNodes reports on the nodes.
func ReportNodes(c *Cluster) Nodes {
	r := Nodes{Nodes: []Node{}}
	for _, object := range byName(c.Nodes) {
		r.Nodes = append(r.Nodes, nodeOf(c, object))
	}
	return r
}

func nodeOf(c *Cluster, object *corev1.Node) Node {
	n := Node{Name: object.Name, Drained: drained(object), Excluded: excludedNode(object), State: StateOK}
	if !c.isUnread("pods") {
		n.judgeSpeaker(c.speakerOf(object.Name))
	}
	if state := c.nodeState(object.Name); state != nil {
		n.read(&state.Status)
	} else if !c.isUnread("nodestates") && n.State == StateOK {
		n.State, n.Notes = StateError, append(n.Notes, "the speaker has reported nothing")
	}
	if n.Drained {
		n.Notes = append(n.Notes, "drained")
	}
	if n.Excluded {
		n.Notes = append(n.Notes, "excluded by the label "+corev1.LabelNodeExcludeBalancers)
	}
	if networkUnavailable(object) {
		n.State, n.Notes = worse(n.State, StateWarning), append(n.Notes, "NetworkUnavailable")
	}
	return n
}

func (n *Node) judgeSpeaker(pod *corev1.Pod) {
	switch {
	case pod == nil:
		n.SpeakerState, n.State, n.Notes = "none", StateError, append(n.Notes, "no speaker runs here")
	case podReady(pod):
		n.Speaker, n.SpeakerState = pod.Name, "ready"
	default:
		n.Speaker, n.SpeakerState, n.State = pod.Name, podTrouble(pod), StateError
		n.Notes = append(n.Notes, "speaker "+pod.Name+": "+podTrouble(pod))
	}
}

func (n *Node) read(status *v1beta1.NodeStateStatus) {
	n.Reported, n.Conflicts, n.SessionsDown = true, status.AddressConflicts, status.BGPDown
	if l2 := status.L2; l2 != nil {
		n.OwnedIPv4, n.OwnedIPv6, n.StandingInFor = l2.OwnedIPv4, l2.OwnedIPv6, l2.StandingInFor
	}
	for _, s := range status.BGPSessions {
		n.Sessions++
		n.Routes += s.AnnouncedPrefixes
		if s.State == v1beta1.BGPEstablished {
			n.SessionsUp++
		}
	}
	ready := condition(status.Conditions, v1beta1.ConditionBGPReady)
	if ready != nil {
		n.BGPReason = ready.Reason
	}
	if kubeProxyUnwell(status) && n.BGPReason != reasonWaitingForKubeProxy {
		n.ProxyDown, n.State, n.Notes = true, StateError, append(n.Notes, "kube-proxy is not well")
	}
	if len(n.SessionsDown) > 0 && !n.Drained {
		n.State, n.Notes = StateError, append(n.Notes, "down: "+few(n.SessionsDown, 3))
	}
	if n.BGPReason == reasonWaitingForKubeProxy {
		n.State, n.Notes = StateError, append(n.Notes, "waiting for kube-proxy")
	}
	if len(n.Conflicts) > 0 {
		n.State, n.Notes = worse(n.State, StateWarning), append(n.Notes, "other hosts have "+few(conflictAddresses(n.Conflicts), 3))
	}
	if len(n.StandingInFor) > 0 {
		n.State, n.Notes = worse(n.State, StateWarning), append(n.Notes, "stands in for "+few(n.StandingInFor, 3))
	}
}

func conflictAddresses(conflicts []v1beta1.AddressConflict) []string {
	addresses := make([]string, len(conflicts))
	for i, c := range conflicts {
		addresses[i] = c.Address
	}
	return addresses
}

// owned renders how many addresses a node owns.
func (n *Node) owned() string {
	switch {
	case !n.Reported:
		return ""
	case n.OwnedIPv6 == 0:
		return strconv.Itoa(int(n.OwnedIPv4))
	case n.OwnedIPv4 == 0:
		return strconv.Itoa(int(n.OwnedIPv6))
	}
	return strconv.Itoa(int(n.OwnedIPv4)) + " IPv4, " + strconv.Itoa(int(n.OwnedIPv6)) + " IPv6"
}

func (r Nodes) text(p *Printer) {
	if len(r.Nodes) == 0 {
		p.printf("There are no nodes, or they could not be read.\n")
		return
	}
	t := table{columns: []column{
		{name: "NAME"}, {name: "SPEAKER"}, {name: "OWNED"}, {name: "STANDS IN FOR", wide: true}, {name: "CONFLICTS"},
		{name: "SESSIONS"}, {name: "ROUTES"}, {name: "POD", wide: true}, {name: "NOTE"},
	}}
	for _, n := range r.Nodes {
		sessions, routes := cell{}, cell{}
		if n.Sessions > 0 {
			sessions = cell{text: strconv.Itoa(n.SessionsUp) + "/" + strconv.Itoa(n.Sessions), state: StateOK}
			if n.SessionsUp < n.Sessions {
				sessions.state = StateError
			}
			routes = plain(strconv.Itoa(int(n.Routes)))
		}
		speaker := cell{text: n.SpeakerState, state: StateOK}
		if n.SpeakerState != "ready" && n.SpeakerState != "" {
			speaker.state = StateError
		}
		t.add(plain(n.Name), speaker, plain(n.owned()), plain(strings.Join(n.StandingInFor, ",")),
			conflictCell(n.Conflicts), sessions, routes, plain(n.Speaker), cell{text: strings.Join(n.Notes, "; "), state: n.State})
	}
	t.print(p)
}

func conflictCell(conflicts []v1beta1.AddressConflict) cell {
	if len(conflicts) == 0 {
		return cell{}
	}
	return cell{text: few(conflictAddresses(conflicts), 3), state: StateWarning}
}
