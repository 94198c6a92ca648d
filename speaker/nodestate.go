package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bfd"
	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/k8s"
)

// Reasons of the condition BGPReady on a NodeState.
const (
	// reasonEstablished: every session is established.
	reasonEstablished = "Established"
	// reasonNotConfigured: no BGPPeer selects the node.
	reasonNotConfigured = "NoPeers"
	// reasonStarting: kube-proxy is not ready, so nothing may be announced.
	reasonStarting = "WaitingForKubeProxy"
	// reasonSessionsDown: some session is not established; the message says which.
	reasonSessionsDown = "SessionsDown"
	// reasonDraining: the node is drained of its routes.
	reasonDraining = "Draining"
	// reasonDisputed: BGPAdvertisements disagree about a route.
	reasonDisputed = "AdvertisementsDisagree"
)

// maxSessions is how many sessions a NodeState lists.
const maxSessions = 128

// maxConflicts and maxStandIns are how many of these a NodeState lists.
const (
	maxConflicts = 256
	maxStandIns  = 64
)

// conflictSeenEvery is how often a NodeState says anew that a host which has one
// of our addresses is still there.
const conflictSeenEvery = 10 * time.Minute

// nodeReporter writes the NodeState of this node when it says something else
// than it should: once a second at most, as it is called.
type nodeReporter struct {
	writer statusWriter
	logger log.Logger
	told   *v1beta1.NodeStateStatus
	// layer2 is what the next report says of layer 2; nil is nothing.
	layer2 *nodeLayer2
}

// nodeLayer2 is what a node does on layer 2, and what it hears there.
type nodeLayer2 struct {
	// ownedIPv4 and ownedIPv6 are how many addresses the node owns.
	ownedIPv4, ownedIPv6 int
	// standingInFor are the nodes for whose addresses it answers.
	standingInFor []string
	// conflicts in any order, of each address the one that counts. LastSeen may be
	// as exact as it is known.
	conflicts []v1beta1.AddressConflict
}

// fill adds to a status what there is to say of layer 2; before is what was said
// last. That a host was heard again is no news until conflictSeenEvery later.
func (l *nodeLayer2) fill(status *v1beta1.NodeStateStatus, before v1beta1.NodeStateStatus) {
	status.L2 = &v1beta1.L2Status{
		Owned:     ownedColumn(l.ownedIPv4, l.ownedIPv6),
		OwnedIPv4: int32(l.ownedIPv4), OwnedIPv6: int32(l.ownedIPv6),
		StandingInFor: slices.Compact(slices.Sorted(slices.Values(l.standingInFor))),
	}
	status.L2.StandingInFor = status.L2.StandingInFor[:min(len(status.L2.StandingInFor), maxStandIns)]
	conflicts := slices.Clone(l.conflicts)
	slices.SortStableFunc(conflicts, compareConflicts)
	// The list is a map.
	conflicts = slices.CompactFunc(conflicts, func(a, b v1beta1.AddressConflict) bool { return a.Address == b.Address })
	if len(conflicts) > maxConflicts {
		// Those that the controller acts on must not be what is left out.
		slices.SortStableFunc(conflicts, func(a, b v1beta1.AddressConflict) int { return -compareBools(a.BeforeUse, b.BeforeUse) })
		conflicts = conflicts[:maxConflicts]
		slices.SortFunc(conflicts, compareConflicts)
	}
	for i := range conflicts {
		c := &conflicts[i]
		c.Since, c.LastSeen = *second(c.Since.Time), *second(c.LastSeen.Time)
		for _, b := range before.AddressConflicts {
			if b.Address == c.Address && b.MAC == c.MAC && c.LastSeen.Sub(b.LastSeen.Time) < conflictSeenEvery {
				c.LastSeen = b.LastSeen
			}
		}
	}
	status.AddressConflicts = conflicts
}

// compareConflicts orders by address; text that is none comes first.
func compareConflicts(a, b v1beta1.AddressConflict) int {
	x, _ := netip.ParseAddr(a.Address)
	y, _ := netip.ParseAddr(b.Address)
	return cmp.Or(x.Compare(y), strings.Compare(a.Address, b.Address))
}

// compareBools orders false before true.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// ownedColumn renders how many addresses a node owns as pools render theirs.
func ownedColumn(four, six int) string {
	switch {
	case six == 0:
		return strconv.Itoa(four)
	case four == 0:
		return strconv.Itoa(six)
	}
	return fmt.Sprintf("%d IPv4, %d IPv6", four, six)
}

// last returns what was written last.
func (n *nodeReporter) last() v1beta1.NodeStateStatus {
	if n.told == nil {
		return v1beta1.NodeStateStatus{}
	}
	return *n.told
}

func (n *nodeReporter) report(node *corev1.Node, status v1beta1.NodeStateStatus) {
	if n.layer2 != nil {
		n.layer2.fill(&status, n.last())
	}
	if n.told != nil && equality.Semantic.DeepEqual(*n.told, status) {
		return
	}
	key, patch, err := k8s.NodeStateOf(node, status)
	if err != nil {
		level.Error(n.logger).Log("msg", "cannot report on this node", "err", err)
		return
	}
	n.told = &status
	n.writer.Set(key, patch)
}

// nodeState says how this node's sessions are doing. before is what was said last.
func (r *routers) nodeState(before v1beta1.NodeStateStatus) v1beta1.NodeStateStatus {
	var status v1beta1.NodeStateStatus
	up := 0
	for _, s := range r.last.sessions {
		state := stateOf(r.states, s.Name)
		if state.State == bgp.Established {
			up++
		} else {
			status.BGPDown = append(status.BGPDown, s.Name)
		}
		status.BGPSessions = append(status.BGPSessions, sessionStatus(s, state, r.watched))
	}
	for _, p := range r.last.problems {
		status.BGPDown = append(status.BGPDown, p.Name)
		status.BGPSessions = append(status.BGPSessions, problemStatus(p, r.troubled[p]))
	}
	for i := range status.BGPSessions {
		steady(&status.BGPSessions[i], before.BGPSessions)
	}
	slices.SortStableFunc(status.BGPSessions, func(a, b v1beta1.BGPSessionStatus) int { return strings.Compare(a.Name, b.Name) })
	// A peer may have a session and a problem of the same name; the list is a map.
	status.BGPSessions = slices.CompactFunc(status.BGPSessions, func(a, b v1beta1.BGPSessionStatus) bool { return a.Name == b.Name })
	status.BGPSessions = status.BGPSessions[:min(len(status.BGPSessions), maxSessions)]
	slices.Sort(status.BGPDown)
	status.BGPDown = slices.Compact(status.BGPDown)
	status.BGPDown = status.BGPDown[:min(len(status.BGPDown), maxSessions)]
	if all := len(r.last.sessions) + len(r.last.problems); all > 0 {
		status.BGPUp = fmt.Sprintf("%d/%d", up, all)
	}
	condition := r.readiness(status)
	condition.Type, condition.LastTransitionTime = v1beta1.ConditionBGPReady, metav1.NewTime(r.clock.Now().Truncate(time.Second))
	status.Conditions = slices.Clone(before.Conditions)
	meta.SetStatusCondition(&status.Conditions, condition)
	return status
}

// steady keeps what was said of a session that was not established and is not: a
// peer that is away is tried again and again, which is no news.
func steady(s *v1beta1.BGPSessionStatus, before []v1beta1.BGPSessionStatus) {
	i := slices.IndexFunc(before, func(b v1beta1.BGPSessionStatus) bool { return b.Name == s.Name })
	if i < 0 || s.State == v1beta1.BGPEstablished || s.State == v1beta1.BGPInvalid {
		return
	}
	b := &before[i]
	if b.State == v1beta1.BGPEstablished || b.State == v1beta1.BGPInvalid || !sameError(b.LastError, s.LastError) {
		return
	}
	s.State, s.Since, s.LastError = b.State, b.Since, b.LastError
	s.Address, s.LocalAddress, s.PeerASN, s.PeerRouterID, s.Capabilities = b.Address, b.LocalAddress, b.PeerASN, b.PeerRouterID, b.Capabilities
}

func sameError(a, b *v1beta1.SessionError) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Reason == b.Reason && a.Message == b.Message
}

// readiness sums up a node's sessions.
func (r *routers) readiness(status v1beta1.NodeStateStatus) metav1.Condition {
	not := func(reason, message string) metav1.Condition {
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: reason, Message: message}
	}
	is := func(reason, message string) metav1.Condition {
		return metav1.Condition{Status: metav1.ConditionTrue, Reason: reason, Message: message}
	}
	switch {
	case len(status.BGPSessions) == 0:
		return is(reasonNotConfigured, "no BGPPeer selects this node")
	case !r.isReady():
		return not(reasonStarting, "kube-proxy is not ready on this node, so routers are told nothing yet")
	case r.last.drain != inService:
		return not(reasonDraining, fmt.Sprintf("the node is %s, as its annotation %s asks", r.last.drain, v1beta1.AnnotationDrain))
	case len(status.BGPDown) > 0:
		return not(reasonSessionsDown, fmt.Sprintf("not established: %s", strings.Join(status.BGPDown[:min(len(status.BGPDown), 8)], ", ")))
	case len(r.last.conflicts) > 0:
		return is(reasonDisputed, fmt.Sprintf("every session is established; of %d disagreements between BGPAdvertisements the first: %s",
			len(r.last.conflicts), r.last.conflicts[0].Message))
	}
	return is(reasonEstablished, "every session is established")
}

func sessionStatus(s config.Session, state bgp.PeerState, watched []bfd.Status) v1beta1.BGPSessionStatus {
	out := v1beta1.BGPSessionStatus{
		Name: s.Name, Peer: s.Object, Address: s.Where(), VRF: s.VRF, State: v1beta1.BGPState(state.State.String()),
		LocalASN: int64(s.LocalASN), PeerASN: int64(s.PeerASN), LocalRouterID: s.RouterID.String(),
		AnnouncedPrefixes: int32(state.Announced), Capabilities: state.Capabilities,
	}
	if !state.Since.IsZero() {
		out.Since = second(state.Since)
	}
	if state.RemoteAddress.IsValid() {
		out.Address, out.LocalAddress = state.RemoteAddress.Addr().String(), state.LocalAddress.Addr().String()
	}
	if state.RemoteASN != 0 {
		out.PeerASN, out.PeerRouterID = int64(state.RemoteASN), state.RemoteRouterID.String()
	}
	if state.State == bgp.Established {
		out.HoldTime = state.HoldTime.String()
		for _, f := range state.Families {
			out.Families = append(out.Families, familyName(f))
		}
	}
	switch {
	case state.HeldDown != "":
		out.LastError = &v1beta1.SessionError{Time: *second(state.Since), Reason: "HeldDown", Message: cut(state.HeldDown)}
	case state.Problem != "":
		out.LastError = &v1beta1.SessionError{Time: *second(state.Since), Reason: "NotAnnounced", Message: cut(state.Problem)}
	case state.LastError != "":
		out.LastError = &v1beta1.SessionError{Time: *second(state.LastErrorAt), Reason: "SessionLost", Message: cut(state.LastError)}
	}
	if s.BFD != nil {
		out.BFD = bfdStatus(s, watched)
	}
	return out
}

// familyName is what BGPPeers call a family.
func familyName(f bgp.Family) string {
	if f == bgp.IPv6 {
		return string(v1beta1.FamilyIPv6)
	}
	return string(v1beta1.FamilyIPv4)
}

func bfdStatus(s config.Session, watched []bfd.Status) *v1beta1.BFDSessionStatus {
	out := &v1beta1.BFDSessionStatus{Profile: s.BFD.Name, State: bfd.Down.String()}
	i := slices.IndexFunc(watched, func(st bfd.Status) bool { return st.Name == s.Name })
	if i < 0 {
		return out
	}
	st := watched[i]
	out.State, out.Since = st.State.String(), second(st.Since)
	if st.State == bfd.Up {
		out.DetectionTime = st.DetectionTime.String()
	}
	if st.Diagnostic != bfd.NoDiagnostic {
		out.Diagnostic = st.Diagnostic.String()
	}
	if st.Err != nil {
		out.Diagnostic = cut(st.Err.Error())
	}
	return out
}

func problemStatus(p config.SessionProblem, since time.Time) v1beta1.BGPSessionStatus {
	return v1beta1.BGPSessionStatus{
		Name: p.Name, Peer: p.Object, State: v1beta1.BGPInvalid,
		LastError: &v1beta1.SessionError{Time: *second(since), Reason: p.Reason, Message: cut(p.Message)},
	}
}

func second(t time.Time) *metav1.Time {
	s := metav1.NewTime(t.Truncate(time.Second))
	return &s
}

// cut makes a message as short as the API wants it.
func cut(message string) string {
	const longest = 1024
	if len(message) > longest {
		return strings.ToValidUTF8(message[:longest-3], "") + "..."
	}
	return message
}
