package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
)

// objects are all that the API server has, apart from events, which go by themselves,
// what every namespace is given in due course, and namespaces that are on their way
// out, with all that is in them.
func (e *env) objects() map[string]bool {
	e.Helper()
	all, err := e.allObjects(e.ctx)
	if err != nil {
		e.Fatal(err)
	}
	return all
}

func (e *env) allObjects(ctx context.Context) (map[string]bool, error) {
	config, err := e.lab.RESTConfig()
	if err != nil {
		return nil, err
	}
	client, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	lists, err := e.lab.kube.Discovery().ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	going, err := e.goingNamespaces(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "delete"}}, lists) {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, resource := range list.APIResources {
			if resource.Name == "events" {
				continue
			}
			kind := version.WithResource(resource.Name)
			items, err := client.Resource(kind).List(ctx, listAll)
			if err != nil {
				return nil, fmt.Errorf("list %s of %s: %w", resource.Name, list.GroupVersion, err)
			}
			for _, item := range items.Items {
				inside := item.Namespace
				if resource.Name == "namespaces" {
					inside = item.Name
				}
				object := kind.GroupResource().String() + " " + item.Namespace + "/" + item.Name
				if !going[inside] && !ofEveryNamespace(object) {
					all[object] = true
				}
			}
		}
	}
	return all, nil
}

func (e *env) goingNamespaces(ctx context.Context) (map[string]bool, error) {
	namespaces, err := e.lab.kube.CoreV1().Namespaces().List(ctx, listAll)
	if err != nil {
		return nil, err
	}
	going := map[string]bool{}
	for _, namespace := range namespaces.Items {
		if namespace.DeletionTimestamp != nil {
			going[namespace.Name] = true
		}
	}
	return going, nil
}

// ofEveryNamespace reports whether an object is one that Kubernetes itself makes in
// every namespace.
func ofEveryNamespace(object string) bool {
	kind, name, _ := strings.Cut(object, " ")
	return kind == "serviceaccounts" && strings.HasSuffix(name, "/default") ||
		kind == "configmaps" && strings.HasSuffix(name, "/kube-root-ca.crt")
}

// What may be left of a release:

// nothing at all;
func nothing(string) bool { return false }

// or the custom resource definitions and what is in them, beside the API service that
// the API server makes of them.
func customResources(object string) bool {
	kind, name, _ := strings.Cut(object, " ")
	return strings.HasSuffix(kind, ".berth.dev") ||
		strings.HasSuffix(name, ".berth.dev") && (kind == "customresourcedefinitions.apiextensions.k8s.io" || kind == "apiservices.apiregistration.k8s.io")
}

// expectGone returns when nothing is left of the release but what may be, and
// nothing that was there before is missing, apart from its namespace: that is its
// user's.
func (r *release) expectGone(mayStay func(object string) bool) {
	r.Helper()
	namespace := "namespaces /" + r.inside
	r.waitFor("nothing to be left of release "+r.name, time.Minute, func(ctx context.Context) (bool, string) {
		after, err := r.allObjects(ctx)
		if err != nil {
			return false, err.Error()
		}
		var left, missing []string
		for _, object := range slices.Sorted(maps.Keys(after)) {
			if !r.before[object] && !mayStay(object) && object != namespace {
				left = append(left, object)
			}
		}
		for _, object := range slices.Sorted(maps.Keys(r.before)) {
			if !after[object] && !customResources(object) && object != namespace {
				missing = append(missing, object)
			}
		}
		return len(left)+len(missing) == 0, fmt.Sprintf("left: %q; missing: %q", left, missing)
	})
}
