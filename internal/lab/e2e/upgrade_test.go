package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// previousManifest is an earlier deploy/berth.yaml.
const previousManifest = "testdata/previous.yaml"

// Objects of which the API server says whether it takes them.
const (
	bgpPeer = `{"apiVersion": "berth.dev/v1beta1", "kind": "BGPPeer", "metadata": {"name": "try"},
		"spec": {"myASN": 64500, "peerASN": 64501, "peerAddress": "192.0.2.1"}}`
	l2Advertisement = `{"apiVersion": "berth.dev/v1beta1", "kind": "L2Advertisement", "metadata": {"name": "try"}}`
	// What the previous manifest takes and the present one does not.
	staleCommunity = `{"apiVersion": "berth.dev/v1beta1", "kind": "BGPAdvertisement", "metadata": {"name": "try"},
		"spec": {"communities": ["llgr-stale"]}}`
)

// testUpgrade: under traffic, the previous manifest becomes the present one, and that
// the chart's. Nothing is lost and no address moves. Then all goes, though there are
// Services.
func testUpgrade(e *env) {
	r := e.newRelease("berth", berthNamespace)
	if _, err := e.lab.Kubectl(e.ctx, nil, "apply", "--server-side", "-f", previousManifest); err != nil {
		e.Fatal(err)
	}
	r.waitReady(berthReplicas)
	e.waitObjectTaken(staleCommunity)
	e.Run("Traffic", func(t *testing.T) {
		f := newSmallFleet(newEnv(t, e.lab))
		r := f.newRelease(r.name, r.inside)
		recorded := f.record()
		want := map[string]string{}
		for _, name := range smallFleet() {
			want[name] = ingressText(f.service(name))
		}
		f.upgrade("upgrade from the previous manifest", r, func() { r.run(applyCommand) })
		f.waitObjectRefused(staleCommunity, "is llgr-stale")
		const values = `
crds: {keep: false}
controller: {podAnnotations: {example.com/by: chart}}
speaker: {podAnnotations: {example.com/by: chart}}
`
		f.upgrade("take-over of the manifest by the chart", r, func() { r.run(takeCommand, r.values(values)...) })
		recorded.expectSameAddresses("upgrades", want)
		r.uninstall()
	})
	r.run(dropNamespaceCommand)
	r.expectGone(nothing)
}

// smallFleet are the Services of one.
func smallFleet() []string { return []string{"web-0", "web-1", "web-2"} }

// newSmallFleet is a fleet that is announced as the speakers please, with
// connections to the addresses of one of the owners.
func newSmallFleet(e *env) *fleet {
	e.Helper()
	e.usePool(len(smallFleet()))
	e.createDeployment(streamingPods())
	f := &fleet{env: e}
	for _, name := range smallFleet() {
		e.createService(name)
	}
	for _, name := range smallFleet() {
		f.addresses = append(f.addresses, e.waitAnnounced(name)...)
	}
	f.look(e.waitOwner(f.addresses[0]))
	f.waitProbing(f.addresses)
	return f
}

// upgrade has all of Berth's Pods replaced, which no client may notice.
func (f *fleet) upgrade(what string, r *release, how func()) {
	f.Helper()
	before := f.speakerUIDs()
	f.lab.checkLogsIn(f.T, berthNamespace) // of those that go
	f.undisturbed(what, func() {
		how()
		r.waitRollout()
		r.waitReady(berthReplicas)
		f.waitReturned()
	})
	for node, uid := range f.speakerUIDs() {
		if uid == before[node] {
			f.Errorf("%s: the speaker on %s is the same as before", what, node)
		}
	}
	f.expectUnmoved(what, f.addresses...)
}

// tryObject has the API server say whether it would take an object of Berth's.
func (e *env) tryObject(ctx context.Context, object string) error {
	kind := struct{ Kind string }{}
	if err := json.Unmarshal([]byte(object), &kind); err != nil {
		e.Fatal(err)
	}
	return e.lab.berth.Post().Resource(strings.ToLower(kind.Kind)+"s").Param("dryRun", metav1.DryRunAll).
		SetHeader("Content-Type", "application/json").Body([]byte(object)).Do(ctx).Error()
}

// waitObjectTaken returns when the API server takes an object: what forbids it may go, and
// what defines it may come, an instant after it was said to.
func (e *env) waitObjectTaken(object string) {
	e.Helper()
	e.waitFor("the API server to take "+object, 20*time.Second, func(ctx context.Context) (bool, string) {
		err := e.tryObject(ctx, object)
		return err == nil, fmt.Sprint(err)
	})
}

// waitObjectRefused returns when it refuses an object for the reason given.
func (e *env) waitObjectRefused(object, reason string) {
	e.Helper()
	e.waitFor("the API server to refuse "+object, 20*time.Second, func(ctx context.Context) (bool, string) {
		err := e.tryObject(ctx, object)
		refused := apierrors.IsForbidden(err) || apierrors.IsInvalid(err)
		return refused && strings.Contains(err.Error(), reason), fmt.Sprint(err)
	})
}

// olderChart is the present one with a schema that lacks a field.
func (e *env) olderChart() string {
	e.Helper()
	folder := filepath.Join(e.TempDir(), "chart")
	if err := os.CopyFS(folder, os.DirFS(filepath.Join(repository, defaultChart))); err != nil {
		e.Fatal(err)
	}
	const file = "files/crd/berth.dev_l2advertisements.yaml"
	content, err := fs.ReadFile(os.DirFS(folder), file)
	if err != nil {
		e.Fatal(err)
	}
	older := withoutField(string(content), "onConflict")
	if err := os.WriteFile(filepath.Join(folder, file), []byte(older), 0o600); err != nil {
		e.Fatal(err)
	}
	return folder
}

// withoutField returns YAML without what is called name, wherever it is.
func withoutField(text, name string) string {
	var kept strings.Builder
	depth := -1 // of what is being left out
	for line := range strings.Lines(text) {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if depth >= 0 && indent > depth {
			continue
		}
		if depth = -1; strings.TrimSpace(line) == name+":" {
			depth = indent
			continue
		}
		kept.WriteString(line)
	}
	return kept.String()
}

// l2Fields are the fields of an L2Advertisement's spec that the API server knows.
func (e *env) l2Fields() map[string]bool {
	e.Helper()
	out, err := e.lab.Kubectl(e.ctx, nil, "get", "customresourcedefinition", "l2advertisements.berth.dev",
		"-o", "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties}")
	if err != nil {
		e.Fatal(err)
	}
	properties := map[string]any{}
	if err := json.Unmarshal(out, &properties); err != nil {
		e.Fatal(err)
	}
	known := map[string]bool{}
	for name := range properties {
		known[name] = true
	}
	return known
}
