package docs

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/berth-lb/berth/api/v1beta1"
)

// TestManifests: every object that a page shows has only fields that its kind has.
// An API server judges their values in the lab.
func TestManifests(t *testing.T) {
	t.Parallel()
	kinds := runtime.NewScheme()
	if err := v1beta1.AddToScheme(kinds); err != nil {
		t.Fatal(err)
	}
	if err := scheme.AddToScheme(kinds); err != nil {
		t.Fatal(err)
	}
	metav1.AddToGroupVersion(kinds, schema.GroupVersion{Version: "v1"})
	decoder := serializer.NewCodecFactory(kinds, serializer.EnableStrict).UniversalDeserializer()
	checked := 0
	for _, page := range pages(t) {
		for _, block := range page.Blocks {
			manifests, err := block.Manifests()
			if err != nil {
				t.Error(err)
			}
			if len(manifests) == 0 && block.Language == "yaml" && strings.Contains(block.Text, "spec:") {
				t.Errorf("%s: say what this is a part of (```yaml kind=…)", block.Where())
			}
			for _, m := range manifests {
				version, err := schema.ParseGroupVersion(m.APIVersion)
				if err != nil {
					t.Errorf("%s: %v", m.Where, err)
				}
				if !kinds.IsVersionRegistered(version) {
					continue // of another system
				}
				checked++
				if _, _, err := decoder.Decode([]byte(m.Text), nil, nil); err != nil {
					t.Errorf("%s: %v", m.Where, err)
				}
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d objects found in the pages", checked)
	}
}
