package e2e

import (
	"context"
	"fmt"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// streamingPods are the web servers of a fleet to which connections are held.
func streamingPods() deployment {
	return deployment{app: "web", replicas: 2, nodes: []string{"node-2", "node-3"}, streams: true}
}

// testSpeakerKilled: the speaker of the owner dies while clients have to ask anew
// who has the address. The first time its node starts it again at once, the second
// time only after ten seconds, as Kubernetes does.
func testSpeakerKilled(e *env) {
	f := newFleetOn(e, streamingPods())
	for run := range runs() {
		if run > 0 {
			f.replaceSpeaker() // a new Pod has no history of crashes
		}
		f.speakerKilled("speaker killed (-9), restarted at once")
		f.speakerKilled("speaker killed (-9), away for 10 s")
	}
}

func (f *fleet) speakerKilled(what string) {
	f.Helper()
	f.undisturbed(what, func() { f.endSpeaker(f.victim, syscall.SIGKILL)() })
	f.expectUnmoved(what+", it runs again", f.addresses...)
}

// endSpeaker sends a signal to the speaker on a node. What it returns waits until
// that has been started again and all speakers see each other.
func (e *env) endSpeaker(node string, signal syscall.Signal) (wait func()) {
	e.Helper()
	restarts := func() int32 { return e.speakerOf(node).Status.ContainerStatuses[0].RestartCount }
	before := restarts()
	if err := e.lab.Kill(node, "speaker", signal); err != nil {
		e.Fatal(err)
	}
	return func() {
		e.Helper()
		e.waitFor("the speaker on "+node+" to be restarted", time.Minute, func(context.Context) (bool, string) {
			now := restarts()
			return now > before, fmt.Sprintf("%d times, was %d", now, before)
		})
		e.lab.waitUntilCalm(e)
		e.waitReturned()
	}
}

// speakers selects the speakers on a node, or all if the node is empty.
func speakers(node string) metav1.ListOptions {
	options := metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=speaker"}
	if node != "" {
		options.FieldSelector = "spec.nodeName=" + node
	}
	return options
}

// testSpeakerStopped: the speaker of the owner is stopped and another takes its
// place, as in an upgrade.
func testSpeakerStopped(e *env) {
	f := newFleetOn(e, streamingPods())
	const what = "speaker stopped (-15)"
	for range runs() {
		f.undisturbed(what, func() { f.waitReplaced(f.stopSpeaker()) })
		f.expectUnmoved(what+", it was replaced", f.addresses...)
	}
}

// testRollingUpdate: all speakers are replaced one after the other.
func (f *fleet) testRollingUpdate() {
	const what = "rolling update of all speakers"
	for range runs() {
		f.arrange(faultNode)
		before := f.speakerUIDs()
		f.undisturbed(what, func() {
			began := time.Now()
			f.replaceSpeakers(fmt.Sprintf(`{"metadata":{"annotations":{"restarted":%q}}}`, time.Now().Format(time.RFC3339Nano)))
			measured.add(f.row(what+", until done"), time.Since(began))
			f.waitReturned()
		})
		for node, uid := range f.speakerUIDs() {
			if uid == before[node] {
				f.Errorf("%s: that on %s is the same as before", what, node)
			}
		}
		f.expectUnmoved(what, f.addresses...)
	}
}

// speakerUIDs identify the speakers' Pods, by node.
func (e *env) speakerUIDs() map[string]types.UID {
	e.Helper()
	uids := map[string]types.UID{}
	for _, node := range e.lab.otherNodes() {
		uids[node] = e.speakerOf(node).UID
	}
	return uids
}

// replaceSpeakers has all speakers be replaced, by a patch of their template.
func (f *fleet) replaceSpeakers(template string) {
	f.Helper()
	daemonSets := f.lab.kube.AppsV1().DaemonSets(berthNamespace)
	patch := fmt.Appendf(nil, `{"spec":{"template":%s}}`, template)
	if _, err := daemonSets.Patch(f.ctx, "speaker", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		f.Fatal(err)
	}
	all := int32(nodesOf(f.lab))
	f.waitFor("all speakers to be replaced", 3*time.Minute, func(ctx context.Context) (bool, string) {
		d, err := daemonSets.Get(ctx, "speaker", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		s := d.Status
		return s.ObservedGeneration == d.Generation && s.UpdatedNumberScheduled == all && s.NumberReady == all && s.NumberUnavailable == 0,
			fmt.Sprintf("%+v", s)
	})
}
