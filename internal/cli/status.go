package cli

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Status says on one screen whether all is well, what is not, and why.
type Status struct {
	// Healthy says that nothing is wrong. Warnings do not count.
	Healthy bool    `json:"healthy"`
	Checks  []Check `json:"checks"`
}

// Check is the state of one part.
type Check struct {
	Name    string `json:"name"`
	State   State  `json:"state"`
	Summary string `json:"summary"`
	// Findings are what is not as it should be.
	Findings []Finding `json:"findings,omitempty"`
}

// Finding is one thing that is not as it should be.
type Finding struct {
	State State `json:"state"`
	// Object that it is about, such as "Service shop/web".
	Object string `json:"object"`
	What   string `json:"what"`
}

func (c *Check) find(state State, object, format string, args ...any) {
	c.State = worse(c.State, state)
	c.Findings = append(c.Findings, Finding{State: state, Object: object, What: fmt.Sprintf(format, args...)})
}

// ReportStatus judges everything.
func ReportStatus(c *Cluster) Status {
	s := Status{Healthy: true, Checks: []Check{
		checkController(c), checkSpeakers(c), checkConfiguration(c), checkPools(c), checkServices(c), checkSessions(c), checkConflicts(c),
	}}
	for _, check := range s.Checks {
		s.Healthy = s.Healthy && check.State != StateError
	}
	return s
}

// unknown is the check of what could not be read.
func (c *Cluster) unknown(name string, kinds ...string) (Check, bool) {
	for _, kind := range kinds {
		if i := slices.IndexFunc(c.Unread, func(u Unread) bool { return u.Kind == kind }); i >= 0 {
			return Check{Name: name, State: StateUnknown, Summary: "cannot read " + kind + ": " + c.Unread[i].Why}, true
		}
	}
	return Check{Name: name, State: StateOK}, false
}

// leaseGrace is for how long a Lease counts that nobody has renewed in time: the
// clock of this machine may not be that of the cluster.
const leaseGrace = 30 * time.Second

// leader returns who leads, or why nobody does.
func (c *Cluster) leader() (name, why string) {
	if c.Lease == nil {
		return "", fmt.Sprintf("there is no Lease %s in namespace %s: no controller has ever led", LeaseName, c.Namespace)
	}
	spec := &c.Lease.Spec
	if spec.HolderIdentity == nil || *spec.HolderIdentity == "" {
		return "", "nobody holds the Lease " + LeaseName
	}
	if spec.RenewTime == nil {
		return *spec.HolderIdentity, ""
	}
	lasts := leaseGrace
	if spec.LeaseDurationSeconds != nil {
		lasts += time.Duration(*spec.LeaseDurationSeconds) * time.Second
	}
	if since := c.Now.Sub(spec.RenewTime.Time); since > lasts {
		renewed := metav1.NewTime(spec.RenewTime.Time)
		return "", fmt.Sprintf("%s, who led last, has not renewed its Lease for %s", *spec.HolderIdentity, age(c.Now, &renewed))
	}
	return *spec.HolderIdentity, ""
}

func checkController(c *Cluster) Check {
	check, unknown := c.unknown("Controller", "leases", "pods")
	if unknown {
		return check
	}
	pods := c.component(componentController)
	ready := 0
	for _, pod := range pods {
		if podReady(pod) {
			ready++
			continue
		}
		check.find(StateWarning, "Pod "+pod.Name, "%s", podTrouble(pod))
	}
	leader, why := c.leader()
	if why != "" {
		check.Summary = "no controller leads: new Services get no address, and no status is up to date"
		check.find(StateError, "Lease "+LeaseName, "%s", why)
		return check
	}
	check.Summary = fmt.Sprintf("%s leads; %d of %d ready", leader, ready, len(pods))
	return check
}

func checkSpeakers(c *Cluster) Check {
	check, unknown := c.unknown("Speakers", "pods", "nodes", "nodestates")
	if unknown {
		return check
	}
	ready := 0
	for _, n := range ReportNodes(c).Nodes {
		object := "Node " + n.Name
		switch n.SpeakerState {
		case "ready":
			ready++
		case "none":
			check.find(StateError, object, "no speaker runs here")
		default:
			check.find(StateError, object, "speaker %s: %s", n.Speaker, n.SpeakerState)
		}
		if n.SpeakerState == "ready" && !n.Reported {
			check.find(StateError, object, "the speaker has reported nothing")
		}
		if n.BGPReason == reasonWaitingForKubeProxy {
			check.find(StateError, object, "kube-proxy is not ready, so routers are told nothing")
		}
		if n.ProxyDown {
			check.find(StateError, object, "kube-proxy is not well, so its rules may be out of date")
		}
		if n.Drained {
			check.find(StateOK, object, "drained by the annotation %s", v1beta1.AnnotationDrain)
		}
		if len(n.StandingInFor) > 0 {
			check.find(StateWarning, object, "stands in for %s", few(n.StandingInFor, 5))
		}
	}
	check.Summary = fmt.Sprintf("%d of %s ready", ready, plural(len(c.Nodes), "node"))
	if len(c.Nodes) == 0 {
		check.find(StateError, "Nodes", "there are none")
	}
	return check
}

func checkConfiguration(c *Cluster) Check {
	check := Check{Name: "Configuration", State: StateOK}
	count := 0
	judge := func(kind string, o metav1.Object, conditions []metav1.Condition) {
		count++
		v := verdictOf(conditions, o.GetGeneration())
		object := kind + " " + o.GetName()
		switch {
		case v.Reason == reasonPending:
			check.find(StateWarning, object, "%s", v.Message)
		case !v.Current:
			check.find(StateWarning, object, "the controller has not looked at its latest change yet")
		case !v.Accepted && v.Reason == v1beta1.ReasonExpired:
			check.find(StateOK, object, "%s", v.Message)
		case !v.Accepted:
			check.find(StateError, object, "%s: %s", v.Reason, v.Message)
		case v.Reason != v1beta1.ReasonAccepted:
			check.find(StateWarning, object, "%s: %s", v.Reason, v.Message)
		}
	}
	for _, o := range byName(c.Pools) {
		judge("IPAddressPool", o, o.Status.Conditions)
	}
	for _, o := range byName(c.Reservations) {
		judge("IPReservation", o, o.Status.Conditions)
	}
	for _, o := range byName(c.L2Advertisements) {
		judge("L2Advertisement", o, o.Status.Conditions)
	}
	for _, o := range byName(c.BGPPeers) {
		judge("BGPPeer", o, o.Status.Conditions)
	}
	for _, o := range byName(c.BGPAdvertisements) {
		judge("BGPAdvertisement", o, o.Status.Conditions)
	}
	for _, o := range byName(c.Communities) {
		judge("Community", o, o.Status.Conditions)
	}
	for _, o := range byName(c.BFDProfiles) {
		judge("BFDProfile", o, o.Status.Conditions)
	}
	check.Summary = fmt.Sprintf("%s, %d to look at", plural(count, "object"), len(check.Findings))
	if len(check.Findings) == 0 {
		check.Summary = plural(count, "object") + ", all in force"
	}
	if len(c.Pools) == 0 && !c.isUnread("ipaddresspools") {
		check.find(StateWarning, "IPAddressPools", "there are none: no Service gets an address")
	}
	if len(c.L2Advertisements)+len(c.BGPAdvertisements) == 0 && !c.isUnread("l2advertisements") && !c.isUnread("bgpadvertisements") {
		check.find(StateWarning, "Advertisements", "there are none: no address is announced")
	}
	return check
}

func checkPools(c *Cluster) Check {
	check, unknown := c.unknown("Pools", "ipaddresspools")
	if unknown {
		return check
	}
	var assigned, available int64
	for _, p := range ReportPools(c).Pools {
		if p.IPv4 != nil {
			assigned, available = assigned+p.IPv4.Assigned, available+p.IPv4.Available
		}
		if p.State == StateWarning && p.Accepted {
			check.find(StateWarning, "IPAddressPool "+p.Name, "%s", p.Note)
		}
	}
	check.Summary = fmt.Sprintf("%s; of IPv4 %d assigned, %d available", plural(len(c.Pools), "pool"), assigned, available)
	return check
}

func checkServices(c *Cluster) Check {
	check := Check{Name: "Services", State: StateOK}
	ours := ReportServices(c).Services
	well := 0
	for _, s := range ours {
		if s.State == StateOK {
			well++
			continue
		}
		check.find(s.State, "Service "+s.Namespace+"/"+s.Name, "%s: %s", s.Reason, s.Message)
	}
	check.Summary = fmt.Sprintf("%d of %d have their addresses and are announced", well, len(ours))
	return check
}

func checkSessions(c *Cluster) Check {
	check, unknown := c.unknown("BGP", "nodestates", "bgppeers")
	if unknown {
		return check
	}
	drainedNodes := map[string]bool{}
	for _, n := range c.Nodes {
		drainedNodes[n.Name] = drained(n)
	}
	peers := ReportPeers(c)
	up := 0
	for i := range peers.Sessions {
		s := &peers.Sessions[i]
		if s.State == v1beta1.BGPEstablished {
			up++
		}
		if trouble := s.trouble(); trouble != "" && !drainedNodes[s.Node] {
			check.find(s.state(), "Session "+s.Name+" of "+s.Node, "%s", trouble)
		}
	}
	check.Summary = fmt.Sprintf("%d of %d sessions established", up, len(peers.Sessions))
	if len(c.BGPPeers) == 0 && len(peers.Sessions) == 0 {
		check.Summary = "not in use"
	}
	for _, idle := range peers.Idle {
		check.find(StateWarning, "BGPPeer "+idle.Name, "%s", idle.Why)
	}
	return check
}

func checkConflicts(c *Cluster) Check {
	check, unknown := c.unknown("Conflicts", "nodestates")
	if unknown {
		return check
	}
	seen := map[string]bool{}
	for _, state := range byName(c.NodeStates) {
		for _, conflict := range state.Status.AddressConflicts {
			if seen[conflict.Address] {
				continue
			}
			seen[conflict.Address] = true
			what := "speaks for it as well"
			level := StateError
			if conflict.BeforeUse { // it is given to nobody
				what, level = "had it before Berth; it is given to nobody", StateWarning
			}
			check.find(level, conflict.Address, "the host %s %s, heard by %s on %s", conflict.MAC, what, state.Name, conflict.Interface)
		}
	}
	check.Summary = "no other host has an address of ours"
	if len(seen) > 0 {
		check.Summary = fmt.Sprintf("other hosts have %s of ours", map[bool]string{true: "1 address", false: fmt.Sprintf("%d addresses", len(seen))}[len(seen) == 1])
	}
	return check
}

// maxFindings is how many findings of a check the screen has.
const maxFindings = 8

func (s Status) text(p *Printer) {
	counts := map[State]int{}
	for _, check := range s.Checks {
		p.printf("%s  %-14s %s\n", p.mark(check.State), check.Name, check.Summary)
		shown := check.Findings
		if !p.wide {
			shown = worstFirst(shown)
			shown = shown[:min(len(shown), maxFindings)]
		}
		for _, f := range shown {
			p.printf("        %s: %s\n", p.paint(f.State, f.Object), f.What)
		}
		if more := len(check.Findings) - len(shown); more > 0 {
			p.printf("        and %d more (-o wide shows all)\n", more)
		}
		for _, f := range check.Findings {
			counts[f.State]++
		}
	}
	p.printf("\n")
	verdict, state := "Berth is healthy", StateOK
	if !s.Healthy {
		verdict, state = "Berth is not healthy: "+plural(counts[StateError], "problem"), StateError
	}
	if s.Healthy && slices.ContainsFunc(s.Checks, func(c Check) bool { return c.State == StateUnknown }) {
		verdict, state = "Berth is healthy as far as can be seen", StateUnknown
	}
	if n := counts[StateWarning]; n > 0 {
		verdict += ", " + plural(n, "warning")
	}
	p.printf("%s\n", p.bold(p.paint(state, verdict+".")))
}

func worstFirst(findings []Finding) []Finding {
	sorted := slices.Clone(findings)
	slices.SortStableFunc(sorted, func(a, b Finding) int { return b.State.rank() - a.State.rank() })
	return sorted
}
