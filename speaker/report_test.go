package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
)

// desk is an API server as far as reporters see one, and a reporter on each
// node of a scene.
type desk struct {
	*scene
	t         *testing.T
	clock     *clocktesting.FakePassiveClock
	objects   map[serviceKey]*corev1.Service
	reporters map[string]*reporter
	writers   map[string]*fakeWriter
	held      map[string]l2.Desired
	restarted map[string]bool // and not reported since
	events    []string
}

// fakeWriter keeps the latest patches until they are delivered.
type fakeWriter struct {
	mu      sync.Mutex
	pending map[k8s.Key][]byte
	sets    int
}

func (w *fakeWriter) Set(key k8s.Key, patch []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if patch == nil {
		delete(w.pending, key)
		return
	}
	w.sets++
	w.pending[key] = patch
}

type fakeEvents struct{ d *desk }

func (e fakeEvents) Warning(svc *corev1.Service, reason, message string) {
	e.Normal(svc, reason, message)
}

func (e fakeEvents) Normal(svc *corev1.Service, reason, message string) {
	e.d.events = append(e.d.events, fmt.Sprintf("%s %s: %s", reason, svc.Name, message))
}

func newDesk(t *testing.T) *desk {
	d := &desk{
		scene: newScene(), t: t,
		clock:   clocktesting.NewFakePassiveClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
		objects: map[serviceKey]*corev1.Service{}, reporters: map[string]*reporter{},
		writers: map[string]*fakeWriter{}, held: map[string]l2.Desired{},
		restarted: map[string]bool{},
	}
	for _, s := range d.services {
		d.objects[s.key] = &corev1.Service{ObjectMeta: metav1.ObjectMeta{
			Namespace: s.key.namespace, Name: s.key.name, UID: types.UID("uid-" + s.key.name),
		}}
	}
	for _, n := range d.nodes {
		d.restart(n.name)
	}
	return d
}

func (d *desk) restart(node string) {
	d.writers[node] = &fakeWriter{pending: map[k8s.Key][]byte{}}
	d.held[node] = l2.Desired{}
	d.restarted[node] = true
	d.reporters[node] = newReporter(reporter{self: node, writer: d.writers[node], events: fakeEvents{d}, clock: d.clock})
}

// round has the given nodes report once, as the scene is, and delivers what
// they write. It returns how many writes there were.
func (d *desk) round(nodes ...string) int {
	d.t.Helper()
	nodes = slices.DeleteFunc(nodes, func(name string) bool { return d.view.Member(name) == nil })
	for _, name := range nodes {
		d.report(name)
	}
	writes := 0
	for _, name := range nodes {
		writes += d.deliver(name)
	}
	return writes
}

func (d *desk) report(name string) time.Time {
	d.t.Helper()
	store, err := k8s.StoreOf(d.all()...)
	if err != nil {
		d.t.Fatal(err)
	}
	d.planInput.held = d.held[name]
	p := d.planAs(name)
	d.reporters[name].services = store
	again := d.reporters[name].report(p, d.services, reportView{
		members: d.view, speakers: 3, held: d.held[name], former: d.former(name),
	})
	delete(d.restarted, name)
	d.held[name], d.claimed[name] = p.desired, p.claims
	return again
}

// former is what a speaker that was restarted takes up.
func (d *desk) former(name string) map[netip.Addr]membership.Claim {
	if !d.restarted[name] {
		return nil
	}
	return d.claimed[name]
}

func (d *desk) all() []*corev1.Service {
	var all []*corev1.Service
	for _, o := range d.objects {
		all = append(all, o)
	}
	return all
}

func (d *desk) deliver(name string) int {
	d.t.Helper()
	w := d.writers[name]
	writes := len(w.pending)
	for key, patch := range w.pending {
		k := serviceKey{key.Namespace, key.Name}
		d.objects[k] = patched(d.t, d.objects[k], patch)
	}
	clear(w.pending)
	return writes
}

func patched(t *testing.T, svc *corev1.Service, patch []byte) *corev1.Service {
	t.Helper()
	original, err := json.Marshal(svc)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch, corev1.Service{})
	if err != nil {
		t.Fatalf("applying %s: %v", patch, err)
	}
	var out corev1.Service
	if err := json.Unmarshal(merged, &out); err != nil {
		t.Fatal(err)
	}
	if out.UID != svc.UID {
		t.Errorf("patch %s is for another object than %s", patch, svc.UID)
	}
	return &out
}

func (d *desk) condition(name string) *metav1.Condition {
	return meta.FindStatusCondition(d.objects[serviceKey{"default", name}].Status.Conditions, v1beta1.ConditionAnnounced)
}

func (d *desk) want(name string, status metav1.ConditionStatus, reason, message string) {
	d.t.Helper()
	c := d.condition(name)
	if c == nil || c.Status != status || c.Reason != reason || c.Message != message {
		d.t.Errorf("%s: condition is %+v\nwant %s %s %q", name, c, status, reason, message)
	}
}

// owner returns who owns an address in the scene as it is.
func (d *desk) owner(a string) string {
	p := d.planAs(d.view.Members[0].Node)
	return p.ownerOf(p.placements[addr(a)])
}

func TestConditionSaysWhereAndWhy(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change  func(d *desk)
		status  metav1.ConditionStatus
		reason  string
		message string // %4 and %6 stand for the owners
	}{
		"announced": {
			func(*desk) {}, metav1.ConditionTrue, reasonAnnounced,
			"192.0.2.10 by ARP from %4 (eth0); 2001:db8::10 by NDP from %6 (eth0)",
		},
		"two interfaces": {
			func(d *desk) {
				for _, n := range d.nodes {
					d.addLink(n.name, ethernet("eth1", "192.0.2.2/24"))
				}
			}, metav1.ConditionTrue, reasonAnnounced,
			"192.0.2.10 by ARP from %4 (eth0, eth1); 2001:db8::10 by NDP from %6 (eth0)",
		},
		"one family": {
			func(d *desk) {
				for _, n := range d.nodes {
					d.view.Member(n.name).Info.Links[0].NDP = false
				}
			}, metav1.ConditionFalse, reasonPartly,
			"192.0.2.10 by ARP from %4 (eth0); 2001:db8::10 is not announced: none of 3 nodes is eligible: 3 without a usable interface",
		},
		"no advertisement": {
			func(d *desk) { d.advertisements() }, metav1.ConditionFalse, reasonNoAdvertisement,
			"192.0.2.10 is not announced: no L2Advertisement selects it, nor does a BGPAdvertisement; 2001:db8::10 is not announced: no L2Advertisement selects it, nor does a BGPAdvertisement",
		},
		"no endpoints": {
			func(d *desk) { d.get("web").endpoints("a:notready") }, metav1.ConditionFalse, reasonNoEndpoints,
			"192.0.2.10 is not announced: none of its Services has an endpoint that serves; " +
				"2001:db8::10 is not announced: none of its Services has an endpoint that serves",
		},
		"each node for another reason": {
			func(d *desk) {
				d.get("web").addresses = d.get("web").addresses[:1]
				d.node("a").labels[corev1.LabelNodeExcludeBalancers] = ""
				d.get("web").endpoints("a:ready")
				d.get("web").local = true
				d.node("c").networkUnavailable = true
			}, metav1.ConditionFalse, reasonNoNode,
			"192.0.2.10 is not announced: none of 3 nodes is eligible: " +
				"1 excluded by the label node.kubernetes.io/exclude-from-external-load-balancers, 1 NetworkUnavailable, " +
				"1 without an endpoint of their own, which externalTrafficPolicy Local needs",
		},
		"no nodes": {
			func(d *desk) {
				d.get("web").addresses = d.get("web").addresses[:1]
				d.nodes = nil
			}, metav1.ConditionFalse, reasonNoNode, "192.0.2.10 is not announced: there are no nodes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			tt.change(d)
			if writes := d.round("a", "b", "c"); writes != 1 {
				t.Errorf("%d speakers wrote, want one", writes)
			}
			message := tt.message
			if strings.Contains(message, "%4") {
				message = strings.ReplaceAll(message, "%4", d.owner(v4))
			}
			if strings.Contains(message, "%6") {
				message = strings.ReplaceAll(message, "%6", d.owner(v6))
			}
			d.want("web", tt.status, tt.reason, message)
			if writes := d.round("a", "b", "c"); writes != 0 {
				t.Errorf("%d writes though nothing has changed", writes)
			}
		})
	}
}

func TestTransitionTime(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	start := d.clock.Now()
	d.round("a", "b", "c")
	d.clock.SetTime(start.Add(time.Minute))
	d.lose(d.owner(v4)) // moves, and stays announced
	d.round("a", "b", "c")
	if got := d.condition("web").LastTransitionTime.Time; !got.Equal(start) {
		t.Errorf("transition time is %s after a move, want that of the first announcement, %s", got, start)
	}
	d.get("web").endpoints()
	d.round("a", "b", "c")
	if got := d.condition("web").LastTransitionTime.Time; !got.Equal(start.Add(time.Minute)) {
		t.Errorf("transition time is %s after the end of announcements, want %s", got, start.Add(time.Minute))
	}
}

func TestOtherConditionsStay(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	other := metav1.Condition{Type: v1beta1.ConditionAddressAllocated, Status: metav1.ConditionTrue, Reason: "Allocated"}
	d.objects[serviceKey{"default", "web"}].Status.Conditions = []metav1.Condition{other}
	d.round("a", "b", "c")
	got := d.objects[serviceKey{"default", "web"}].Status.Conditions
	if len(got) != 2 || !slices.ContainsFunc(got, func(c metav1.Condition) bool { return c.Type == other.Type && c.Reason == other.Reason }) {
		t.Errorf("conditions are %+v", got)
	}
}

func TestEventsOnTakeoverOnly(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	first := d.owner(v4)
	d.get("web").addresses = d.get("web").addresses[:1]
	d.round("a", "b", "c")
	d.round("a", "b", "c")
	want := []string{fmt.Sprintf("Announced web: announcing 192.0.2.10 from node %s (eth0)", first)}
	if !slices.Equal(d.events, want) {
		t.Fatalf("events are %q, want %q", d.events, want)
	}
	d.restart(first)
	d.round("a", "b", "c")
	if !slices.Equal(d.events, want) {
		t.Fatalf("a restart made an event: %q", d.events)
	}
	d.lose(first)
	d.round("a", "b", "c")
	want = append(want, fmt.Sprintf("Announced web: announcing 192.0.2.10 from node %s (eth0)", d.owner(v4)))
	if !slices.Equal(d.events, want) {
		t.Fatalf("events are %q, want %q", d.events, want)
	}
}

// 1.2.3.4 must not be found in what is said of 11.2.3.4.
func TestEventsTellAddressesApart(t *testing.T) {
	t.Parallel()
	message := "11.2.3.4 by ARP from n (eth0); 2001:db8::1 by NDP from m (eth0)"
	for text, want := range map[string]bool{
		"11.2.3.4 by ARP from n ": true, "1.2.3.4 by ARP from n ": false, "2001:db8::1 by NDP from m ": true,
		"2001:db8::1 by NDP from ma ": false, "1:db8::1 by NDP from m ": false,
	} {
		if got := says(message, text); got != want {
			t.Errorf("%q says %q: %v, want %v", message, text, got, want)
		}
	}
	if says("", "1.2.3.4 by ARP from n ") {
		t.Error("nothing says something")
	}
}

// Two speakers that cannot see each other both think they report. Neither may
// write more often than every rewriteInterval.
func TestPartitionMakesNoWriteLoop(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.get("web").addresses = d.get("web").addresses[:1]
	d.round("a", "b", "c")
	left, right := newDesk(t), newDesk(t)
	for _, side := range []*desk{left, right} {
		side.get("web").addresses = side.get("web").addresses[:1]
		side.clock = d.clock
		side.objects = d.objects
	}
	owner := d.owner(v4)
	right.lose(owner) // the others, without the owner
	var heir string
	for _, n := range []string{"a", "b", "c"} {
		if n != owner {
			left.lose(n) // the owner alone
		}
	}
	heir = right.owner(v4)
	left.reporters[owner].clock, right.reporters[heir].clock = d.clock, d.clock
	start, writes := d.clock.Now(), 0
	const length = time.Minute
	for now := start; now.Before(start.Add(length)); now = now.Add(100 * time.Millisecond) {
		d.clock.SetTime(now)
		writes += left.round(owner)
		writes += right.round(heir)
	}
	most := 2 * (int(length/rewriteInterval) + 1)
	if writes > most || writes < 4 {
		t.Errorf("%d writes in %s, want at most %d, and some from both", writes, length, most)
	}
}

// Once the partition is over, the owner's word stands within rewriteInterval.
func TestOverwrittenConditionIsRestored(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.round("a", "b", "c")
	right := d.condition("web").Message
	d.condition("web").Message = "nonsense"
	owner := d.owner(v4)
	if again := d.report(owner); again.IsZero() || d.deliver(owner) != 0 {
		t.Fatalf("rewrote at once, or never wants to: %s", again)
	}
	again := d.report(owner)
	d.clock.SetTime(again)
	d.round("a", "b", "c")
	if got := d.condition("web").Message; got != right {
		t.Errorf("after %s it says %q, want %q", rewriteInterval, got, right)
	}
	if again := d.report(owner); !again.IsZero() {
		t.Errorf("wants to be called again at %s though all is well", again)
	}
}

// While the API server is away patches pile up in the writer; they must not
// come out when they are no longer true.
func TestOutdatedPatchIsTakenBack(t *testing.T) {
	t.Parallel()
	t.Run("changed back", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t)
		d.round("a", "b", "c")
		owner := d.owner(v4)
		kept := d.get("web").backends
		d.get("web").endpoints()
		for _, n := range []string{"a", "b", "c"} {
			d.report(n)
		}
		d.get("web").backends = kept
		if writes := d.round("a", "b", "c"); writes != 0 {
			t.Errorf("%d writes though the condition of %s is still right", writes, owner)
		}
	})
	t.Run("another's now", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t)
		d.get("web").addresses = d.get("web").addresses[:1]
		owner := d.owner(v4)
		d.report(owner)
		if len(d.writers[owner].pending) == 0 {
			t.Fatal("the owner does not report")
		}
		d.node(owner).networkUnavailable = true
		d.report(owner)
		if n := len(d.writers[owner].pending); n != 0 {
			t.Errorf("%d patches of the former owner remain", n)
		}
	})
	t.Run("in doubt", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t)
		owner := d.owner(v4)
		d.report(owner)
		d.reporters[owner].withdrawAll()
		if n := len(d.writers[owner].pending); n != 0 {
			t.Errorf("%d patches remain of a speaker that doubts its view", n)
		}
	})
}

// A speaker that is cut off sees no node eligible; that is not for it to say.
func TestNothingBadWithoutQuorum(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.lose("a")
	d.lose("b")
	d.links("c")
	if writes := d.round("c"); writes != 0 {
		t.Errorf("wrote %+v", d.condition("web"))
	}
	d.links("c", ethernet("eth0", "192.0.2.1/24", "2001:db8::1/64")) // it owns them now
	d.round("c")
	d.want("web", metav1.ConditionTrue, reasonAnnounced, "192.0.2.10 by ARP from c (eth0); 2001:db8::10 by NDP from c (eth0)")
}

// Every Service has exactly one reporter, also those that nobody announces.
func TestOneReporterPerService(t *testing.T) {
	t.Parallel()
	s := newScene()
	for i := range 50 {
		svc := s.service(fmt.Sprintf("s%02d", i), fmt.Sprintf("192.0.2.%d", 100+i))
		if i%2 == 0 {
			svc.labels["tier"] = "front"
		}
	}
	s.config.L2Advertisements = []*config.L2Advertisement{{AllPools: true, ServiceSelectors: sel("tier=front")}}
	count := map[string]int{}
	p := makePlan(s.planInput)
	live := liveNodes(s.view)
	for _, svc := range s.services {
		name, owned := p.reporterOf(svc, live)
		if s.view.Member(name) == nil {
			t.Errorf("%s is reported on by %q", svc.key, name)
		}
		if wantOwned := svc.labels["tier"] == "front"; owned != wantOwned {
			t.Errorf("%s: reporter owns an address: %v", svc.key, owned)
		}
		count[name]++
	}
	if len(count) != 3 {
		t.Errorf("reports are spread as %v", count)
	}
}
