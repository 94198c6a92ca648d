package allocation

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// TestBGPObjectsAreJudged: each object of BGP gets its own condition, once.
func TestBGPObjectsAreJudged(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "router", Namespace: "berth-system"}, Type: corev1.SecretTypeBasicAuth,
		Data: map[string][]byte{"password": []byte("hunter2")},
	}
	peer := func(name, address string) *v1beta1.BGPPeer {
		return &v1beta1.BGPPeer{
			ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 7},
			Spec: v1beta1.BGPPeerSpec{
				MyASN: 64500, PeerASN: 64501, PeerAddress: v1beta1.PeerAddress(address), PasswordSecret: &v1beta1.SecretReference{Name: "router"},
			},
		}
	}
	unwatched := peer("c", "192.0.2.3")
	unwatched.Spec.BFDProfile = "fast"
	peers := map[string]*v1beta1.BGPPeer{"a": peer("a", "192.0.2.1"), "b": peer("b", "192.0.2.1"), "c": unwatched}
	c.nodes["node-1"] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	var errs [5]error
	cache := c.controller.cache
	cache.Secrets, errs[0] = k8s.StoreOf(secret)
	cache.BGPPeers, errs[1] = k8s.StoreOf(values(peers)...)
	cache.BGPAdvertisements, errs[2] = k8s.StoreOf(&v1beta1.BGPAdvertisement{
		ObjectMeta: metav1.ObjectMeta{Name: "adv"}, Spec: v1beta1.BGPAdvertisementSpec{Communities: []v1beta1.CommunityRef{"mine"}},
	})
	cache.Communities, errs[3] = k8s.StoreOf(&v1beta1.Community{ObjectMeta: metav1.ObjectMeta{Name: "comm"}})
	cache.BFDProfiles, errs[4] = k8s.StoreOf(&v1beta1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "slow"}})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	react := func(kind k8s.Kind) {
		t.Helper()
		c.refresh()
		if err := c.controller.handle(k8s.Key{Kind: kind, Name: "any"}); err != nil {
			t.Fatal(err)
		}
		if err := c.controller.settle(); err != nil {
			t.Fatal(err)
		}
		if err := c.controller.handle(k8s.Key{Kind: kindTick}); err != nil {
			t.Fatal(err)
		}
	}
	react(k8s.KindBGPPeer)
	for key, want := range map[k8s.Key]string{
		{Kind: k8s.KindBGPPeer, Name: "a"}:            "True Accepted: the peer is in force",
		{Kind: k8s.KindBGPPeer, Name: "b"}:            "False Duplicate: node node-1 has a session with 192.0.2.1",
		{Kind: k8s.KindBGPPeer, Name: "c"}:            "False UnknownBFDProfile: spec.bfdProfile: no BFDProfile fast",
		{Kind: k8s.KindBGPAdvertisement, Name: "adv"}: "False UnknownCommunity: spec.communities[0]: no Community in force has the name mine",
		{Kind: k8s.KindCommunity, Name: "comm"}:       "True Accepted: ",
		{Kind: k8s.KindBFDProfile, Name: "slow"}:      "True Accepted: ",
	} {
		got := conditionIn(t, c.pending[key])
		if text := string(got.Status) + " " + got.Reason + ": " + got.Message; !strings.HasPrefix(text, want) || strings.Contains(text, "hunter2") {
			t.Errorf("%s: got %s, want %s", key, text, want)
		}
	}

	// Once the status says so, nothing is written any more.
	for name, p := range peers {
		fresh := p.DeepCopy()
		fresh.Status.Conditions = []metav1.Condition{conditionIn(t, c.pending[k8s.Key{Kind: k8s.KindBGPPeer, Name: name}])}
		peers[name] = fresh
	}
	cache.BGPPeers, _ = k8s.StoreOf(values(peers)...)
	react(k8s.KindBGPPeer)
	for name := range peers {
		if patch, ok := c.pending[k8s.Key{Kind: k8s.KindBGPPeer, Name: name}]; ok {
			t.Errorf("BGPPeer %s is written again: %s", name, patch)
		}
	}

	// The Secret is deleted: that is told on the peers.
	cache.Secrets = k8s.Store[*corev1.Secret]{}
	react(k8s.KindSecret)
	if got := conditionIn(t, c.pending[k8s.Key{Kind: k8s.KindBGPPeer, Name: "a"}]); got.Reason != v1beta1.ReasonSecretNotUsable || got.ObservedGeneration != 7 {
		t.Errorf("without the Secret: %+v", got)
	}
}

// conditionIn returns the condition Accepted of a status patch.
func conditionIn(t *testing.T, patch []byte) metav1.Condition {
	t.Helper()
	var body struct {
		Status struct{ Conditions []metav1.Condition }
	}
	if err := json.Unmarshal(patch, &body); err != nil {
		t.Fatalf("%s: %v", patch, err)
	}
	accepted := meta.FindStatusCondition(body.Status.Conditions, v1beta1.ConditionAccepted)
	if accepted == nil {
		t.Fatalf("no condition in %s", patch)
	}
	return *accepted
}
