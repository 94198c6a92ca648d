package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// Many addresses that move at once are all back within two seconds; a busy machine
// may need a little longer.
const (
	crowdSize  = 500
	crowdLimit = 2500 * time.Millisecond
	// crowdAsk is the time between two questions for the same address: 2,000 a
	// second for all.
	crowdAsk = 250 * time.Millisecond
	// crowdProbed is how many are also connected to.
	crowdProbed = 10
)

// crowd are many Services of the same few Pods.
type crowd struct {
	*env
	addresses []netip.Addr
}

func newCrowd(e *env) *crowd {
	e.Helper()
	e.createPool(e.namespace, e.largeRanges(crowdSize), nil)
	e.createAdvertisement(e.namespace, v1beta1.L2AdvertisementSpec{
		IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}, NodeSelectors: onHosts(faultNode),
	})
	e.createDeployment(deployment{app: "web", replicas: 2, nodes: e.lab.otherNodes(faultNode)})
	c := &crowd{env: e}
	c.createAll()
	return c
}

// createAll makes the Services and returns when all have an address.
func (c *crowd) createAll() {
	c.Helper()
	began := time.Now()
	group, ctx := errgroup.WithContext(c.ctx)
	group.SetLimit(8)
	for i := range crowdSize {
		group.Go(func() error {
			service := c.newService(fmt.Sprintf("s-%d", i), func(s *corev1.Service) { s.Spec.AllocateLoadBalancerNodePorts = ptr.To(false) })
			_, err := c.lab.kube.CoreV1().Services(c.namespace).Create(ctx, service, metav1.CreateOptions{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		c.Fatal(err)
	}
	c.waitFor(fmt.Sprintf("%d Services to have an address", crowdSize), time.Minute, func(ctx context.Context) (bool, string) {
		list, err := c.lab.kube.CoreV1().Services(c.namespace).List(ctx, listAll)
		if err != nil {
			return false, err.Error()
		}
		c.addresses = nil
		for _, service := range list.Items {
			for _, ingress := range service.Status.LoadBalancer.Ingress {
				c.addresses = append(c.addresses, netip.MustParseAddr(ingress.IP))
			}
		}
		return len(c.addresses) == crowdSize, fmt.Sprintf("%d addresses", len(c.addresses))
	})
	c.Logf("%d Services had addresses after %s", crowdSize, time.Since(began).Round(time.Millisecond))
}

// narrow has one node own all of the addresses, though then all nodes may.
func (c *crowd) narrow(node string) {
	c.Helper()
	selectors := func(nodes []v1beta1.LabelSelector) {
		c.patch("l2advertisements", c.namespace, map[string]any{"spec": map[string]any{"nodeSelectors": nodes}})
	}
	selectors(onHosts(node))
	c.waitAll(node)
	selectors(nil)
	c.pause(2*time.Second, "the speakers are told within an instant")
	c.waitAll(node)
}

// waitAll returns when one node alone answers for every address.
func (c *crowd) waitAll(node string) {
	c.Helper()
	looking := c.lookOut(onlooker, crowdAsk, c.addresses...)
	defer looking.stop()
	const window = 2 * crowdAsk
	c.waitFor(node+" to own all addresses", time.Minute, func(context.Context) (bool, string) {
		owned := 0
		seen := map[string]int{}
		now := time.Now()
		for _, address := range c.addresses {
			owner, only := looking.claims(address, now.Add(-window), now).owner()
			if only && owner == node {
				owned++
			}
			seen[owner]++
		}
		return owned == len(c.addresses), fmt.Sprint(seen)
	})
}

// testCut: the node that owns all of the addresses is cut; all are back soon, with
// other nodes. When it comes back, they stay where they are.
func (c *crowd) testCut() {
	c.healed()
	for range runs() {
		c.narrow(faultNode)
		probed := c.addresses[:crowdProbed]
		for _, address := range probed {
			c.waitServed(network.Client, address, servicePort, "/hostname")
		}
		c.waitSteady(probed[0])
		running := c.startProbes(lab.ProbeOptions{Every: askInterval, Timeout: 250 * time.Millisecond}, probed...)
		looking := c.lookOut(onlooker, crowdAsk, c.addresses...)
		c.pause(2*crowdAsk, "every address is asked for once")
		meter := c.meterStalls()
		cut := time.Now()
		if err := c.lab.Cut(faultNode); err != nil {
			c.Fatal(err)
		}
		c.pauseUntil(cut.Add(2*crowdLimit), "all addresses move")
		limit := c.bound(crowdLimit, meter)
		c.expectBack(looking, cut, time.Now(), limit)
		what := fmt.Sprintf("node cut that owns %d addresses: longest gap of one of %d", crowdSize, crowdProbed)
		for address, r := range running.stop() {
			measured.add(what, time.Duration(r.LongestGap))
			if time.Duration(r.LongestGap) > limit {
				c.Errorf("%s was away for %s, from %s on", address, r.LongestGap, r.GapBegan.Format("15:04:05.000"))
			}
		}

		healed := time.Now()
		if err := c.lab.Heal(faultNode); err != nil {
			c.Fatal(err)
		}
		c.waitReturned()
		c.pause(settleLimit+confirmation, "nothing may move back")
		c.expectNotBack(looking, healed)
		looking.stop()
		c.lab.waitUntilCalm(c.env)
	}
}

// expectBack fails the test unless others answered for every address in time.
func (c *crowd) expectBack(looking *lookout, cut, end time.Time, limit time.Duration) {
	c.Helper()
	var took []time.Duration
	late := 0
	for _, address := range c.addresses {
		answers := slices.DeleteFunc(looking.heard(address, cut, end), func(a answer) bool { return c.lab.node(a.claimed) == faultNode })
		if len(answers) == 0 {
			c.Errorf("nobody answers for %s", address)
			continue
		}
		back := answers[0].at.Sub(cut)
		took = append(took, back)
		if back > limit {
			late++
		}
	}
	if late > 0 {
		c.Errorf("%d of %d addresses were back only after %s", late, len(c.addresses), limit)
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	measured.add(fmt.Sprintf("node cut that owns %d addresses: until half are answered for", crowdSize), took[len(took)/2])
	measured.add(fmt.Sprintf("node cut that owns %d addresses: until all are answered for", crowdSize), took[len(took)-1])
}

// expectNotBack fails the test if the node that has returned owns anything, or two
// nodes answer for one address.
func (c *crowd) expectNotBack(looking *lookout, healed time.Time) {
	c.Helper()
	now := time.Now()
	returned, two := 0, 0
	for _, address := range c.addresses {
		answering := looking.claims(address, maxTime(healed.Add(settleLimit), now.Add(-4*crowdAsk)), now)
		if answering[faultNode] > 0 {
			returned++
		}
		if len(answering) > 1 {
			two++
		}
	}
	if returned > 0 || two > 0 {
		c.Errorf("%s is back: it answers for %d of %d addresses, and two nodes do for %d", faultNode, returned, len(c.addresses), two)
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
