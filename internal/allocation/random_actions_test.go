package allocation

import (
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// What users and other controllers do. The universe is small, so that everything
// meets everything.
var (
	namespaces   = []string{"blue", "red"}
	serviceNames = []string{"a", "b", "c"}
	poolNames    = []string{"p", "q", "r"}
	blocks       = []v1beta1.AddressRange{
		"192.0.2.1", "192.0.2.2-192.0.2.3", "192.0.2.4/31", "192.0.2.0/30", "2001:db8::/127", "2001:db8::2",
	}
	addresses = []string{
		"192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "2001:db8::", "2001:db8::1", "2001:db8::2",
	}
)

// oneIn is true once in n times, and never when rapid makes things simple.
func oneIn(t *rapid.T, n int, what string) bool { return rapid.IntRange(0, n-1).Draw(t, what) == n-1 }

// drawExisting draws one of the objects of a kind; false if there is none.
func drawExisting[T object](t *rapid.T, c *chaos, kind k8s.Kind) (k8s.Key, T, bool) {
	var none T
	all := ofKind[T](c.api.objects)
	if len(all) == 0 {
		return k8s.Key{}, none, false
	}
	o := all[rapid.IntRange(0, len(all)-1).Draw(t, "which "+string(kind))]
	return k8s.Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}, o, true
}

func (c *chaos) createService(t *rapid.T) {
	key := serviceKey(rapid.SampledFrom(namespaces).Draw(t, "namespace"), rapid.SampledFrom(serviceNames).Draw(t, "name"))
	if c.api.objects[key] != nil {
		return
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{}}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
	}}
	if oneIn(t, 4, "other family first") {
		svc.Spec.IPFamilies[0] = corev1.IPv6Protocol
	}
	var what []string
	for range rapid.IntRange(0, 3).Draw(t, "wishes") {
		what = append(what, drawEdit(t, svc))
	}
	if oneIn(t, 12, "another's") {
		svc.Spec.LoadBalancerClass = ptr.To("example.com/other")
		what = append(what, "another's class")
	}
	c.note("%s is created: %s", key, strings.Join(what, ", "))
	c.api.create(key, svc)
	c.lifeOf(c.api.objects[key].(*corev1.Service))
}

func (c *chaos) removeService(t *rapid.T) {
	key, old, found := drawExisting[*corev1.Service](t, c, k8s.KindService)
	if !found {
		return
	}
	c.note("%s is deleted", key)
	c.api.remove(key)
	if !rapid.Bool().Draw(t, "again") {
		return
	}
	c.note("%s is created again", key)
	again := &corev1.Service{Spec: *old.Spec.DeepCopy(), ObjectMeta: metav1.ObjectMeta{Labels: old.Labels, Annotations: map[string]string{}}}
	for name, value := range old.Annotations {
		if !written[name] {
			again.Annotations[name] = value
		}
	}
	c.api.create(key, again)
}

// written are the annotations that are Berth's to write.
var written = map[string]bool{
	v1beta1.AnnotationRenewed: true, v1beta1.AnnotationSharedIPKey: true,
	v1beta1.AnnotationIPAllocatedFromPool: true,
}

func (c *chaos) editService(t *rapid.T) {
	key, old, found := drawExisting[*corev1.Service](t, c, k8s.KindService)
	if !found {
		return
	}
	svc := old.DeepCopy()
	if svc.Annotations == nil {
		svc.Annotations = map[string]string{}
	}
	what := drawEdit(t, svc)
	if oneIn(t, 15, "replaced") {
		maps.DeleteFunc(svc.Annotations, func(name, _ string) bool { return written[name] })
		what += ", replaced by what is in a file"
		c.lifeOf(svc).replaced = true
	}
	if oneIn(t, 15, "type") {
		what = "another type"
		c.lifeOf(svc).changedType = true
		drawType(t, svc)
	}
	if what != "" {
		c.note("%s is edited: %s", key, what)
	}
	before, after := moving(old), moving(svc)
	c.api.update(key, svc)
	if before != after {
		c.lifeOf(svc).mayMove = "it was edited: " + what
	}
}

// moving renders what of a Service may move its address when it is edited.
func moving(svc *corev1.Service) string {
	return fmt.Sprint(svc.Spec.Type, svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy, svc.Spec.LoadBalancerIP,
		svc.Annotations[v1beta1.AnnotationLoadBalancerIPs], svc.Annotations[v1beta1.AnnotationAddressPool], svc.Annotations[v1beta1.AnnotationRenew])
}

// drawType makes a LoadBalancer something else, or the reverse, as the API server
// lets users do it.
func drawType(t *rapid.T, svc *corev1.Service) {
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		svc.Spec.Type, svc.Spec.LoadBalancerClass, svc.Status.LoadBalancer = corev1.ServiceTypeClusterIP, nil, corev1.LoadBalancerStatus{}
		return
	}
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	if oneIn(t, 4, "another's") {
		svc.Spec.LoadBalancerClass = ptr.To("example.com/other")
	}
}

// drawEdit changes one thing about a Service and tells which.
func drawEdit(t *rapid.T, svc *corev1.Service) string {
	set := func(key string, values ...string) string {
		value := rapid.SampledFrom(values).Draw(t, key)
		svc.Annotations[key] = value
		if value == "" {
			delete(svc.Annotations, key)
		}
		return key + "=" + value
	}
	switch rapid.IntRange(0, 10).Draw(t, "edit") {
	case 0:
		return set(v1beta1.AnnotationAllowSharedIP, "", "k", "k", "l")
	case 1:
		svc.Spec.Ports = drawPorts(t)
		return fmt.Sprintf("ports %v", svc.Spec.Ports)
	case 2:
		return drawFamilies(t, svc)
	case 3, 4:
		return set(v1beta1.AnnotationLoadBalancerIPs, append([]string{"", "192.0.2.1,2001:db8::1", "192.0.2.2,192.0.2.3", "nonsense"}, addresses...)...)
	case 5:
		return set(v1beta1.AnnotationAddressPool, "", "p", "q", "r", "nope")
	case 6:
		return set(v1beta1.AnnotationRenew, "", "1", "2", "3")
	case 7:
		return set(v1beta1.AnnotationRetain, "", "30s", "1h", "forever", "nonsense")
	case 8:
		return drawPolicy(t, svc)
	case 9:
		svc.Labels = rapid.SampledFrom([]map[string]string{nil, {"app": "web"}}).Draw(t, "labels")
		return fmt.Sprintf("labels %v", svc.Labels)
	}
	svc.Spec.LoadBalancerIP = rapid.SampledFrom([]string{"", "192.0.2.2", "2001:db8::1"}).Draw(t, "loadBalancerIP")
	return "loadBalancerIP " + svc.Spec.LoadBalancerIP
}

func drawPorts(t *rapid.T) []corev1.ServicePort {
	tcp, udp := corev1.ProtocolTCP, corev1.ProtocolUDP
	return rapid.SampledFrom([][]corev1.ServicePort{
		{{Port: 80, Protocol: tcp}}, {{Port: 443, Protocol: tcp}}, {{Port: 80, Protocol: udp}}, {{Port: 80, Protocol: tcp}, {Port: 443, Protocol: tcp}},
	}).Draw(t, "ports")
}

// drawFamilies adds or removes the second family, or says what it is worth: the
// first cannot be changed.
func drawFamilies(t *rapid.T, svc *corev1.Service) string {
	policy := rapid.SampledFrom([]corev1.IPFamilyPolicy{
		corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack,
	}).Draw(t, "policy")
	svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &policy, svc.Spec.IPFamilies[:1:1]
	if policy != corev1.IPFamilyPolicySingleStack {
		second := corev1.IPv6Protocol
		if svc.Spec.IPFamilies[0] == second {
			second = corev1.IPv4Protocol
		}
		svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, second)
	}
	return fmt.Sprintf("%s of %v", policy, svc.Spec.IPFamilies)
}

func drawPolicy(t *rapid.T, svc *corev1.Service) string {
	svc.Spec.ExternalTrafficPolicy = rapid.SampledFrom([]corev1.ServiceExternalTrafficPolicy{
		corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal,
	}).Draw(t, "policy")
	svc.Spec.Selector = rapid.SampledFrom([]map[string]string{{"app": "x"}, {"app": "y"}}).Draw(t, "selector")
	return fmt.Sprintf("%s to %v", svc.Spec.ExternalTrafficPolicy, svc.Spec.Selector)
}

// putPool makes a pool, or replaces the spec of one.
func (c *chaos) putPool(t *rapid.T) {
	key := k8s.Key{Kind: k8s.KindIPAddressPool, Name: rapid.SampledFrom(poolNames).Draw(t, "pool")}
	spec := v1beta1.IPAddressPoolSpec{
		Addresses: rapid.SliceOfNDistinct(rapid.SampledFrom(blocks), 1, 3, rapid.ID).Draw(t, "addresses"),
	}
	for range rapid.IntRange(0, 2).Draw(t, "settings") {
		drawPoolSetting(t, &spec)
	}
	c.note("%s is %s", key, c.api.encode(spec))
	if before, found := c.api.objects[key].(*v1beta1.IPAddressPool); found {
		after := before.DeepCopy()
		after.Spec = spec
		c.api.update(key, after)
		return
	}
	c.api.create(key, &v1beta1.IPAddressPool{Spec: spec})
}

func drawPoolSetting(t *rapid.T, spec *v1beta1.IPAddressPoolSpec) {
	switch rapid.IntRange(0, 9).Draw(t, "setting") {
	case 0:
		spec.Disabled = true
	case 1:
		spec.ExcludeAddresses = []v1beta1.AddressRange{rapid.SampledFrom(blocks).Draw(t, "excluded")}
	case 2:
		spec.OnShrink = v1beta1.ShrinkReassign
	case 3:
		spec.Quota = &v1beta1.PoolQuota{}
		if rapid.Bool().Draw(t, "of Services") {
			spec.Quota.ServicesPerNamespace = ptr.To(int32(1))
		} else {
			spec.Quota.AddressesPerNamespace = ptr.To(int32(1))
		}
	case 4:
		spec.ReuseDelay = rapid.SampledFrom([]v1beta1.Duration{"30s", "10m"}).Draw(t, "delay")
	case 5:
		spec.AutoAssign = ptr.To(false)
	case 6:
		spec.ShareAcrossNamespaces = true
	case 7:
		spec.AvoidBuggyIPs = true
	case 8:
		spec.Addresses = append(spec.Addresses, "nonsense")
	case 9:
		spec.ServiceAllocation = rapid.SampledFrom([]*v1beta1.ServiceAllocation{
			{Namespaces: []v1beta1.ObjectName{"red"}},
			{NamespaceSelectors: []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"tier": "gold"}}}},
			{Priority: 1, ServiceSelectors: []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"app": "web"}}}},
		}).Draw(t, "allocation")
	}
}

// deletePool deletes a pool and returns what it was; false if there is none.
func (c *chaos) deletePool(t *rapid.T) (k8s.Key, *v1beta1.IPAddressPool, bool) {
	key, old, found := drawExisting[*v1beta1.IPAddressPool](t, c, k8s.KindIPAddressPool)
	if found {
		c.note("%s is deleted", key)
		c.api.remove(key)
	}
	return key, old, found
}

func (c *chaos) removePool(t *rapid.T) {
	key, old, found := c.deletePool(t)
	if found && rapid.Bool().Draw(t, "again") {
		c.note("%s is created again", key)
		c.api.create(key, &v1beta1.IPAddressPool{Spec: old.Spec})
	}
}

func (c *chaos) putReservation(t *rapid.T) {
	key := k8s.Key{Kind: k8s.KindIPReservation, Name: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "reservation")}
	spec := v1beta1.IPReservationSpec{For: v1beta1.ReservationTarget{
		Namespace: v1beta1.ObjectName(rapid.SampledFrom(namespaces).Draw(t, "namespace")),
		Service:   v1beta1.ObjectName(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "service")),
	}}
	if rapid.Bool().Draw(t, "a count") {
		spec.Count = ptr.To(rapid.Int32Range(1, 2).Draw(t, "count"))
		spec.Pool = v1beta1.ObjectName(rapid.SampledFrom(poolNames).Draw(t, "pool"))
		spec.Family = rapid.SampledFrom([]string{"", "IPv4", "IPv6"}).Draw(t, "family")
	} else {
		spec.Addresses = []v1beta1.AddressRange{rapid.SampledFrom(blocks).Draw(t, "addresses")}
	}
	if oneIn(t, 4, "ends") {
		spec.Until = ptr.To(metav1.NewTime(c.clock.Now().Add(rapid.SampledFrom([]time.Duration{30 * time.Second, time.Hour}).Draw(t, "until"))))
	}
	c.note("%s is %s", key, c.api.encode(spec))
	if before, found := c.api.objects[key].(*v1beta1.IPReservation); found {
		after := before.DeepCopy()
		after.Spec = spec
		c.api.update(key, after)
		return
	}
	c.api.create(key, &v1beta1.IPReservation{Spec: spec})
}

// removeReservation deletes any reservation, also one that Berth made.
func (c *chaos) removeReservation(t *rapid.T) {
	key, _, found := drawExisting[*v1beta1.IPReservation](t, c, k8s.KindIPReservation)
	if !found {
		return
	}
	c.note("%s is deleted", key)
	c.api.remove(key)
}

func (c *chaos) editNamespace(t *rapid.T) {
	key := k8s.Key{Kind: k8s.KindNamespace, Name: rapid.SampledFrom(namespaces).Draw(t, "namespace")}
	ns := c.api.objects[key].(*corev1.Namespace).DeepCopy()
	if rapid.Bool().Draw(t, "labels") {
		ns.Labels = rapid.SampledFrom([]map[string]string{nil, {"tier": "gold"}}).Draw(t, "labels")
	} else {
		ns.Annotations = rapid.SampledFrom([]map[string]string{nil, {v1beta1.AnnotationShareAcrossNamespaces: "true"}}).Draw(t, "annotations")
	}
	c.note("%s has labels %v and annotations %v", key, ns.Labels, ns.Annotations)
	c.api.update(key, ns)
}

// editNode gives the cluster's only node an address that a pool may have, or
// removes it.
func (c *chaos) editNode(t *rapid.T) {
	key := k8s.Key{Kind: k8s.KindNode, Name: "node-1"}
	if c.api.objects[key] != nil {
		c.note("%s is removed", key)
		c.api.remove(key)
		return
	}
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: rapid.SampledFrom(addresses).Draw(t, "address")},
	}}}
	c.note("%s has %s", key, node.Status.Addresses[0].Address)
	c.api.create(key, node)
}

// hearHosts makes a node hear other hosts, or none any more.
func (c *chaos) hearHosts(t *rapid.T) {
	key := k8s.Key{Kind: k8s.KindNodeState, Name: rapid.SampledFrom([]string{"node-1", "node-2"}).Draw(t, "node")}
	if c.api.objects[key] != nil && oneIn(t, 3, "goes") {
		c.note("%s goes", key)
		c.api.remove(key)
		return
	}
	var conflicts []v1beta1.AddressConflict
	for range rapid.IntRange(0, 2).Draw(t, "hosts") {
		addr := rapid.SampledFrom(addresses).Draw(t, "address")
		if shown := c.shown(); len(shown) > 0 && rapid.Bool().Draw(t, "a Service's") {
			addr = rapid.SampledFrom(shown).Draw(t, "shown")
		}
		conflicts = append(conflicts, v1beta1.AddressConflict{
			Address: addr, MAC: rapid.SampledFrom([]string{"02:00:00:00:00:01", "02:00:00:00:00:02"}).Draw(t, "mac"),
			Since: metav1.NewTime(c.clock.Now()), LastSeen: metav1.NewTime(c.clock.Now()), BeforeUse: !oneIn(t, 4, "after use"),
		})
	}
	c.note("%s hears %s", key, c.api.encode(conflicts))
	status := v1beta1.NodeStateStatus{AddressConflicts: conflicts}
	if before, found := c.api.objects[key].(*v1beta1.NodeState); found {
		after := before.DeepCopy()
		after.Status = status
		c.api.update(key, after)
		return
	}
	c.api.create(key, &v1beta1.NodeState{Status: status})
}

// shown are the addresses of pools that Services show, as often as they are shown:
// what several share is in it more often.
func (c *chaos) shown() []string {
	var shown []string
	for _, svc := range c.all() {
		for _, addr := range ips(svc) {
			if !c.foreign[addr] {
				shown = append(shown, addr)
			}
		}
	}
	return shown
}

// foreignWrite lets another controller write the status of a Service.
func (c *chaos) foreignWrite(t *rapid.T) {
	key, old, found := drawExisting[*corev1.Service](t, c, k8s.KindService)
	if !found || old.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	svc := old.DeepCopy()
	ip := rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", ""}).Draw(t, "foreign address")
	svc.Status.LoadBalancer.Ingress = nil
	if ip != "" {
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}}
		c.foreign[ip] = true
	}
	c.note("another controller writes %q to %s", ip, key)
	c.api.update(key, svc)
	l := c.lifeOf(svc)
	l.foreign, l.fooled = true, true
}
