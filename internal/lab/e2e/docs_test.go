package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-lb/berth/internal/docs"
)

// testDocumentation: what the documentation tells users to apply the API server
// takes, and what it tells them to run works.
func testDocumentation(e *env) {
	pages, err := docs.Pages(repository)
	if err != nil {
		e.Fatal(err)
	}
	e.Run("Manifests", func(t *testing.T) { tryManifests(t, e, pages) })
	e.waitReported()
	ran := 0
	for _, page := range pages {
		if !slices.ContainsFunc(page.Blocks, isStep) {
			continue
		}
		ran++
		e.Run(filepath.Base(page.Path), func(t *testing.T) { followPage(t, e, page) })
	}
	if ran < 8 {
		e.Errorf("only %d pages have something to run", ran)
	}
}

// waitReported returns when the speakers of all nodes have reported, as they have in a
// cluster that is a minute old.
func (e *env) waitReported() {
	e.Helper()
	e.waitFor("a NodeState of every node", time.Minute, func(ctx context.Context) (bool, string) {
		for _, node := range e.lab.Plan().Nodes() {
			if _, err := e.nodeState(ctx, node.Name); err != nil {
				return false, err.Error()
			}
		}
		return true, ""
	})
}

func isStep(b docs.Block) bool { return b.Is("run") || b.Is("apply") }

// tryManifests has the API server judge every object of every page, without effect.
func tryManifests(t *testing.T, e *env, pages []*docs.Page) {
	config, err := e.lab.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(e.lab.kube.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	tried := 0
	for _, page := range pages {
		for _, block := range page.Blocks {
			manifests, err := block.Manifests()
			if err != nil {
				t.Error(err)
			}
			for _, m := range manifests {
				known, err := e.tryManifest(client, mapper, m)
				if err != nil {
					t.Errorf("%s: %v", m.Where, err)
				}
				if known {
					tried++
				}
			}
		}
	}
	if tried < 20 {
		t.Errorf("only %d objects were tried", tried)
	}
}

// tryManifest creates an object on trial. It says whether the API server knows such
// objects.
func (e *env) tryManifest(client dynamic.Interface, mapper meta.RESTMapper, m docs.Manifest) (known bool, err error) {
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(m.Text), &object.Object); err != nil {
		return false, err
	}
	kind := object.GroupVersionKind()
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: kind.Group, Kind: kind.Kind}, kind.Version)
	if meta.IsNoMatchError(err) && kind.Group != "berth.dev" {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	object.SetName("tried-" + strings.ToLower(kind.Kind)) // one of its own name may be there
	object.SetNamespace("")
	resource := dynamic.ResourceInterface(client.Resource(mapping.Resource))
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		resource = client.Resource(mapping.Resource).Namespace(e.namespace)
	}
	options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
	_, err = resource.Create(e.ctx, object, options)
	return true, err
}

// reader follows a page.
type reader struct {
	*testing.T
	e *env
	// environ is what commands find around them.
	environ []string
	// place puts addresses of the lab in the place of those for documentation.
	place *strings.Replacer
}

// followPage does what a page says, from its beginning to its end, and removes what it
// has left behind.
func followPage(t *testing.T, e *env, page *docs.Page) {
	before := e.namespaces(t)
	t.Cleanup(func() { e.tidy(t, before) })
	r := newReader(t, e, strings.ToLower(strings.TrimSuffix(filepath.Base(page.Path), ".md")))
	for _, block := range page.Blocks {
		switch {
		case block.Is("apply"):
			r.do(block.Where(), "kubectl apply --server-side --filename=-", r.place.Replace(block.Text))
		case block.Is("run"):
			for _, command := range block.Commands() {
				r.do(block.Where(), r.place.Replace(command), "")
			}
		}
	}
}

// newReader gives a reader the programs that pages speak of, and a namespace of its own.
func newReader(t *testing.T, e *env, name string) *reader {
	t.Helper()
	bin := t.TempDir()
	kube := e.lab.KubectlArgs()[0]
	built := filepath.Dir(kube)
	curl, err := exec.LookPath("curl") // by its path, or it would be ours again
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{
		"kubectl":       kube + " kubectl",
		"kubectl-berth": filepath.Join(built, "kubectl-berth"),
		"curl":          filepath.Join(built, "lab") + " --name " + e.lab.Name() + " exec client -- " + curl,
	}
	for name, program := range programs {
		script := "#!/bin/sh\nexec " + program + " \"$@\"\n"
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: e.namespace + "-" + name}}
	if _, err := e.lab.kube.CoreV1().Namespaces().Create(e.ctx, namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(e.lab.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.Contexts[config.CurrentContext].Namespace = namespace.Name
	kubeconfig := filepath.Join(bin, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		t.Fatal(err)
	}
	return &reader{
		T: t, e: e,
		environ: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+kubeconfig),
		// Parts of the lab's free ranges that no slot of a test reaches.
		place: strings.NewReplacer(
			"192.0.2.", "172.20.250.", "198.51.100.", "172.20.251.", "203.0.113.", "172.20.252.",
			"2001:db8:0:1:", "fd00:172:20:0:1:fa:", "NODE", "node-2"),
	}
}

// do runs a command in the root of the repository and returns what it writes.
func (r *reader) do(where, command, stdin string) string {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.e.ctx), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command)
	cmd.Dir, cmd.Env, cmd.Stdin = repository, r.environ, strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		r.Fatalf("%s: %s: %v\n%s", where, command, err, out.String())
	}
	return out.String()
}

// namespaces returns the names of those that there are.
func (e *env) namespaces(t *testing.T) []string {
	t.Helper()
	list, err := e.lab.kube.CoreV1().Namespaces().List(e.ctx, listAll)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, namespace := range list.Items {
		names = append(names, namespace.Name)
	}
	return names
}

// tidy removes what a page has made: the namespaces, the Services in them at once, and
// all configuration of Berth. Nothing else runs meanwhile.
func (e *env) tidy(t *testing.T, before []string) {
	t.Helper()
	for _, name := range e.namespaces(t) {
		if slices.Contains(before, name) {
			continue
		}
		if err := e.lab.kube.CoreV1().RESTClient().Delete().Namespace(name).Resource("services").Do(e.ctx).Error(); err != nil {
			t.Error(err)
		}
		if err := e.lab.kube.CoreV1().Namespaces().Delete(e.ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			t.Error(err) // a conflict: it is going already
		}
	}
	for _, node := range e.lab.Plan().Nodes() { // where a page was not followed to its end
		e.undrain(node.Name)
	}
	for _, plural := range []string{"ipaddresspools", "ipreservations", "l2advertisements", "bgppeers", "bgpadvertisements", "communities", "bfdprofiles"} {
		if err := e.lab.berth.Delete().Resource(plural).Do(e.ctx).Error(); err != nil {
			t.Error(err)
		}
	}
}
