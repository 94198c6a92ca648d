package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/election"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
)

// Reasons of the condition berth.dev/Announced, and of the event.
const (
	// reasonAnnounced: every address of the Service is announced.
	reasonAnnounced = "Announced"
	// reasonPartly: some addresses are announced; the message says why the
	// others are not.
	reasonPartly = "PartlyAnnounced"
	// reasonNoSession: only routers are to be told, and none is; the message says
	// why.
	reasonNoSession = "NoBGPSession"
	// reasonNoAdvertisement: no advertisement selects the addresses.
	reasonNoAdvertisement = "NoAdvertisement"
	// reasonNoEndpoints: no endpoint serves, so nobody could answer.
	reasonNoEndpoints = "NoEndpoints"
	// reasonFailing: the owner cannot answer; the message says why.
	reasonFailing = "AnnouncementFailing"
	// reasonPreparing: an address is about to be announced for the first time.
	reasonPreparing = "Preparing"
	// reasonNoNode: every node is ineligible; the message says why.
	reasonNoNode = "NoEligibleNode"
)

// rewriteInterval is the least time between two writes of the same condition to
// one Service. It is written again when another speaker has overwritten it,
// which happens while two sides of a partition both reach the API server.
const rewriteInterval = 10 * time.Second

// soonPatience is how long an address may be about to be announced before its
// condition says so.
const soonPatience = 500 * time.Millisecond

// hesitantPatience is how long an owner may take no addresses before the conditions
// say so.
const hesitantPatience = 2 * formingPatience

// statusWriter sends the latest status patch of an object in the background.
type statusWriter interface {
	Set(key k8s.Key, patch []byte)
}

// eventSender tells users of transitions.
type eventSender interface {
	Normal(svc *corev1.Service, reason, message string)
	Warning(svc *corev1.Service, reason, message string)
}

// reporter tells users what is announced where. Of all speakers, one reports on
// a Service: the owner of its first announced address, or when none is
// announced the one that the name of the Service elects.
type reporter struct {
	self     string
	services k8s.Store[*corev1.Service]
	writer   statusWriter
	events   eventSender
	clock    clock.PassiveClock
	told     map[serviceKey]telling
	// differs are conditions that say something else than they should, which may be
	// over in a moment.
	differs map[serviceKey]difference
}

// difference is since when a condition differs, and for how long it may.
type difference struct {
	since    time.Time
	patience time.Duration
}

// telling is what was last written to a Service.
type telling struct {
	statement statement
	at        time.Time
	// seen says that the Service has been seen to say so since.
	seen bool
}

// sentenceEnd is between what a condition's message says of each address.
const sentenceEnd = "; "

// statement is what a condition says.
type statement struct {
	announced       bool
	reason, message string
	// byBGP says that the message counts nodes that tell routers, soon that an address
	// is about to be announced, and hesitant that its owner does not take it at present.
	byBGP, soon, hesitant bool
}

func newReporter(r reporter) *reporter {
	r.told, r.differs = map[serviceKey]telling{}, map[serviceKey]difference{}
	return &r
}

// report writes the conditions that are this node's to write and do not say
// what they should, and sends an event for each address that the node has
// taken over: one in the plan's desired that it did not hold. It returns when
// it wants to be called again, if nothing else happens; zero for never.
//
// That nobody announces a Service is said only with a quorum of the speakers in
// view: a speaker that is cut off sees that everywhere, and is wrong.
func (r *reporter) report(p *plan, services []*service, view reportView) (again time.Time) {
	live := liveNodes(view.members)
	quorum := 2*len(view.members.Members) >= view.speakers
	mine := map[serviceKey]bool{}
	for _, s := range services {
		object, ok := r.services.Get(s.key.namespace, s.key.name)
		if !ok {
			continue
		}
		r.tellTakeovers(p, s, object, view)
		r.tellConflicts(s, object, view.conflicts)
		by, owned := p.reporterOf(s, live)
		if by != r.self || !owned && !quorum {
			continue
		}
		mine[s.key] = true
		if due := r.tell(p, s, object, view.failing); !due.IsZero() && (again.IsZero() || due.Before(again)) {
			again = due
		}
	}
	for key := range r.told {
		if !mine[key] {
			r.withdraw(key)
		}
	}
	maps.DeleteFunc(r.differs, func(key serviceKey, _ difference) bool { return !mine[key] })
	return again
}

// reportView is what a report depends on beside the plan.
type reportView struct {
	members *membership.View
	// speakers is how many speakers the API knows of, this one included.
	speakers int
	// held are the addresses that this node answered for before the plan.
	held l2.Desired
	// restarted says that this node's speaker has only just started, and former are
	// the addresses that it took up then.
	restarted bool
	former    map[netip.Addr]membership.Claim
	// conflicts are the addresses of this node that foreign hosts have been found to
	// have since the last report, with what to tell of it.
	conflicts map[netip.Addr]string
	// failing is what keeps this node from answering on an interface.
	failing failures
}

// withdrawAll takes back what was not sent yet. It is for a speaker that comes
// to doubt its view: what it said may be outdated by what others have said.
func (r *reporter) withdrawAll() {
	for key, t := range r.told {
		if !t.seen {
			r.withdraw(key)
		}
	}
}

// withdraw forgets a Service that is not this node's to report on any more. What
// was not sent yet must not overwrite what its new reporter says.
func (r *reporter) withdraw(key serviceKey) {
	r.writer.Set(writerKey(key), nil)
	delete(r.told, key)
	delete(r.differs, key)
}

// tell writes the condition of one Service where it is wrong. Where it has to
// wait for that, it returns until when.
func (r *reporter) tell(p *plan, s *service, object *corev1.Service, failing failures) (due time.Time) {
	want := p.describe(s, r.self, failing)
	now := r.clock.Now()
	before := meta.FindStatusCondition(object.Status.Conditions, v1beta1.ConditionAnnounced)
	last, told := r.told[s.key]
	if before != nil && want.isSaidBy(before) {
		delete(r.differs, s.key)
		if told && last.statement != want {
			r.writer.Set(writerKey(s.key), nil) // it has changed and changed back before it was sent
		}
		r.told[s.key] = telling{statement: want, at: last.at, seen: true}
		return time.Time{}
	}
	if told && last.statement == want {
		// Either it was not sent yet, and the writer keeps trying, or another
		// speaker has overwritten it.
		if due = last.at.Add(rewriteInterval); now.Before(due) {
			return due
		}
	}
	if due := r.lasts(s.key, want, before, now); !due.IsZero() {
		if told && !last.seen {
			r.writer.Set(writerKey(s.key), nil) // it is not so any more
			delete(r.told, s.key)
		}
		return due
	}
	r.told[s.key] = telling{statement: want, at: now}
	r.writer.Set(writerKey(s.key), conditionPatch(object, want, before, now))
	return now.Add(rewriteInterval)
}

// lasts returns until when to wait before a condition is written that may be over in
// a moment; zero for not at all. An address that is about to be announced mostly is
// before anybody has read that. That a node comes or goes that tells routers changes
// the conditions of all Services, and while speakers are restarted one by one they
// will soon say what they said before.
func (r *reporter) lasts(key serviceKey, want statement, before *metav1.Condition, now time.Time) time.Time {
	patience := time.Duration(0)
	switch {
	case want.hesitant:
		patience = hesitantPatience
	case want.soon:
		patience = soonPatience
	case want.byBGP && want.announced && before != nil && before.Status == metav1.ConditionTrue && !strings.Contains(before.Message, beingPrepared):
		patience = rewriteInterval
	}
	if patience == 0 {
		delete(r.differs, key)
		return time.Time{}
	}
	d, known := r.differs[key]
	if !known || d.patience != patience {
		d = difference{now, patience}
		r.differs[key] = d
	}
	if due := d.since.Add(patience); now.Before(due) {
		return due
	}
	delete(r.differs, key)
	return time.Time{}
}

func writerKey(key serviceKey) k8s.Key {
	return k8s.Key{Kind: k8s.KindService, Namespace: key.namespace, Name: key.name}
}

// tellTakeovers sends an event for each address of the Service that this node
// has just taken over. What it owned before a restart is no news, be it that the
// others say so or, where there are none, the condition.
func (r *reporter) tellTakeovers(p *plan, s *service, object *corev1.Service, view reportView) {
	var said string
	if c := meta.FindStatusCondition(object.Status.Conditions, v1beta1.ConditionAnnounced); c != nil && view.restarted && len(view.members.Members) == 1 {
		said = c.Message
	}
	for _, addr := range s.addresses {
		announcement, have := p.desired[addr]
		if _, had := view.held[addr]; !have || had || isIn(view.former, addr) || says(said, byWhom(addr, r.self, nil)) {
			continue
		}
		r.events.Normal(object, reasonAnnounced, fmt.Sprintf("announcing %s from node %s (%s)",
			addr, r.self, strings.Join(announcement.Interfaces, ", ")))
	}
}

// tellConflicts sends an event for each address of the Service that a foreign host
// has been found to have.
func (r *reporter) tellConflicts(s *service, object *corev1.Service, conflicts map[netip.Addr]string) {
	for _, addr := range s.addresses {
		if text, found := conflicts[addr]; found {
			r.events.Warning(object, v1beta1.ReasonAddressConflict, text)
		}
	}
}

// says reports whether one of the sentences in the message of a condition begins
// with the text. A mere search would find 1.2.3.4 in 11.2.3.4.
func says(message, text string) bool {
	for sentence := range strings.SplitSeq(message, sentenceEnd) {
		if strings.HasPrefix(sentence, text) {
			return true
		}
	}
	return false
}

// byWhom renders "203.0.113.7 by ARP from node-1 (eth0)"; without interfaces it
// ends behind the name of the node and a space.
func byWhom(addr netip.Addr, node string, interfaces []string) string {
	text := fmt.Sprintf("%s by %s from %s ", addr, strings.ToUpper(l2.ProtocolOf(addr).String()), node)
	if interfaces == nil {
		return text
	}
	return text + "(" + strings.Join(interfaces, ", ") + ")"
}

// announcersIn reads which nodes the message of a condition says announce the
// addresses: what byWhom renders.
func announcersIn(message string, addresses []netip.Addr) map[netip.Addr]string {
	var announcers map[netip.Addr]string
	for sentence := range strings.SplitSeq(message, sentenceEnd) {
		for _, addr := range addresses {
			rest, found := strings.CutPrefix(sentence, strings.TrimSuffix(byWhom(addr, "", nil), " "))
			if node, _, named := strings.Cut(rest, " "); found && named {
				if announcers == nil {
					announcers = map[netip.Addr]string{}
				}
				announcers[addr] = node
			}
		}
	}
	return announcers
}

// reporterOf returns the name of the node that reports on the Service, and
// whether that is because it owns an address. An owner whose speaker is away
// reports nothing.
func (p *plan) reporterOf(s *service, live []election.Candidate) (name string, owned bool) {
	for _, addr := range s.addresses {
		place := p.placements[addr]
		if place == nil || place.owner < 0 {
			continue
		}
		owner := p.ownerOf(place)
		if slices.ContainsFunc(live, func(c election.Candidate) bool { return c.Node.Name() == owner }) {
			return owner, true
		}
	}
	if i := election.OwnerOf(s.key.String(), live); i >= 0 {
		return live[i].Node.Name(), false
	}
	return "", false
}

func (st statement) status() metav1.ConditionStatus {
	if st.announced {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

func (st statement) isSaidBy(c *metav1.Condition) bool {
	return c.Status == st.status() && c.Reason == st.reason && c.Message == st.message
}

// announcedPatch is a strategic merge patch of one condition and nothing else.
// The uid keeps it from a Service of the same name that came later.
type announcedPatch struct {
	Metadata struct {
		UID string `json:"uid"`
	} `json:"metadata"`
	Status struct {
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

func conditionPatch(object *corev1.Service, st statement, before *metav1.Condition, now time.Time) []byte {
	c := metav1.Condition{
		Type: v1beta1.ConditionAnnounced, Status: st.status(), Reason: st.reason, Message: st.message,
		LastTransitionTime: metav1.NewTime(now),
	}
	if before != nil && before.Status == c.Status {
		c.LastTransitionTime = before.LastTransitionTime
	}
	var patch announcedPatch
	patch.Metadata.UID = string(object.UID)
	patch.Status.Conditions = []metav1.Condition{c}
	b, err := json.Marshal(patch)
	if err != nil {
		panic(err) // strings and a time always marshal
	}
	return b
}
