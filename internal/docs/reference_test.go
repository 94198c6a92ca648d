package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReference: docs/api.md says what the custom resource definitions do.
func TestReference(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(root, "docs/api.md"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Reference(definitions(t)), string(content)); diff != "" {
		t.Errorf("docs/api.md is stale: run 'make generate' (-definitions +page)\n%s", diff)
	}
}

// TestReferenceRow: what the schema of a field says is told.
func TestReferenceRow(t *testing.T) {
	t.Parallel()
	least, most, few := 1.0, 64.0, int64(3)
	selector := Schema{Type: "object", Properties: map[string]Schema{"matchLabels": {}, "matchExpressions": {}}}
	definition := Definition{
		Kind: "Thing", Plural: "things", ShortNames: []string{"thing"}, Columns: []string{"Accepted"}, Wide: []string{"More"},
		Schema: Schema{Description: "Thing is\n  a thing.", Properties: map[string]Schema{"spec": {
			Required: []string{"size"},
			Rules:    []Rule{{Message: "give either size or names", FieldPath: ".size"}},
			Properties: map[string]Schema{
				"size":  {Type: "integer", Description: "size in metres.", Default: 5.0, Minimum: &least, Maximum: &most},
				"names": {Type: "array", Description: "names it has.", MaxItems: &few, Items: &Schema{Type: "string", Enum: []any{"a", "b|c"}}},
				"nodes": {Type: "array", Description: "nodes it is on.", Items: &selector},
			},
		}}},
	}
	page := Reference([]Definition{definition})
	for _, want := range []string{
		"## Thing\n\nThing is a thing.\n\n`kubectl get things` or `thing` shows Accepted; with `-o wide` also More.\n",
		"| **`size`** | integer | size in metres. Default: `5`. 1 to 64. |\n",
		"| `names` | list of strings | names it has. At most 3 entries. One of `a`, `b\\|c`. |\n",
		"| `nodes` | list of [label selectors](#label-selectors) | nodes it is on. |\n",
		"- `size`: give either size or names\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
}
