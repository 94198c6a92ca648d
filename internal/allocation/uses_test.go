package allocation

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

func (c *cluster) advertisement(name string, change func(*v1beta1.L2AdvertisementSpec)) {
	c.t.Helper()
	a := &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if change != nil {
		change(&a.Spec)
	}
	c.adverts[name] = a
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindL2Advertisement, Name: name})
	c.settle()
}

// wantUse checks the counts of an L2Advertisement.
func (c *cluster) wantUse(name string, services, addresses int32) {
	c.t.Helper()
	if s := c.adverts[name].Status; s.Services != services || s.Addresses != addresses {
		c.t.Errorf("%s: %d Services, %d addresses; want %d, %d", name, s.Services, s.Addresses, services, addresses)
	}
}

// TestAdvertisementUses: an advertisement says how many Services and addresses it is
// for. One that several Services share counts once.
func TestAdvertisementUses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1-192.0.2.9")
	q := c.pool("q", "198.51.100.1")
	c.advertisement("all", nil)
	c.advertisement("q", func(s *v1beta1.L2AdvertisementSpec) { s.IPAddressPools = []v1beta1.ObjectName{"q"} })
	c.advertisement("web", func(s *v1beta1.L2AdvertisementSpec) {
		s.ServiceSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"app": "web"}}}
	})
	shared := annotate(v1beta1.AnnotationAllowSharedIP, "k")
	c.service("a", shared, port(1))
	c.service("b", shared, port(2))
	c.service("c", annotate(v1beta1.AnnotationAddressPool, "q"))
	c.service("none", asksFor("203.0.113.1"))
	c.tick()
	c.wantUse("all", 3, 2)
	c.wantUse("q", 1, 1)
	c.wantUse("web", 0, 0)

	c.edit("a", func(s *corev1.Service) { s.Labels = map[string]string{"app": "web"} })
	c.delete("b")
	c.deletePool(q.Name) // what is kept of it is announced as before
	c.clock.SetTime(c.clock.Now().Add(useInterval))
	c.tick()
	c.wantUse("all", 2, 2)
	c.wantUse("q", 1, 1)
	c.wantUse("web", 1, 1)
	c.restart()
	c.tick()
	if n := c.writes[k8s.Key{Kind: k8s.KindL2Advertisement, Name: "all"}]; n > 0 {
		t.Errorf("written %d times after a restart, want no write", n)
	}
}

// TestUsesAreWrittenRarely: many changes cost one write in a while, and what nothing
// changes in costs none.
func TestUsesAreWrittenRarely(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.0/24")
	c.advertisement("all", nil)
	c.tick()
	key := k8s.Key{Kind: k8s.KindL2Advertisement, Name: "all"}
	before := c.writes[key]
	const seconds = 20
	for i := range seconds {
		c.service(string(rune('a' + i)))
		c.clock.SetTime(c.clock.Now().Add(time.Second))
		c.tick()
	}
	if n, want := c.writes[key]-before, int(seconds*time.Second/useInterval); n != want {
		t.Errorf("%d Services in %d s: %d writes, want %d", seconds, seconds, n, want)
	}
	c.clock.SetTime(c.clock.Now().Add(useInterval))
	c.tick()
	c.wantUse("all", seconds, seconds)
	c.edit("a", func(s *corev1.Service) { s.Labels = map[string]string{"some": "label"} })
	c.clock.SetTime(c.clock.Now().Add(time.Hour))
	before = c.writes[key]
	c.tick()
	if n := c.writes[key] - before; n != 0 {
		t.Errorf("nothing it counts has changed: %d writes", n)
	}
}

// TestBGPUses: a peer says how many of its sessions are up, the others how much they
// are used.
func TestBGPUses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	peer := func(name, address string) *v1beta1.BGPPeer {
		return &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta1.BGPPeerSpec{
			MyASN: 64500, PeerASN: 64501, PeerAddress: v1beta1.PeerAddress(address), BFDProfile: "fast",
		}}
	}
	alias := v1beta1.CommunityAlias{Name: "mine", Value: "65000:1"}
	var errs [4]error
	cache := c.controller.cache
	cache.BGPPeers, errs[0] = k8s.StoreOf(peer("a", "192.0.2.1"), peer("b", "192.0.2.2"))
	cache.BGPAdvertisements, errs[1] = k8s.StoreOf(&v1beta1.BGPAdvertisement{
		ObjectMeta: metav1.ObjectMeta{Name: "adv"}, Spec: v1beta1.BGPAdvertisementSpec{Communities: []v1beta1.CommunityRef{"mine", "65000:2"}},
	})
	cache.Communities, errs[2] = k8s.StoreOf(&v1beta1.Community{
		ObjectMeta: metav1.ObjectMeta{Name: "comm"}, Spec: v1beta1.CommunitySpec{Communities: []v1beta1.CommunityAlias{alias}},
	})
	cache.BFDProfiles, errs[3] = k8s.StoreOf(&v1beta1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "fast"}})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	session := func(peer string, state v1beta1.BGPState) v1beta1.BGPSessionStatus {
		return v1beta1.BGPSessionStatus{Name: peer, Peer: peer, State: state}
	}
	for node, state := range map[string]v1beta1.BGPState{"node-1": v1beta1.BGPEstablished, "node-2": ""} {
		c.states[node] = &v1beta1.NodeState{
			ObjectMeta: metav1.ObjectMeta{Name: node},
			Status:     v1beta1.NodeStateStatus{BGPSessions: []v1beta1.BGPSessionStatus{session("a", state)}},
		}
	}
	c.pool("p", "192.0.2.1-192.0.2.9")
	c.service("s")
	c.refresh()
	for _, key := range []k8s.Key{{Kind: k8s.KindBGPPeer}, {Kind: kindTick}} {
		if err := c.controller.handle(key); err != nil {
			t.Fatal(err)
		}
		if err := c.controller.settle(); err != nil {
			t.Fatal(err)
		}
	}
	for key, want := range map[k8s.Key]string{
		{Kind: k8s.KindBGPPeer, Name: "a"}:            `{"established":1,"sessions":2,"up":"1/2"}`,
		{Kind: k8s.KindBGPPeer, Name: "b"}:            `{"established":0,"sessions":0}`,
		{Kind: k8s.KindBGPAdvertisement, Name: "adv"}: `{"addresses":1,"services":1}`,
		{Kind: k8s.KindCommunity, Name: "comm"}:       `{"advertisements":1}`,
		{Kind: k8s.KindBFDProfile, Name: "fast"}:      `{"peers":2}`,
	} {
		var patch struct{ Status map[string]any }
		c.decode(c.pending[key], &patch)
		delete(patch.Status, "conditions")
		if got, err := json.Marshal(patch.Status); err != nil || string(got) != want {
			t.Errorf("%s: status %s (%v), want %s", key, got, err, want)
		}
	}
}
