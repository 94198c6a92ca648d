package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/probe"
)

// settleTime is how long two nodes may answer for one address after a node has
// come back.
const settleTime = time.Second

// faultNode is the node that is lost in most tests. No Pods run on it.
const faultNode = "node-1"

// fleet are several Services, so that every node owns some address, and Pods
// that run everywhere but on the node that is going to fail. Two advertisements
// have half of the Services each, and announce them from all nodes.
type fleet struct {
	*env
	addresses []netip.Addr
	sides     map[string][]netip.Addr
	owners    map[netip.Addr]string
	// victim owns lost, and the other nodes kept.
	victim     string
	lost, kept []netip.Addr
}

// The sides of a fleet: what the victim is to own, and what it is not.
const (
	sideOfVictim = "a"
	otherSide    = "b"
)

func newFleet(e *env) *fleet {
	e.Helper()
	return newFleetOn(e, deployment{app: "web", replicas: 2, nodes: []string{"node-2", "node-3"}})
}

// newFleetOn is newFleet with other Pods.
func newFleetOn(e *env, pods deployment) *fleet {
	e.Helper()
	const services = 6
	e.createPool(e.namespace, e.ranges(0, slotSize), nil)
	e.createDeployment(pods)
	f := &fleet{env: e, sides: map[string][]netip.Addr{}}
	sides := []string{sideOfVictim, otherSide}
	for _, side := range sides {
		e.createAdvertisement(f.advertisement(side), v1beta1.L2AdvertisementSpec{
			IPAddressPools:   []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)},
			ServiceSelectors: byLabel("side", side),
		})
	}
	for i := range services {
		e.createService(fmt.Sprintf("web-%d", i), labelled("side", sides[i%2]))
	}
	for i := range services {
		addresses := e.waitAnnounced(fmt.Sprintf("web-%d", i))
		f.addresses = append(f.addresses, addresses...)
		f.sides[sides[i%2]] = append(f.sides[sides[i%2]], addresses...)
	}
	f.arrange(faultNode)
	for _, address := range f.addresses {
		e.waitServed(network.Client, address, servicePort, "/hostname")
	}
	return f
}

func (f *fleet) advertisement(side string) string { return f.namespace + "-" + side }

// advertise changes the nodes from which one side is announced; none are all.
func (f *fleet) advertise(side string, nodes ...string) {
	f.Helper()
	var selectors []v1beta1.LabelSelector
	if len(nodes) > 0 {
		selectors = onHosts(nodes...)
	}
	f.patch("l2advertisements", f.advertisement(side), map[string]any{"spec": map[string]any{"nodeSelectors": selectors}})
}

// arrange has the victim own one side of the addresses, and the others own the
// other, although every node may announce all of them. Then it looks who owns what.
func (f *fleet) arrange(victim string) {
	f.Helper()
	others := f.lab.otherNodes(victim)
	f.advertise(sideOfVictim, victim)
	f.advertise(otherSide, others...)
	f.waitOwners(f.sides[sideOfVictim], among(victim))
	f.waitOwners(f.sides[otherSide], among(others...))
	f.advertise(sideOfVictim)
	f.advertise(otherSide)
	f.pause(2*time.Second, "the speakers are told within an instant")
	f.look(victim)
	if len(f.lost) == 0 {
		f.Fatalf("%s owns nothing: %v", victim, f.owners)
	}
}

// look finds out who owns what, from the victim's point of view.
func (f *fleet) look(victim string) {
	f.Helper()
	f.owners = f.waitOwners(f.addresses, nil)
	f.choose(victim)
}

func (f *fleet) choose(victim string) {
	f.victim = victim
	f.lost, f.kept = nil, nil
	for _, address := range f.addresses {
		if f.owners[address] == victim {
			f.lost = append(f.lost, address)
		} else {
			f.kept = append(f.kept, address)
		}
	}
}

// expectUnmoved fails the test unless the same nodes own the addresses as before.
func (f *fleet) expectUnmoved(when string, addresses ...netip.Addr) {
	f.Helper()
	for address, owner := range f.waitOwners(addresses, nil) {
		if owner != f.owners[address] {
			f.Errorf("%s: %s moved from %s to %s", when, address, f.owners[address], owner)
		}
	}
}

// sample returns one address of each family, if there is one: enough to measure
// without keeping the machine busy.
func sample(addresses []netip.Addr) []netip.Addr {
	var chosen []netip.Addr
	for _, is6 := range []bool{false, true} {
		if i := slices.IndexFunc(addresses, func(a netip.Addr) bool { return a.Is6() == is6 }); i >= 0 {
			chosen = append(chosen, addresses[i])
		}
	}
	return chosen
}

// unplanned bounds the longest gap when a node is lost. The goal is 0.8 s; a machine
// that is busy with other things may need longer. What is really needed is in the
// table of measurements.
const unplanned = 1400 * time.Millisecond

// measureGaps probes addresses while a fault happens and until afterwards says
// that it is over, and notes the longest gap of each family.
func (f *fleet) measureGaps(what string, bound time.Duration, addresses []netip.Addr, fault, afterwards func()) {
	f.Helper()
	addresses = sample(addresses)
	probes := f.startProbes(measureGap(), addresses...)
	f.waitProbing(addresses)
	meter := f.meterStalls()
	fault()
	afterwards()
	for _, address := range addresses {
		f.waitServed(network.Client, address, servicePort, "/hostname")
	}
	bound = f.bound(bound, meter)
	meter.stop()
	for address, report := range probes.stop() {
		f.note(what, address, report)
		if gap := time.Duration(report.LongestGap); gap > bound {
			f.Errorf("%s: %s was away for %s, more than %s", what, address, gap, bound)
		}
	}
}

// waitProbing returns when connections to the addresses have succeeded for a
// moment, so that a gap has a beginning.
func (f *fleet) waitProbing(addresses []netip.Addr) {
	f.Helper()
	for range 3 {
		for _, address := range addresses {
			f.waitServed(network.Client, address, servicePort, "/hostname")
		}
	}
}

func (f *fleet) note(what string, address netip.Addr, r probe.Report) {
	f.Helper()
	f.Logf("%s: %s: longest gap %s from %s on, %d of %d connections failed: %v",
		what, address, r.LongestGap, r.GapBegan.Format("15:04:05.000"), r.Failed, r.Sent, r.Errors)
	measured.add(f.row(what+", "+familyName(address)), time.Duration(r.LongestGap))
}

func familyName(address netip.Addr) string {
	if address.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// testNodeCut: the link of a node that owns addresses is cut; other nodes take
// them over. When it comes back, it takes nothing back.
func testNodeCut(e *env) { newFleet(e).testLost("node cut", e.lab.Cut) }

// testNodeSilent: the same for a node whose packets get lost while its interface
// keeps carrier, so that it does not know.
func testNodeSilent(e *env) { newFleet(e).testLost("node silent", e.lab.CutSilently) }

func (f *fleet) testLost(what string, lose func(string) error) {
	f.Helper()
	for run := range runs() {
		if run > 0 {
			f.lab.waitUntilCalm(f.env)
			f.arrange(f.victim)
		}
		f.loseAndReturn(what, lose)
	}
}

func (f *fleet) loseAndReturn(what string, lose func(string) error) {
	f.Helper()
	f.healed()
	f.Logf("%s owns %s", f.victim, join(f.lost))
	f.measureGaps(what, unplanned, f.lost, func() {
		if err := lose(f.victim); err != nil {
			f.Fatal(err)
		}
	}, func() {
		f.waitOwners(f.lost, func(node string) bool { return node != f.victim })
	})
	f.expectUnmoved(what, f.kept...)

	// The node comes back while everybody listens.
	f.waitServedAll()
	f.owners = f.waitOwners(f.addresses, nil)
	watching := f.watchAnswers(f.addresses)
	f.noFailure(what+", its return", sample(f.lost), func() {
		if err := f.lab.Heal(f.victim); err != nil {
			f.Fatal(err)
		}
		f.waitReturned()
	})
	f.expectUnmoved(what+", its return", f.addresses...)
	f.noteOverlaps(what+", its return", watching)
	f.waitServedAll()
}

// healed has the whole Ethernet mended when the test ends.
func (e *env) healed() {
	e.Cleanup(func() {
		if err := e.lab.HealAll(); err != nil {
			e.Error(err)
		}
	})
}

// noteOverlaps notes the longest time in which two nodes answered for any of the
// addresses.
func (f *fleet) noteOverlaps(what string, watching *answerWatch) {
	f.Helper()
	longest := time.Duration(0)
	for address, answers := range watching.stop() {
		overlap := overlapOf(answers)
		longest = max(longest, overlap)
		if overlap > settleTime {
			f.Errorf("%s: two nodes answered for %s during %s", what, address, overlap)
		}
		f.Logf("%s: %s was answered for by %s", what, address, f.describeAnswers(answers))
	}
	measured.add(f.row(what+": two nodes answer"), longest)
}

func (f *fleet) waitServedAll() {
	f.Helper()
	for _, address := range f.addresses {
		f.waitServed(network.Client, address, servicePort, "/hostname")
	}
}

// waitReturned returns when all speakers see each other.
func (e *env) waitReturned() {
	e.Helper()
	e.waitFor("the speakers to see each other", 30*time.Second, func(ctx context.Context) (bool, string) {
		pods, err := e.lab.kube.CoreV1().Pods(berthNamespace).List(ctx, speakers(""))
		if err != nil {
			return false, err.Error()
		}
		seen := ""
		complete := true
		for _, pod := range pods.Items {
			values, err := e.tryMetrics(ctx, &pod, 7957)
			alive, settled := values["berth_membership_members"], values["berth_membership_settled"]
			seen += fmt.Sprintf("%s sees %v, settled %v (error %v); ", pod.Spec.NodeName, alive, settled, err)
			complete = complete && int(alive) == nodesOf(e.lab) && settled == 1
		}
		return complete, seen
	})
}

// describeAnswers says who answered from when on, up to the eighth change.
func (f *fleet) describeAnswers(answers []answer) string {
	const most = 8
	var changes []string
	for i, a := range answers {
		if i == 0 || answers[i-1].claimed != a.claimed {
			changes = append(changes, fmt.Sprintf("%s from %s on", f.lab.node(a.claimed), a.at.Format("15:04:05.000")))
		}
	}
	if more := len(changes) - most; more > 0 {
		changes = append(changes[:most], fmt.Sprintf("and %d more changes", more))
	}
	return strings.Join(changes, ", ")
}

// overlapOf is for how long at a stretch two nodes have answered for one address.
// Answers by turns belong to one stretch if they follow each other as closely as
// the questions do; a clean change of the owner is a stretch of one interval.
func overlapOf(answers []answer) time.Duration {
	const close = 2 * askInterval
	var longest time.Duration
	var begin, end time.Time
	for i := 1; i < len(answers); i++ {
		before, now := answers[i-1], answers[i]
		if before.claimed == now.claimed || now.at.Sub(before.at) > close {
			continue
		}
		if before.at.Sub(end) > close {
			begin = before.at
		}
		end = now.at
		longest = max(longest, end.Sub(begin))
	}
	return longest
}

// replaceSpeaker stops the victim's speaker and waits until another runs.
func (f *fleet) replaceSpeaker() {
	f.Helper()
	f.waitReplaced(f.stopSpeaker())
}

// stopSpeaker deletes the Pod of the victim's speaker and returns its name.
func (f *fleet) stopSpeaker() string {
	f.Helper()
	client := f.lab.kube.CoreV1().Pods(berthNamespace)
	pods, err := client.List(f.ctx, speakers(f.victim))
	if err != nil || len(pods.Items) != 1 {
		f.Fatalf("speakers on %s: %v (error %v)", f.victim, pods, err)
	}
	if err := client.Delete(f.ctx, pods.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		f.Fatal(err)
	}
	return pods.Items[0].Name
}

func (f *fleet) waitReplaced(pod string) {
	f.Helper()
	f.waitFor("Pod "+pod+" to be gone", 30*time.Second, func(ctx context.Context) (bool, string) {
		_, err := f.lab.kube.CoreV1().Pods(berthNamespace).Get(ctx, pod, metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
	f.lab.waitUntilCalm(f.env)
	f.waitReturned()
}

// flushNeighbors makes the client forget who has which address.
func (e *env) flushNeighbors() {
	e.Helper()
	for _, family := range []string{"-4", "-6"} {
		if _, err := e.lab.Exec(e.ctx, network.Client, "ip", family, "neighbor", "flush", "dev", "eth0"); err != nil {
			e.Fatal(err)
		}
	}
}
