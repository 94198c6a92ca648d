package allocation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

// cluster is an API server as far as the controller sees one: it holds objects,
// tells of changes, applies status patches as the real one does, and counts.
type cluster struct {
	t          *testing.T
	controller *Controller
	clock      *clocktesting.FakePassiveClock
	services   map[ipam.Owner]*corev1.Service
	namespaces map[string]*corev1.Namespace
	pools      map[string]*v1beta1.IPAddressPool
	adverts    map[string]*v1beta1.L2Advertisement

	reservations map[string]*v1beta1.IPReservation
	nodes        map[string]*corev1.Node
	states       map[string]*v1beta1.NodeState
	applied      reservationWriter

	pending map[k8s.Key][]byte
	writes  map[k8s.Key]int
	events  []string
	created int
	// noDoubles checks after each write that no two Services show one address.
	noDoubles bool
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{
		t:            t,
		clock:        clocktesting.NewFakePassiveClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
		services:     map[ipam.Owner]*corev1.Service{},
		namespaces:   map[string]*corev1.Namespace{},
		pools:        map[string]*v1beta1.IPAddressPool{},
		adverts:      map[string]*v1beta1.L2Advertisement{},
		reservations: map[string]*v1beta1.IPReservation{},
		nodes:        map[string]*corev1.Node{},
		states:       map[string]*v1beta1.NodeState{},
	}
	c.restart()
	return c
}

// restart replaces the controller by a fresh one, as a restart does.
func (c *cluster) restart() {
	c.t.Helper()
	cache, err := k8s.NewCache(k8s.CacheConfig{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.pending, c.writes, c.events = map[k8s.Key][]byte{}, map[k8s.Key]int{}, nil
	c.applied = reservationWriter{}
	c.controller = New(Config{
		Cache: cache, Writer: c, Reservations: c.applied, Events: c, Clock: c.clock, Logger: log.NewNopLogger(),
		Class:  k8s.Class{Name: v1beta1.LoadBalancerClass, Default: true},
		Health: daemon.NewHealth(c.clock, time.Minute), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	c.refresh()
	if err := c.controller.restore(); err != nil {
		c.t.Fatal(err)
	}
	for owner := range c.services {
		cache.Add(keyOf(owner))
	}
	c.settle()
}

// Set takes a status patch, as the writer does.
func (c *cluster) Set(key k8s.Key, patch []byte) {
	if patch == nil {
		delete(c.pending, key)
		return
	}
	c.pending[key] = patch
}

func (c *cluster) Normal(svc *corev1.Service, reason, message string) {
	c.events = append(c.events, fmt.Sprintf("Normal %s %s/%s: %s", reason, svc.Namespace, svc.Name, message))
}

func (c *cluster) Warning(svc *corev1.Service, reason, message string) {
	c.events = append(c.events, fmt.Sprintf("Warning %s %s/%s: %s", reason, svc.Namespace, svc.Name, message))
}

// refresh shows the controller's cache the present objects.
func (c *cluster) refresh() {
	c.t.Helper()
	var errs [7]error
	cache := c.controller.cache
	cache.Services, errs[0] = k8s.StoreOf(values(c.services)...)
	cache.Namespaces, errs[1] = k8s.StoreOf(values(c.namespaces)...)
	cache.IPAddressPools, errs[2] = k8s.StoreOf(values(c.pools)...)
	cache.L2Advertisements, errs[3] = k8s.StoreOf(values(c.adverts)...)
	cache.IPReservations, errs[4] = k8s.StoreOf(values(c.reservations)...)
	cache.Nodes, errs[5] = k8s.StoreOf(values(c.nodes)...)
	cache.NodeStates, errs[6] = k8s.StoreOf(values(c.states)...)
	for _, err := range errs {
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

func values[K comparable, V any](m map[K]V) []V {
	var all []V
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// settle runs the controller's loop and sends its writes until neither has
// anything left to do.
func (c *cluster) settle() {
	c.t.Helper()
	for range 1000 {
		c.refresh()
		if c.controller.cache.Pending() > 0 {
			key, _ := c.controller.cache.Next()
			if err := c.controller.handle(key); err != nil {
				c.t.Fatal(err)
			}
			c.controller.cache.Done(key)
			if err := c.controller.settle(); err != nil {
				c.t.Fatal(err)
			}
			continue
		}
		if len(c.pending)+len(c.applied) == 0 {
			return
		}
		for key, patch := range c.applied {
			delete(c.applied, key)
			c.applyReservation(key, patch)
		}
		for key, patch := range c.pending {
			c.apply(key, patch)
		}
		c.pending = map[k8s.Key][]byte{}
	}
	c.t.Fatal("the controller does not come to rest")
}

func (c *cluster) apply(key k8s.Key, patch []byte) {
	c.t.Helper()
	c.writes[key]++
	c.controller.cache.Add(key)
	switch key.Kind {
	case k8s.KindService:
		owner := ipam.Owner{Namespace: key.Namespace, Name: key.Name}
		after, err := patched(c.services[owner], patch)
		if err != nil {
			c.t.Fatalf("applying %s: %v", patch, err)
		}
		c.services[owner] = after.(*corev1.Service)
		if c.noDoubles {
			c.wantNoDoubles()
		}
	case k8s.KindIPAddressPool:
		var body struct{ Status v1beta1.IPAddressPoolStatus }
		c.decode(patch, &body)
		c.pools[key.Name] = c.pools[key.Name].DeepCopy()
		c.pools[key.Name].Status = body.Status
	case k8s.KindIPReservation:
		var body struct{ Status v1beta1.IPReservationStatus }
		c.decode(patch, &body)
		if c.reservations[key.Name] == nil {
			return // deleted meanwhile
		}
		c.reservations[key.Name] = c.reservations[key.Name].DeepCopy()
		c.reservations[key.Name].Status = body.Status
	case k8s.KindL2Advertisement:
		var body struct{ Status v1beta1.L2AdvertisementStatus }
		c.decode(patch, &body)
		c.adverts[key.Name] = c.adverts[key.Name].DeepCopy()
		c.adverts[key.Name].Status = body.Status
	}
}

// reservationWriter takes what the controller applies and deletes.
type reservationWriter map[k8s.Key][]byte

func (w reservationWriter) Set(key k8s.Key, patch []byte) {
	delete(w, key)
	if patch != nil {
		w[key] = patch
	}
}

func (c *cluster) applyReservation(key k8s.Key, patch []byte) {
	c.t.Helper()
	c.writes[key]++
	c.controller.cache.Add(key)
	if bytes.Equal(patch, k8s.DeleteReservation()) {
		delete(c.reservations, key.Name)
		return
	}
	object := &v1beta1.IPReservation{}
	if before := c.reservations[key.Name]; before != nil {
		object = before.DeepCopy()
		object.Spec = v1beta1.IPReservationSpec{}
	} else {
		object.CreationTimestamp = c.now()
	}
	c.decode(patch, object)
	c.reservations[key.Name] = object
}

func (c *cluster) putReservation(r *v1beta1.IPReservation) {
	c.t.Helper()
	r.CreationTimestamp = c.now()
	c.reservations[r.Name] = r
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindIPReservation, Name: r.Name})
	c.settle()
}

// wantNoDoubles checks that no two Services show one address, unless they ask
// to share: what a successor of the controller would find.
func (c *cluster) wantNoDoubles() {
	c.t.Helper()
	shownBy := map[string]*corev1.Service{}
	for _, svc := range c.services {
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			other := shownBy[ingress.IP]
			shownBy[ingress.IP] = svc
			if other != nil && other.Annotations[v1beta1.AnnotationAllowSharedIP] == "" {
				c.t.Errorf("%s/%s and %s/%s both show %s", svc.Namespace, svc.Name, other.Namespace, other.Name, ingress.IP)
			}
		}
	}
}

func (c *cluster) decode(patch []byte, into any) {
	c.t.Helper()
	if err := json.Unmarshal(patch, into); err != nil {
		c.t.Fatal(err)
	}
}

// tick lets the controller report on pools.
func (c *cluster) tick() {
	c.t.Helper()
	c.controller.cache.Add(k8s.Key{Kind: kindTick})
	c.settle()
}

func (c *cluster) pool(name string, addresses ...v1beta1.AddressRange) *v1beta1.IPAddressPool {
	c.t.Helper()
	p := &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: c.now()},
		Spec:       v1beta1.IPAddressPoolSpec{Addresses: addresses},
	}
	c.putPool(p)
	return p
}

func (c *cluster) putPool(p *v1beta1.IPAddressPool) {
	c.t.Helper()
	c.pools[p.Name] = p
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindIPAddressPool, Name: p.Name})
	c.settle()
}

func (c *cluster) deletePool(name string) {
	c.t.Helper()
	delete(c.pools, name)
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindIPAddressPool, Name: name})
	c.settle()
}

// now is the creation time of the next object, each a second after the last.
func (c *cluster) now() metav1.Time {
	c.created++
	return metav1.NewTime(c.clock.Now().Add(time.Duration(c.created) * time.Second))
}

// service creates a single-stack IPv4 Service, changed by change.
func (c *cluster) service(name string, change ...func(*corev1.Service)) {
	c.t.Helper()
	c.put(loadBalancer(c, name, change...))
}

// loadBalancer returns a Service that was not created yet.
func loadBalancer(c *cluster, name string, change ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: c.now(), UID: types.UID(fmt.Sprintf("uid-%d", c.created))},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, f := range change {
		f(svc)
	}
	return svc
}

func (c *cluster) put(svc *corev1.Service) {
	c.t.Helper()
	c.services[ownerOf(svc)] = svc
	c.controller.cache.Add(keyOf(ownerOf(svc)))
	c.settle()
}

// edit changes a Service as a user does.
func (c *cluster) edit(name string, change func(*corev1.Service)) {
	c.t.Helper()
	svc := c.get(name).DeepCopy()
	change(svc)
	c.put(svc)
}

func (c *cluster) delete(name string) {
	c.t.Helper()
	owner := ipam.Owner{Namespace: "default", Name: name}
	delete(c.services, owner)
	c.controller.cache.Add(keyOf(owner))
	c.settle()
}

func (c *cluster) get(name string) *corev1.Service {
	return c.services[ipam.Owner{Namespace: "default", Name: name}]
}

// want checks a Service's addresses ("192.0.2.1 2001:db8::1") and that its
// condition says what want has: the reason, then part of the message.
func (c *cluster) want(name, addresses, reason, message string) {
	c.t.Helper()
	svc := c.get(name)
	var ips []string
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		ips = append(ips, ingress.IP)
		if ingress.IPMode == nil || *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
			c.t.Errorf("%s: ingress %s has mode %v, want VIP", name, ingress.IP, ingress.IPMode)
		}
	}
	if got := strings.Join(ips, " "); got != addresses {
		c.t.Errorf("%s has %q, want %q", name, got, addresses)
	}
	condition := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
	if condition == nil {
		c.t.Errorf("%s has no condition", name)
		return
	}
	wantStatus := metav1.ConditionFalse
	if reason == reasonAllocated || reason == reasonOutOfPool || reason == reasonAddressConflict && addresses != "" {
		wantStatus = metav1.ConditionTrue
	}
	if condition.Status != wantStatus || condition.Reason != reason || !strings.Contains(condition.Message, message) {
		c.t.Errorf("%s: condition is %s %s %q, want %s %s %q", name, condition.Status, condition.Reason, condition.Message, wantStatus, reason, message)
	}
}

// wantQuiet checks that nothing was written and told since the last restart.
func (c *cluster) wantQuiet() {
	c.t.Helper()
	for key, n := range c.writes {
		if key.Kind == k8s.KindService {
			c.t.Errorf("%s was written %d times", key, n)
		}
	}
	if len(c.events) > 0 {
		c.t.Errorf("events: %s", strings.Join(c.events, "; "))
	}
}

var _ interface {
	StatusWriter
	EventSender
} = &cluster{}

// TestRunStops: the loop ends when the cache does.
func TestRunStops(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.controller.cache.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.controller.Run(ctx); err != nil {
		t.Errorf("run: %v", err)
	}
}
