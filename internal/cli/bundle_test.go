package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-lb/berth/api/v1beta1"
)

// secrets must be nowhere in a bundle.
var secrets = []string{"clear-password", "applied-password", "token-of-a-user", "proxy-password", "managed-by-hand"}

// burdened is a cluster with secrets wherever users may put them.
func burdened() (*Cluster, Extras) {
	c := troubled()
	applied := map[string]string{
		corev1.LastAppliedConfigAnnotation: `{"spec":{"password":"applied-password"}}`,
		"example.com/token":                "token-of-a-user",
		"rack/asn":                         "64512",
	}
	c.BGPPeers[0].Spec.Password = "clear-password"
	c.BGPPeers[0].Spec.PeerASNFrom = &v1beta1.NodeValue{NodeAnnotation: "rack/asn"}
	c.BGPPeers[0].Annotations = applied
	c.Nodes[0].Annotations = applied
	for name, value := range applied {
		c.Services[0].Annotations[name] = value
	}
	c.Services[0].ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "managed-by-hand"}}
	proxy := corev1.Container{Name: "speaker", Args: []string{"--log-level=debug"}, Env: []corev1.EnvVar{
		{Name: "HTTPS_PROXY", Value: "http://user:proxy-password@proxy"},
		{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
	}}
	c.Pods[2].Spec.Containers = []corev1.Container{proxy}
	c.Unread = []Unread{{Kind: "leases", Why: "leases is forbidden"}}
	speakers := &appsv1.DaemonSet{ObjectMeta: named("speaker")}
	speakers.Namespace = c.Namespace
	speakers.Spec.Template.Annotations = applied
	speakers.Spec.Template.Spec.InitContainers = []corev1.Container{proxy}
	event := func(namespace, kind, name, message string) *corev1.Event {
		e := &corev1.Event{ObjectMeta: named(name + "." + kind), Message: message}
		e.Namespace, e.InvolvedObject = namespace, corev1.ObjectReference{Kind: kind, Namespace: namespace, Name: name}
		if kind == "IPAddressPool" {
			e.InvolvedObject.APIVersion = v1beta1.GroupVersion().String()
		}
		return e
	}
	return c, Extras{
		DaemonSets: []*appsv1.DaemonSet{speakers},
		Versions:   []string{"kubectl-berth v1.2.3", "Kubernetes v1.36.3"},
		Events: []*corev1.Event{
			event("shop", "Service", "web", "ours"), event("lab", "Service", "others", "another's"), event("default", "Node", "node-1", "a node's"),
			event("berth-system", "Pod", "controller-a", "a Pod's"), event("shop", "Pod", "web-1", "a user's Pod's"), event("default", "IPAddressPool", "gold", "a pool's"),
		},
	}
}

// unpack returns the files of a bundle in their order.
func unpack(t *testing.T, archive []byte) (names []string, contents map[string]string) {
	t.Helper()
	decompressed, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	contents = map[string]string{}
	for files := tar.NewReader(decompressed); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return names, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
		contents[header.Name] = string(content)
	}
}

func bundleOf(t *testing.T, made func() (*Cluster, Extras)) []byte {
	t.Helper()
	c, extras := made()
	b, err := NewBundle(c, extras)
	if err != nil {
		t.Fatal(err)
	}
	b.Add("logs/controller-a/controller.log", []byte("level=info msg=leading\n"))
	b.Fail("logs/controller-b/controller", "pods/log is forbidden")
	var archive bytes.Buffer
	if err := b.Write(&archive); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func TestBundle(t *testing.T) {
	archive := bundleOf(t, burdened)
	names, contents := unpack(t, archive)
	var all strings.Builder
	for _, name := range names {
		all.WriteString("== " + name + "\n")
		if !strings.Contains(name, "/reports/") { // which have goldens of their own
			all.WriteString(contents[name])
		}
	}
	golden(t, "bundle.txt", all.String())
	for name, content := range contents {
		for _, secret := range secrets {
			if strings.Contains(content, secret) {
				t.Errorf("%s has %q", name, secret)
			}
		}
	}
	const folder = "berth-bundle-20300102-030405/"
	for name, want := range map[string]string{
		"reports/status.txt":           "not healthy",
		"reports/explain/lab/idle.txt": "lab/idle",
		"objects/nodes.yaml":           `rack/asn: "64512"`,
		"errors.txt":                   "leases: leases is forbidden\nlogs/controller-b/controller: pods/log is forbidden\n",
	} {
		if !strings.Contains(contents[folder+name], want) {
			t.Errorf("%s lacks %q:\n%s", name, want, contents[folder+name])
		}
	}
}

func TestBundleIsDeterministic(t *testing.T) {
	first := bundleOf(t, burdened)
	second := bundleOf(t, func() (*Cluster, Extras) {
		c, extras := burdened()
		for i, j := 0, len(c.Nodes)-1; i < j; i, j = i+1, j-1 { // lists have no order
			c.Nodes[i], c.Nodes[j] = c.Nodes[j], c.Nodes[i]
		}
		return c, extras
	})
	if !bytes.Equal(first, second) {
		t.Error("equal clusters make different bundles")
	}
}

// Nothing is changed in what the bundle is made of.
func TestBundleLeavesObjectsAlone(t *testing.T) {
	c, extras := burdened()
	bundleOf(t, func() (*Cluster, Extras) { return c, extras })
	untouched, _ := burdened()
	if diff := cmp.Diff(untouched, c, cmpopts.IgnoreUnexported(Cluster{})); diff != "" {
		t.Error(diff)
	}
}

func TestBundleOfNothing(t *testing.T) {
	names, contents := unpack(t, bundleOf(t, func() (*Cluster, Extras) { return &Cluster{Now: now}, Extras{} }))
	if len(names) < 20 || !strings.Contains(contents["berth-bundle-20300102-030405/objects/services.yaml"], "items: []") {
		t.Errorf("it has %v", names)
	}
}
