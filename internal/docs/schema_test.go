package docs

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// schema is the part of OpenAPI that structural schemas are made of.
type schemaProps struct {
	Description          string                 `json:"description"`
	Type                 string                 `json:"type"`
	Properties           map[string]schemaProps `json:"properties"`
	Items                *schemaProps           `json:"items"`
	AdditionalProperties *schemaProps           `json:"additionalProperties"`
}

type crd struct {
	Spec struct {
		Names    struct{ Kind string }
		Versions []struct {
			Name                     string
			AdditionalPrinterColumns []struct{ Name, JSONPath string }
			Schema                   struct{ OpenAPIV3Schema schemaProps }
		}
	}
}

func crds(t *testing.T) []crd {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "config/crd/berth.dev_*.yaml"))
	if err != nil || len(files) < 8 {
		t.Fatalf("found %d custom resource definitions (%v)", len(files), err)
	}
	var all []crd
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var one crd
		if err := yaml.Unmarshal(content, &one); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, one)
	}
	return all
}

// walk visits every field below s, by its path.
func (s *schemaProps) walk(path string, visit func(path string, field *schemaProps)) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		field := s.Properties[name]
		visit(path+"."+name, &field)
		field.walk(path+"."+name, visit)
	}
	if s.Items != nil {
		s.Items.walk(path+"[]", visit)
	}
	if s.AdditionalProperties != nil {
		s.AdditionalProperties.walk(path+"{}", visit)
	}
}

// quantity is how a description says what a number counts or is measured in.
var quantity = regexp.MustCompile(`(?i)how many|number|\bAS\b|milliseconds|seconds|length|weight|priority|port|TTL|LOCAL_PREF|MULTI_EXIT_DISC|generation|hops`)

// TestFieldsAreExplained: kubectl explain has something to say about every field, and
// of a number it says what it counts or what unit it has.
func TestFieldsAreExplained(t *testing.T) {
	t.Parallel()
	for _, definition := range crds(t) {
		for _, version := range definition.Spec.Versions {
			top := version.Schema.OpenAPIV3Schema
			if top.Description == "" {
				t.Errorf("%s has no description", definition.Spec.Names.Kind)
			}
			top.walk(definition.Spec.Names.Kind, func(path string, field *schemaProps) {
				switch {
				case strings.HasSuffix(path, ".metadata"): // kubectl has its own words for that
				case len(strings.TrimSpace(field.Description)) < 8:
					t.Errorf("%s has no description", path)
				case field.Type == "integer" && !quantity.MatchString(field.Description):
					t.Errorf("%s is a number, and its description does not say of what: %s", path, field.Description)
				}
			})
		}
	}
}

// TestColumns: kubectl get says of every kind that users write whether it is in force
// and why not.
func TestColumns(t *testing.T) {
	t.Parallel()
	uses := map[string]string{
		"IPAddressPool": "Assigned", "L2Advertisement": "Services", "BGPAdvertisement": "Services", "BGPPeer": "Up",
		"Community": "Advertisements", "BFDProfile": "Peers", "IPReservation": "Addresses", "NodeState": "Owned",
	}
	for _, definition := range crds(t) {
		kind := definition.Spec.Names.Kind
		want := []string{"Accepted", "Reason", uses[kind]}
		if kind == "NodeState" { // nobody writes it but a speaker
			want[0] = "Ready"
		}
		var columns []string
		for _, column := range definition.Spec.Versions[0].AdditionalPrinterColumns {
			columns = append(columns, column.Name)
		}
		for _, name := range want {
			if !slices.Contains(columns, name) {
				t.Errorf("%s has no column %q: %q", kind, name, columns)
			}
		}
	}
}
