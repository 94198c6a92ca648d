package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// typed says of what kind an object is.
func typed(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1beta1.GroupVersion().String(), Kind: kind}
}

// createBGPPeer makes a BGPPeer, with a label that tells it from others.
func (e *env) createBGPPeer(name string, spec v1beta1.BGPPeerSpec) {
	e.Helper()
	e.create("bgppeers", &v1beta1.BGPPeer{
		TypeMeta: typed("BGPPeer"), Spec: spec,
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"peer": name}},
	})
}

// advertise makes a BGPAdvertisement of the test's own pool to the routers that
// all tests share, unless it says otherwise: tests that run side by side are not
// to disturb each other.
func (e *env) advertise(name string, spec v1beta1.BGPAdvertisementSpec) {
	e.Helper()
	if spec.IPAddressPools == nil && spec.IPAddressPoolSelectors == nil {
		spec.IPAddressPools = []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}
	}
	if spec.Peers == nil && spec.PeerSelectors == nil {
		spec.Peers = sharedPeers()
	}
	e.create("bgpadvertisements", &v1beta1.BGPAdvertisement{
		TypeMeta: typed("BGPAdvertisement"), Spec: spec, ObjectMeta: metav1.ObjectMeta{Name: name},
	})
}

func (e *env) createCommunity(name string, aliases ...v1beta1.CommunityAlias) {
	e.Helper()
	e.create("communities", &v1beta1.Community{
		TypeMeta: typed("Community"), Spec: v1beta1.CommunitySpec{Communities: aliases}, ObjectMeta: metav1.ObjectMeta{Name: name},
	})
}

func (e *env) createProfile(name string, spec v1beta1.BFDProfileSpec) {
	e.Helper()
	e.create("bfdprofiles", &v1beta1.BFDProfile{TypeMeta: typed("BFDProfile"), Spec: spec, ObjectMeta: metav1.ObjectMeta{Name: name}})
}

// deleteObject deletes a cluster-scoped object of Berth.
func (e *env) deleteObject(plural, name string) {
	e.Helper()
	if err := e.lab.berth.Delete().Resource(plural).Name(name).Do(e.ctx).Error(); err != nil {
		e.Fatal(err)
	}
}

// setPassword makes or changes a Secret that a BGPPeer can name. It goes with the
// test.
func (e *env) setPassword(name, password string) {
	e.Helper()
	e.lab.secrets.Store(password, "the password of "+name)
	secrets := e.lab.kube.CoreV1().Secrets(berthNamespace)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Type:       corev1.SecretTypeBasicAuth,
		StringData: map[string]string{corev1.BasicAuthPasswordKey: password},
	}
	if _, err := secrets.Update(e.ctx, secret, metav1.UpdateOptions{}); err == nil {
		return
	}
	if _, err := secrets.Create(e.ctx, secret, metav1.CreateOptions{}); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 20*time.Second)
		defer cancel()
		if err := secrets.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			e.Error(err)
		}
	})
}

// waitVerdict returns when the condition Accepted of an object has the status and
// the reason, is about the present generation and contains the texts.
func (e *env) waitVerdict(plural, name string, accepted bool, reason string, texts ...string) {
	e.Helper()
	want := metav1.ConditionFalse
	if accepted {
		want = metav1.ConditionTrue
	}
	what := fmt.Sprintf("%s/%s to have Accepted=%s (%s) with %q", plural, name, want, reason, texts)
	e.waitFor(what, 20*time.Second, func(ctx context.Context) (bool, string) {
		var object struct { // all kinds have this
			metav1.ObjectMeta `json:"metadata"`

			Status struct {
				Conditions []metav1.Condition `json:"conditions"`
			} `json:"status"`
		}
		if err := e.getInto(ctx, plural, name, &object); err != nil {
			return false, err.Error()
		}
		for _, c := range object.Status.Conditions {
			if c.Type == v1beta1.ConditionAccepted {
				return c.Status == want && c.Reason == reason && c.ObservedGeneration == object.Generation && containsAll(c.Message, texts),
					fmt.Sprintf("%+v", c)
			}
		}
		return false, "no condition"
	})
}

func (e *env) getInto(ctx context.Context, plural, name string, object any) error {
	content, err := e.lab.berth.Get().Resource(plural).Name(name).Do(ctx).Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(content, object)
}

// nodeState returns what the speaker of a node reports.
func (e *env) nodeState(ctx context.Context, node string) (v1beta1.NodeStateStatus, error) {
	state := &v1beta1.NodeState{}
	err := e.getInto(ctx, "nodestates", node, state)
	return state.Status, err
}

// waitNodeSession returns what a node reports of a session once it is as wanted.
func (e *env) waitNodeSession(node, name, what string, check func(v1beta1.BGPSessionStatus) bool) v1beta1.BGPSessionStatus {
	e.Helper()
	var found v1beta1.BGPSessionStatus
	e.waitFor(fmt.Sprintf("NodeState %s to say of session %s: %s", node, name, what), bgpTimeout, func(ctx context.Context) (bool, string) {
		status, err := e.nodeState(ctx, node)
		if err != nil {
			return false, err.Error()
		}
		for _, session := range status.BGPSessions {
			if session.Name == name {
				found = session
				return check(session), describeSession(session)
			}
		}
		return false, fmt.Sprintf("no such session; bgpUp %s, bgpDown %v", status.BGPUp, status.BGPDown)
	})
	return found
}

func describeSession(s v1beta1.BGPSessionStatus) string {
	text := fmt.Sprintf("%+v", s)
	if s.LastError != nil {
		text += fmt.Sprintf(" lastError: %s %s", s.LastError.Reason, s.LastError.Message)
	}
	if s.BFD != nil {
		text += fmt.Sprintf(" bfd: %+v", *s.BFD)
	}
	return text
}

// waitEstablished returns what a node reports of a session once it is up.
func (e *env) waitEstablished(node, name string) v1beta1.BGPSessionStatus {
	e.Helper()
	return e.waitNodeSession(node, name, "established", func(s v1beta1.BGPSessionStatus) bool { return s.State == v1beta1.BGPEstablished })
}

// waitTrouble returns when a node reports an error of a session that contains the
// texts, while it is not established.
func (e *env) waitTrouble(node, name string, texts ...string) v1beta1.BGPSessionStatus {
	e.Helper()
	return e.waitNodeSession(node, name, fmt.Sprintf("not established, error %q", texts), func(s v1beta1.BGPSessionStatus) bool {
		return s.State != v1beta1.BGPEstablished && s.LastError != nil && containsAll(s.LastError.Message, texts)
	})
}

// speakerOn returns the Pod of the speaker on a node.
func (e *env) speakerOn(node string) *corev1.Pod {
	e.Helper()
	pods, err := e.lab.kube.CoreV1().Pods(berthNamespace).List(e.ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/component=speaker", FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil || len(pods.Items) != 1 {
		e.Fatalf("want one speaker on %s, found %d (error %v)", node, len(pods.Items), err)
	}
	return &pods.Items[0]
}

// peerMetrics are what a speaker counts of one session: the names of the metrics
// without berth_bgp_ and the session.
func (e *env) peerMetrics(speaker *corev1.Pod, session string) map[string]float64 {
	e.Helper()
	found := map[string]float64{}
	for name, value := range e.metrics(speaker, 7957) {
		rest, isBGP := strings.CutPrefix(name, "berth_bgp_")
		mine := fmt.Sprintf("peer=%q", session)
		if isBGP && strings.Contains(rest, mine) {
			found[strings.Replace(strings.Replace(rest, ","+mine, "", 1), mine, "", 1)] = value
		}
	}
	return found
}
