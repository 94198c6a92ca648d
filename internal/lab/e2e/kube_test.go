package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/berth-lb/berth/api/v1beta1"
)

// agnhost is the server that Kubernetes' own tests use.
const agnhost = "registry.k8s.io/e2e-test-images/agnhost:2.57"

// Ports of the Services and of the Pods behind them.
const (
	servicePort = 80
	podPort     = 8080
)

// createService makes a LoadBalancer Service for the Pods labelled app=web, of
// all families of the lab.
func (e *env) createService(name string, changes ...func(*corev1.Service)) {
	e.Helper()
	if err := e.tryService(name, changes...); err != nil {
		e.Fatal(err)
	}
}

func (e *env) tryService(name string, changes ...func(*corev1.Service)) error {
	service := e.newService(name, changes...)
	_, err := e.lab.kube.CoreV1().Services(e.namespace).Create(e.ctx, service, metav1.CreateOptions{})
	return err
}

func (e *env) newService(name string, changes ...func(*corev1.Service)) *corev1.Service {
	policy := corev1.IPFamilyPolicySingleStack
	if len(e.families()) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}, Labels: map[string]string{}},
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeLoadBalancer,
			IPFamilyPolicy: &policy,
			IPFamilies:     e.families(),
			Selector:       map[string]string{"app": "web"},
			Ports:          []corev1.ServicePort{{Name: "http", Port: servicePort, TargetPort: intstr.FromInt32(podPort)}},
		},
	}
	for _, change := range changes {
		change(service)
	}
	return service
}

// Changes of a Service for createService.

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func annotated(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations[key] = value }
}

func labelled(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Labels[key] = value }
}

func onPort(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports[0].Port = port }
}

func forPods(app string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": app} }
}

func ofClass(class string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }
}

func withPolicy(policy corev1.IPFamilyPolicy, families ...corev1.IPFamily) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.IPFamilyPolicy, s.Spec.IPFamilies = &policy, families }
}

func (e *env) service(name string) *corev1.Service {
	e.Helper()
	service, err := e.lab.kube.CoreV1().Services(e.namespace).Get(e.ctx, name, metav1.GetOptions{})
	if err != nil {
		e.Fatal(err)
	}
	return service
}

// editService applies a JSON merge patch to a Service.
func (e *env) editService(name, patch string) {
	e.Helper()
	_, err := e.lab.kube.CoreV1().Services(e.namespace).Patch(e.ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) deleteService(name string) {
	e.Helper()
	if err := e.lab.kube.CoreV1().Services(e.namespace).Delete(e.ctx, name, metav1.DeleteOptions{}); err != nil {
		e.Fatal(err)
	}
}

// waitCondition returns a condition of a Service once it has the status and the
// reason wanted, and a message with all the parts.
func (e *env) waitCondition(name, condition string, status metav1.ConditionStatus, reason string, parts ...string) metav1.Condition {
	e.Helper()
	var found metav1.Condition
	what := fmt.Sprintf("Service %s to have %s=%s (%s)", name, condition, status, reason)
	if len(parts) > 0 {
		what += fmt.Sprintf(" with %q", parts)
	}
	e.waitFor(what, 20*time.Second, func(ctx context.Context) (bool, string) {
		service, err := e.lab.kube.CoreV1().Services(e.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		c := meta.FindStatusCondition(service.Status.Conditions, condition)
		if c == nil {
			return false, fmt.Sprintf("status %+v", service.Status)
		}
		found = *c
		return c.Status == status && c.Reason == reason && containsAll(c.Message, parts), fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
	})
	return found
}

// waitAllocated returns a Service's addresses once it has all it asks for.
func (e *env) waitAllocated(name string) []netip.Addr {
	e.Helper()
	e.waitCondition(name, v1beta1.ConditionAddressAllocated, metav1.ConditionTrue, "Allocated")
	return e.addressesOf(name)
}

// waitAnnounced is waitAllocated that also waits until all are announced.
func (e *env) waitAnnounced(name string) []netip.Addr {
	e.Helper()
	addresses := e.waitAllocated(name)
	e.waitCondition(name, v1beta1.ConditionAnnounced, metav1.ConditionTrue, "Announced")
	return addresses
}

func (e *env) addressesOf(name string) []netip.Addr {
	e.Helper()
	var addresses []netip.Addr
	for _, ingress := range e.service(name).Status.LoadBalancer.Ingress {
		address, err := netip.ParseAddr(ingress.IP)
		if err != nil {
			e.Fatalf("Service %s: %v", name, err)
		}
		addresses = append(addresses, address)
	}
	return addresses
}

// waitEvent returns the message of an event about a Service once there is one
// that contains all the texts.
func (e *env) waitEvent(service, reason string, texts ...string) string {
	e.Helper()
	var message string
	what := fmt.Sprintf("event %s on Service %s with %q", reason, service, texts)
	e.waitFor(what, 20*time.Second, func(ctx context.Context) (bool, string) {
		events, err := e.events(ctx, service)
		if err != nil {
			return false, err.Error()
		}
		var seen []string
		for _, event := range events {
			if event.Reason == reason && containsAll(event.Message, texts) {
				message = event.Message
				return true, ""
			}
			seen = append(seen, event.Reason+": "+event.Message)
		}
		return false, strings.Join(seen, "; ")
	})
	return message
}

func (e *env) events(ctx context.Context, service string) ([]corev1.Event, error) {
	list, err := e.lab.kube.CoreV1().Events(e.namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=Service,involvedObject.name=" + service,
	})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// deployment says what createDeployment makes.
type deployment struct {
	// app is its name and the label of its Pods.
	app      string
	replicas int32
	// nodes that its Pods may run on; all if empty. No two Pods run on one.
	nodes []string
	// args of the web server, apart from the port.
	args []string
	// streams has the Pods also serve connections to be held, which agnhost's
	// netexec cannot.
	streams bool
	// grace is how long a Pod may take to end, in seconds.
	grace int64
	// readiness, if set, replaces the probe of the web server.
	readiness *corev1.Probe
}

// createDeployment runs web servers and waits until all are ready.
func (e *env) createDeployment(d deployment) {
	e.Helper()
	_, err := e.lab.kube.AppsV1().Deployments(e.namespace).Create(e.ctx, d.object(), metav1.CreateOptions{})
	if err != nil {
		e.Fatal(err)
	}
	e.waitRolledOut(d.app)
}

func (d deployment) object() *appsv1.Deployment {
	label := map[string]string{"app": d.app}
	if d.readiness == nil {
		d.readiness = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(podPort)}},
			PeriodSeconds: 1,
		}
	}
	server := corev1.Container{
		Name:           "netexec",
		Image:          agnhost,
		Args:           append([]string{"netexec", "--http-port=" + strconv.Itoa(podPort)}, d.args...),
		ReadinessProbe: d.readiness,
	}
	if d.streams {
		server.Name, server.Image, server.Args = "streamer", "streamer", server.Args[1:]
	}
	pod := corev1.PodSpec{
		Containers: []corev1.Container{server},
		Affinity: &corev1.Affinity{
			NodeAffinity: onNodes(d.nodes),
			PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				LabelSelector: &metav1.LabelSelector{MatchLabels: label}, TopologyKey: corev1.LabelHostname,
			}}},
		},
		// A Pod on a node that is cut stays where it is.
		Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}},
		TerminationGracePeriodSeconds: &d.grace,
	}
	strategy := appsv1.DeploymentStrategy{}
	if d.replicas > 1 {
		// Pods that keep away from each other need room to move.
		none, one := intstr.FromInt32(0), intstr.FromInt32(1)
		strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &none, MaxUnavailable: &one}
	}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: d.app},
		Spec: appsv1.DeploymentSpec{
			Replicas: &d.replicas,
			Strategy: strategy,
			Selector: &metav1.LabelSelector{MatchLabels: label},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: label}, Spec: pod},
		},
	}
}

// onNodes is the affinity to some nodes, or nil for all.
func onNodes(nodes []string) *corev1.NodeAffinity {
	if len(nodes) == 0 {
		return nil
	}
	return &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: nodes,
		}}}},
	}}
}

// waitRolledOut returns when a Deployment has exactly the Pods it asks for, all
// ready, and their endpoints are known.
func (e *env) waitRolledOut(app string) {
	e.Helper()
	e.waitFor("Deployment "+app+" to be rolled out", time.Minute, func(ctx context.Context) (bool, string) {
		d, err := e.lab.kube.AppsV1().Deployments(e.namespace).Get(ctx, app, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		s := d.Status
		done := s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == *d.Spec.Replicas &&
			s.ReadyReplicas == *d.Spec.Replicas && s.Replicas == *d.Spec.Replicas
		return done, fmt.Sprintf("%+v", s)
	})
}

// scale changes how many Pods a Deployment has and returns without waiting.
func (e *env) scale(app string, replicas int) {
	e.Helper()
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	_, err := e.lab.kube.AppsV1().Deployments(e.namespace).Patch(e.ctx, app, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		e.Fatal(err)
	}
}

// pods returns those of a Deployment that are not being deleted.
func (e *env) pods(app string) []corev1.Pod {
	e.Helper()
	list, err := e.lab.kube.CoreV1().Pods(e.namespace).List(e.ctx, metav1.ListOptions{LabelSelector: labels.Set{"app": app}.String()})
	if err != nil {
		e.Fatal(err)
	}
	var alive []corev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			alive = append(alive, pod)
		}
	}
	return alive
}

func (e *env) waitGone(service string) {
	e.Helper()
	e.waitFor("Service "+service+" to be gone", 10*time.Second, func(ctx context.Context) (bool, string) {
		_, err := e.lab.kube.CoreV1().Services(e.namespace).Get(ctx, service, metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
}

func (e *env) deleteDeployment(name string) {
	e.Helper()
	if err := e.lab.kube.AppsV1().Deployments(e.namespace).Delete(e.ctx, name, metav1.DeleteOptions{}); err != nil {
		e.Error(err)
	}
}

// patchNode applies a JSON merge patch to a Node.
func (e *env) patchNode(name, patch string) {
	e.Helper()
	if _, err := e.lab.kube.CoreV1().Nodes().Patch(e.ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		e.Fatal(err)
	}
}
