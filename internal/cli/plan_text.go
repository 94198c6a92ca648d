package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/berth-lb/berth/api/v1beta1"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (p *planner) note(format string, args ...any) {
	p.plan.Notes = append(p.plan.Notes, fmt.Sprintf(format, args...))
}

// notes says what the plan cannot know or takes for granted. live is the cluster as it
// is.
func (p *planner) notes(live *Cluster) {
	if len(p.change.Unchecked) > 0 {
		p.note("the API server was not asked to validate what is of kind %s, which you may not write: defaults are not filled in, and rules of the schema (CEL) not checked", strings.Join(p.change.Unchecked, ", "))
	}
	var anyway []string
	for _, svc := range p.before.c.ours() {
		if now := live.service(svc.Namespace, svc.Name); now != nil && !slices.Equal(addressesOf(now), addressesOf(svc)) {
			anyway = append(anyway, nameOf(svc))
		}
	}
	if len(anyway) > 0 {
		p.note("without any change as well, other addresses are to come than are shown by now: %s; is a controller at work?", few(anyway, 5))
	}
	if len(p.unsure) > 0 {
		p.note("the plan is for objects that are applied one after the other, as kubectl does; all at once, these Services would get something else: %s", few(p.unsure, 5))
	}
	secrets := map[string]bool{}
	for _, name := range live.secretNames(Change{}) {
		secrets[name] = true
	}
	for _, name := range live.secretNames(p.change) {
		if !secrets[name] {
			p.note("Secret %s is taken to be there and to have a password: a plan reads no Secrets", name)
		}
	}
	for _, peer := range p.after.snapshot.BGPPeers {
		if peer.IsDefaultGateway() && !p.before.knowsGateway(peer.Name) {
			p.note("the sessions of BGPPeer %s are not foreseen: which default gateways nodes have they alone know", peer.Name)
		}
	}
	for _, u := range live.Unread {
		p.note("what depends on %s is not foreseen, for they cannot be read", u.Kind)
	}
}

// knowsGateway says whether some node has a session with its default gateway because
// of a BGPPeer.
func (f *foresight) knowsGateway(peer string) bool {
	return slices.ContainsFunc(f.c.NodeStates, func(state *v1beta1.NodeState) bool {
		return slices.ContainsFunc(state.Status.BGPSessions, func(s v1beta1.BGPSessionStatus) bool {
			_, is := gatewayOf(peer, s)
			return is
		})
	})
}

func (p *Plan) text(out *Printer) {
	p.objectsText(out)
	p.servicesText(out)
	p.sessionsText(out)
	p.routesText(out)
	if len(p.Losses) > 0 {
		out.printf("%s\n", out.bold(out.paint(StateError, "Lost")))
		for _, loss := range p.Losses {
			out.printf("  %s\n", loss)
		}
		out.printf("\n")
	}
	for _, note := range p.Notes {
		out.printf("Note: %s.\n", note)
	}
	if len(p.Notes) > 0 {
		out.printf("\n")
	}
	out.printf("%s\n", out.bold(p.verdict()))
}

// verdict is the plan in a sentence.
func (p *Plan) verdict() string {
	if !p.Changes {
		return "Nothing would change."
	}
	counts := map[string]int{}
	for _, o := range p.Objects {
		if o.Change != ObjectKept {
			counts["object"]++
		}
	}
	for _, s := range p.Services {
		if len(s.Changes) > 0 {
			counts["Service"]++
		}
	}
	for _, s := range p.Sessions {
		if s.Change != SessionKept {
			counts["session"] += len(s.Nodes)
		}
	}
	for _, r := range p.Routes {
		if r.Change != RouteKept {
			counts["route"]++
		}
	}
	var texts []string
	for _, what := range []string{"object", "Service", "session", "route"} {
		if counts[what] > 0 {
			texts = append(texts, plural(counts[what], what))
		}
	}
	lost := "nothing is lost"
	if n := len(p.Losses); n > 0 {
		lost = map[bool]string{true: "1 loss", false: fmt.Sprintf("%d losses", n)}[n == 1]
	}
	return fmt.Sprintf("Would change: %s; %s.", strings.Join(texts, ", "), lost)
}

func (p *Plan) objectsText(out *Printer) {
	if len(p.Objects) == 0 {
		return
	}
	t := table{columns: []column{{name: "OBJECT"}, {name: "CHANGE"}, {name: "IN FORCE"}, {name: "MESSAGE"}}}
	for _, o := range p.Objects {
		inForce, message := cell{}, ""
		switch {
		case o.After != nil:
			inForce = cell{text: yes(o.After.InForce), state: StateOK}
			if !o.After.InForce {
				inForce.state = StateError
			}
			if o.Before != nil && o.Before.InForce != o.After.InForce {
				inForce.text = yes(o.Before.InForce) + " -> " + inForce.text
			}
			message = o.After.Message
		case o.Before != nil:
			inForce = plain(yes(o.Before.InForce) + " -> gone")
		}
		t.add(plain(o.Kind+" "+o.Name), plain(o.Change), inForce, plain(message))
	}
	t.print(out)
	out.printf("\n")
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func (p *Plan) servicesText(out *Printer) {
	if len(p.Services) == 0 {
		return
	}
	t := table{columns: []column{
		{name: "SERVICE"}, {name: "CHANGE"}, {name: "EXTERNAL-IP"}, {name: "POOL"}, {name: "ANNOUNCED"}, {name: "REASON"}, {name: "MESSAGE", wide: true},
	}}
	for _, s := range p.Services {
		change := cell{text: strings.Join(s.Changes, ","), state: StateOK}
		if len(s.Changes) == 0 {
			change.text = "Unchanged"
		}
		for _, c := range s.Changes {
			switch c {
			case AddressLost, AddressChanged, AnnouncementLost, AnnouncementInterrupted:
				change.state = StateError
			}
		}
		of := func(text func(*ServiceState) string) cell {
			before, after := "", ""
			if s.Before != nil {
				before = text(s.Before)
			}
			if s.After != nil {
				after = text(s.After)
			}
			return plain(fromTo(before, after))
		}
		t.add(plain(s.Namespace+"/"+s.Name), change,
			of(func(s *ServiceState) string { return strings.Join(s.Addresses, ",") }),
			of(func(s *ServiceState) string { return strings.Join(s.Pools, ",") }),
			of((*ServiceState).announced),
			of(func(s *ServiceState) string { return s.Reason }),
			plain(s.message()))
	}
	t.print(out)
	out.printf("\n")
}

func (s *PlannedService) message() string {
	if s.After == nil {
		return ""
	}
	return s.After.Message
}

// fromTo renders what something was and is, once if that is the same.
func fromTo(before, after string) string {
	if before == after {
		return before
	}
	return cmp.Or(before, "none") + " -> " + cmp.Or(after, "none")
}

func (p *Plan) sessionsText(out *Printer) {
	if len(p.Sessions) == 0 {
		return
	}
	t := table{columns: []column{{name: "SESSION"}, {name: "CHANGE"}, {name: "NODES"}, {name: "WHY"}}}
	for _, s := range p.Sessions {
		change := plain(s.Change)
		if s.Change == SessionRemoved || s.Change == SessionReset {
			change.state = StateWarning
		}
		t.add(plain(s.Name), change, plain(out.nodes(s.Nodes)), plain(s.Why))
	}
	t.print(out)
	out.printf("\n")
}

func (p *Plan) routesText(out *Printer) {
	if len(p.Routes) == 0 {
		return
	}
	t := table{columns: []column{{name: "ROUTE"}, {name: "PEER"}, {name: "CHANGE"}, {name: "NODES"}, {name: "ATTRIBUTES"}}}
	for _, r := range p.Routes {
		change := plain(r.Change)
		if r.Change == RouteWithdrawn {
			change.state = StateWarning
		}
		attributes := fromTo(r.Before, r.After)
		if r.Change != RouteChanged {
			attributes = cmp.Or(r.After, r.Before)
		}
		t.add(plain(r.Prefix), plain(r.Peer), change, plain(out.nodes(r.Nodes)), plain(attributes))
	}
	t.print(out)
	out.printf("\n")
}

// nodes renders names of nodes, all of them only if there is room.
func (p *Printer) nodes(names []string) string {
	if p.wide {
		return strings.Join(names, ",")
	}
	return few(names, 3)
}
