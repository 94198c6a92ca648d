package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

// speakerPolicies are the ValidatingAdmissionPolicies that confine speakers.
const speakerPolicies = "berth-speaker-"

// write is a patch that whoever has stolen a speaker's token may try.
type write struct {
	what string
	// path of the object below the API's root.
	path  string
	kind  types.PatchType
	patch string
	// refusal is what the API server says; empty if it takes the write.
	refusal string
}

// Refusals by the policies.
const (
	refuseNode         = "may not write the NodeState of "
	refuseUnbound      = "must use the token of a Pod on a node"
	refuseLoadBalancer = "may not write status.loadBalancer"
	refuseCondition    = "may write no condition of a Service but berth.dev/Announced"
	refuseMetadata     = "may write neither metadata nor spec"
)

func nodeStatePath(name string) string { return "/apis/berth.dev/v1beta1/nodestates/" + name }

// nodeStateWrites are what the speaker of a node may do to NodeStates, and others
// like them that it may not.
func nodeStateWrites(own, other string) []write {
	const annotation = `{"metadata":{"annotations":{"test":"confined"}}}`
	// A NodeState that does not exist would be made.
	made := `{"apiVersion":"berth.dev/v1beta1","kind":"NodeState","metadata":{"name":"stranger"}}`
	return []write{
		{what: "its own NodeState", path: nodeStatePath(own), kind: types.MergePatchType, patch: annotation},
		{what: "the status of its own NodeState", path: nodeStatePath(own) + "/status", kind: types.MergePatchType, patch: annotation},
		{what: "another's NodeState", path: nodeStatePath(other), kind: types.MergePatchType, patch: annotation, refusal: refuseNode + other},
		{what: "the status of another's NodeState", path: nodeStatePath(other) + "/status", kind: types.MergePatchType, patch: `{"status":{"l2":null}}`, refusal: refuseNode + other},
		{what: "a NodeState of no node", path: nodeStatePath("stranger") + "?fieldManager=test", kind: types.ApplyPatchType, patch: made, refusal: refuseNode + "stranger"},
	}
}

// serviceWrites are the same for the status of a Service.
func serviceWrites(service string) []write {
	const stolen = `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.66"}]}}}`
	condition := func(conditionType string) string {
		return `{"status":{"conditions":[{"type":"` + conditionType + `","status":"False","reason":"Test","message":"by a test","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
	}
	removed := `{"status":{"conditions":[{"$patch":"delete","type":"` + v1beta1.ConditionAddressAllocated + `"}]}}`
	writes := []write{
		{what: "the condition Announced", patch: condition(v1beta1.ConditionAnnounced)},
		{what: "addresses", patch: stolen, refusal: refuseLoadBalancer},
		{what: "that there are no addresses", patch: `{"status":{"loadBalancer":null}}`, refusal: refuseLoadBalancer},
		{what: "the controller's condition", patch: condition(v1beta1.ConditionAddressAllocated), refusal: refuseCondition},
		{what: "a condition of its own", patch: condition("example.com/Mine"), refusal: refuseCondition},
		{what: "that the controller's condition is gone", patch: removed, refusal: refuseCondition},
		{what: "an annotation", patch: `{"metadata":{"annotations":{"berth.dev/load-balancer-ips":"192.0.2.66"}}}`, refusal: refuseMetadata},
		{what: "a label", patch: `{"metadata":{"labels":{"test":"label"}}}`, refusal: refuseMetadata},
		{what: "a finalizer", patch: `{"metadata":{"finalizers":["example.com/never"]}}`, refusal: refuseMetadata},
	}
	for i := range writes {
		writes[i].path, writes[i].kind = service+"/status", types.StrategicMergePatchType
	}
	return writes
}

// testConfined: what a speaker's token is good for ends at its own node and at
// the condition that it reports with.
func testConfined(e *env) {
	nodes := e.lab.Plan().Nodes()
	own, other := nodes[0].Name, nodes[1].Name
	for _, node := range []string{own, other} {
		e.waitFor("the NodeState of "+node, 10*time.Second, func(ctx context.Context) (bool, string) {
			_, err := e.nodeState(ctx, node)
			return err == nil, fmt.Sprint(err)
		})
	}
	token, err := e.lab.Exec(e.ctx, berthNamespace+"/"+e.speakerOn(own).Name, "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
	if err != nil {
		e.Fatal(err)
	}
	e.usePool(1)
	e.createService("web")
	before := e.waitAllocated("web")
	speaker := e.clientWith(string(token))
	for _, w := range append(nodeStateWrites(own, other), serviceWrites("/api/v1/namespaces/"+e.namespace+"/services/web")...) {
		e.tryWrite(speaker, w)
	}

	// A token that is bound to no Pod, as whoever may create tokens gets it.
	unbound, err := e.lab.kube.CoreV1().ServiceAccounts(berthNamespace).CreateToken(e.ctx, "speaker", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](600)},
	}, metav1.CreateOptions{})
	if err != nil {
		e.Fatal(err)
	}
	homeless := e.clientWith(unbound.Status.Token)
	e.tryWrite(homeless, write{what: "a NodeState without being on a node", path: nodeStatePath(own), kind: types.MergePatchType, patch: `{}`, refusal: refuseUnbound})

	service := e.service("web")
	if after := e.addressesOf("web"); !slices.Equal(after, before) || service.Labels["test"] != "" || len(service.Finalizers) > 0 {
		e.Errorf("the Service has changed: %v, before %v; %+v", after, before, service.ObjectMeta)
	}
	// The condition that was written with the token of one speaker is put right.
	e.waitCondition("web", v1beta1.ConditionAnnounced, metav1.ConditionFalse, "NoEndpoints")
}

// clientWith returns a client of the API server that has nothing but a token.
func (e *env) clientWith(token string) kubernetes.Interface {
	e.Helper()
	config, err := e.lab.RESTConfig()
	if err != nil {
		e.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.BearerToken = token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		e.Fatal(err)
	}
	return client
}

// tryWrite does something as a speaker and checks that it is refused if it has to
// be.
func (e *env) tryWrite(as kubernetes.Interface, w write) {
	e.Helper()
	if w.refusal != "" {
		e.lab.refused.Add(1)
	}
	err := as.CoreV1().RESTClient().Patch(w.kind).RequestURI(w.path).Body([]byte(w.patch)).Do(e.ctx).Error()
	switch {
	case w.refusal == "" && err != nil:
		e.Errorf("a speaker could not write %s: %v", w.what, err)
	case w.refusal != "" && err == nil:
		e.Errorf("a speaker wrote %s", w.what)
	case w.refusal != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), w.refusal)):
		e.Errorf("a speaker that wrote %s was told %v, want %q", w.what, err, w.refusal)
	}
}

// policyDenials is how many writes the API server has denied because of the
// policies that confine speakers, or could not evaluate them for.
func (l *testLab) policyDenials(ctx context.Context) (int64, error) {
	text, err := l.kube.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	var denials int64
	for scanner := bufio.NewScanner(bytes.NewReader(text)); scanner.Scan(); {
		line, counts := strings.CutPrefix(scanner.Text(), "apiserver_validating_admission_policy_check_total{")
		if !counts {
			continue
		}
		label := map[string]string{}
		for _, match := range requestLabel.FindAllStringSubmatch(line, -1) {
			label[match[1]] = match[2]
		}
		if !strings.HasPrefix(label["policy"], speakerPolicies) || label["enforcement_action"] == "audit" {
			continue // what is denied is audited as well
		}
		count, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metrics of the API server: %q: %w", line, err)
		}
		denials += int64(count)
	}
	return denials, nil
}

// checkDenials fails the test if a policy has stood in the way of anything but
// what a test has tried.
func (l *testLab) checkDenials(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	denials, err := l.policyDenials(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	if want := l.deniedBefore + l.refused.Load(); denials != want {
		t.Errorf("the policies %s* have denied %d writes, want %d, those of tests", speakerPolicies, denials, want)
	}
}
