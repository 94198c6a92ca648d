package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// chaosSteps are all that can happen.
func chaosSteps() []chaosStep {
	return []chaosStep{
		{name: "cut", weight: 2, nodes: (*chaos).losable, do: chaosCut},
		{name: "cut silently", weight: 2, nodes: (*chaos).losable, do: chaosCutSilently},
		{name: "part from the rest", weight: 1, nodes: (*chaos).losable, do: chaosPart},
		{name: "part for a moment, as seen from both sides,", weight: 1, nodes: (*chaos).losable, do: chaosPartBriefly},
		{name: "heal", weight: 6, nodes: when(func(c *chaos) bool { return c.lost != "" }), do: chaosHeal},
		{name: "kill -9 the speaker on", weight: 2, nodes: (*chaos).killable, do: chaosKill},
		{name: "terminate the speaker on", weight: 1, nodes: (*chaos).killable, do: chaosTerminate},
		{name: "replace the speaker on", weight: 2, nodes: (*chaos).replaceable, do: chaosReplace},
		{name: "freeze the API server", weight: 1, nodes: when((*chaos).freezable), do: chaosFreeze},
		{name: "thaw the API server", weight: 2, nodes: when(func(c *chaos) bool { return c.frozenFor > 0 }), do: chaosThaw},
		{name: "drain", weight: 2, nodes: (*chaos).drainable, do: chaosDrain, planned: true},
		{name: "undrain", weight: 2, nodes: when(func(c *chaos) bool { return c.drained != "" && c.frozenFor == 0 }), do: chaosUndrain},
		{name: "have an advertisement exclude", weight: 1, nodes: (*chaos).excludable, do: chaosExclude, planned: true},
		{name: "have an advertisement exclude nothing", weight: 1, nodes: when(func(c *chaos) bool { return c.excluded != "" && c.frozenFor == 0 }), do: chaosInclude},
		{name: "move the Pod to", weight: 2, nodes: (*chaos).movable, do: chaosMovePod, planned: true},
		{name: "scale the Pods down and up", weight: 1, nodes: when((*chaos).whole), do: chaosScale},
	}
}

// when is for steps that are about no node.
func when(possible func(*chaos) bool) func(*chaos) []string {
	return func(c *chaos) []string {
		if possible(c) {
			return []string{""}
		}
		return nil
	}
}

// whole says that all nodes and the API server can be reached.
func (c *chaos) whole() bool { return c.lost == "" && c.frozenFor == 0 }

// spare returns the nodes that can be taken away in one more respect, so that one
// node is left that is fit in every respect: its speaker, too, can take addresses.
func (c *chaos) spare() []string {
	c.Helper()
	ready := c.readySpeakers()
	return slices.DeleteFunc(c.lab.otherNodes(), func(node string) bool {
		fit := c.lab.otherNodes(node, c.lost, c.drained, c.excluded)
		return !slices.ContainsFunc(fit, func(other string) bool { return ready[other] })
	})
}

// losable are the nodes that can be lost: not while another speaker is away, for with
// two of three gone there is no majority that could decide who owns what.
func (c *chaos) losable() []string {
	if c.lost != "" || !c.speakersReady() {
		return nil
	}
	return c.spare()
}

func (c *chaos) drainable() []string {
	if c.drained != "" || c.frozenFor > 0 {
		return nil
	}
	return slices.DeleteFunc(c.spare(), func(node string) bool { return node == c.lost })
}

func (c *chaos) excludable() []string {
	if c.excluded != "" || c.frozenFor > 0 {
		return nil
	}
	return slices.DeleteFunc(c.spare(), func(node string) bool { return node == c.lost })
}

func (c *chaos) movable() []string {
	if !c.whole() {
		return nil
	}
	ready := c.readySpeakers()
	return slices.DeleteFunc(c.lab.otherNodes(c.podOn), func(node string) bool { return !ready[node] })
}

// killable are the nodes whose speaker can be ended: the node starts it again, with
// the help of the API server, at once or, the second time, ten seconds later.
func (c *chaos) killable() []string {
	often := 2 // the third time it takes too long
	if c.lost != "" {
		often = 1 // it has to be back at once: see losable
	}
	return slices.DeleteFunc(c.replaceable(), func(node string) bool { return c.kills[node] >= often })
}

// replaceable are the nodes whose speaker can be replaced by another Pod, while no
// other is on its way.
func (c *chaos) replaceable() []string {
	if c.frozenFor > 0 || !c.speakersReady() {
		return nil
	}
	return c.lab.otherNodes(c.lost)
}

// freezable asks for the speaker of the node that is lost as well, which may be back
// before the API server is.
func (c *chaos) freezable() bool {
	return c.frozenFor == 0 && len(c.readySpeakers()) == nodesOf(c.lab)
}

// speakersReady says whether the speakers of all nodes that can be reached are.
func (c *chaos) speakersReady() bool {
	c.Helper()
	ready := c.readySpeakers()
	return !slices.ContainsFunc(c.lab.otherNodes(c.lost), func(node string) bool { return !ready[node] })
}

// readySpeakers are the nodes whose speakers are ready. While the API server is
// frozen they are all, for they were before and nothing is done to them.
func (c *chaos) readySpeakers() map[string]bool {
	c.Helper()
	ready := map[string]bool{}
	if c.frozenFor > 0 {
		for _, node := range c.lab.otherNodes() {
			ready[node] = true
		}
		return ready
	}
	pods, err := c.lab.kube.CoreV1().Pods(berthNamespace).List(c.ctx, speakers(""))
	if err != nil {
		c.Fatal(err)
	}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil && podReady(&pod) {
			ready[pod.Spec.NodeName] = true
		}
	}
	return ready
}

// owned accepts what a node owned before.
func (c *chaos) owned(node string) mayMove {
	before := c.placed
	return func(address netip.Addr) bool { return before[address] == node }
}

func (c *chaos) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func chaosCut(c *chaos, node string) mayMove {
	c.must(c.lab.Cut(node))
	c.lost = node
	return c.owned(node)
}

func chaosCutSilently(c *chaos, node string) mayMove {
	c.must(c.lab.CutSilently(node))
	c.lost = node
	return c.owned(node)
}

// chaosPart leaves the clients on the side of the others.
func chaosPart(c *chaos, node string) mayMove {
	rest := []string{network.ControlPlane, network.Router, network.Client, network.Stranger}
	c.must(c.lab.Partition([]string{node}, append(rest, c.lab.otherNodes(node)...)))
	c.lost = node
	return c.owned(node)
}

// chaosPartBriefly: both sides are seen to answer, until they are one again.
func chaosPartBriefly(c *chaos, node string) mayMove {
	c.must(c.lab.Partition([]string{node}, append(c.lab.otherNodes(node), network.ControlPlane)))
	c.pause(time.Duration(c.random.Int64N(int64(3*time.Second))), "the halves come to believe that they are alone")
	c.must(c.lab.Partition())
	return c.owned(node)
}

func chaosHeal(c *chaos, _ string) mayMove {
	c.must(c.lab.HealAll())
	lost := c.lost
	c.lost = ""
	if lost != c.podOn {
		return nothingMoves
	}
	// Only this node can announce what has its Pod there, and only once Kubernetes
	// believes again that it serves.
	c.waitFor("the Pod to be ready again, or the API server to be away", time.Minute, func(ctx context.Context) (bool, string) {
		if c.frozenFor > 0 {
			return true, ""
		}
		slice, err := c.lab.kube.DiscoveryV1().EndpointSlices(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=mover"})
		if err != nil {
			return false, err.Error()
		}
		ready := 0
		for _, s := range slice.Items {
			for _, endpoint := range s.Endpoints {
				if *endpoint.Conditions.Ready {
					ready++
				}
			}
		}
		return ready == len(c.families()), fmt.Sprintf("%d endpoints are", ready)
	})
	c.waitOwners(c.locals, among(c.podOn))
	// Meanwhile the node that had the Pod before may have had them, if it ended there
	// and still served.
	return func(address netip.Addr) bool { return slices.Contains(c.locals, address) }
}

func chaosKill(c *chaos, node string) mayMove {
	c.must(c.lab.Kill(node, "speaker", syscall.SIGKILL))
	c.kills[node]++
	return nothingMoves
}

func chaosTerminate(c *chaos, node string) mayMove {
	c.must(c.lab.Kill(node, "speaker", syscall.SIGTERM))
	c.kills[node]++
	return nothingMoves
}

func chaosReplace(c *chaos, node string) mayMove {
	c.must(c.lab.kube.CoreV1().Pods(berthNamespace).Delete(c.ctx, c.speakerOf(node).Name, metav1.DeleteOptions{}))
	c.kills[node] = 0
	return nothingMoves
}

func chaosFreeze(c *chaos, _ string) mayMove {
	c.must(c.lab.Freeze(lab.APIServer))
	c.frozenFor = 1
	return nothingMoves
}

func chaosThaw(c *chaos, _ string) mayMove {
	c.must(c.lab.Thaw(lab.APIServer))
	c.frozenFor = 0
	c.waitAPI()
	return nothingMoves
}

// waitAPI returns when the API server answers.
func (e *env) waitAPI() {
	e.Helper()
	e.waitFor("the API server to answer", 30*time.Second, func(ctx context.Context) (bool, string) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := e.lab.kube.CoreV1().Nodes().List(ctx, listAll)
		return err == nil, fmt.Sprint(err)
	})
}

func chaosDrain(c *chaos, node string) mayMove {
	c.drain(node)
	c.drained = node
	return c.owned(node)
}

func chaosUndrain(c *chaos, _ string) mayMove {
	c.undrain(c.drained)
	c.drained = ""
	return nothingMoves
}

func chaosExclude(c *chaos, node string) mayMove {
	c.advertise(sideOfVictim, c.lab.otherNodes(node)...)
	c.excluded = node
	owned := c.owned(node)
	return func(address netip.Addr) bool {
		return owned(address) && slices.Contains(c.sides[sideOfVictim], address)
	}
}

func chaosInclude(c *chaos, _ string) mayMove {
	c.advertise(sideOfVictim)
	c.excluded = ""
	return nothingMoves
}

func chaosMovePod(c *chaos, node string) mayMove {
	c.movePods("mover", node)
	c.podOn = node
	return func(address netip.Addr) bool { return slices.Contains(c.locals, address) }
}

func chaosScale(c *chaos, _ string) mayMove {
	c.scale("web", 1)
	c.waitRolledOut("web")
	c.scale("web", 2)
	c.waitRolledOut("web")
	return nothingMoves
}
