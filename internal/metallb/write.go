package metallb

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// Resource is the name of the object's kind in the API, such as bgppeers.
func (o *Object) Resource() string {
	plural, _ := meta.UnsafeGuessKindToResource(o.kind())
	return plural.Resource
}

func (o *Object) kind() schema.GroupVersionKind {
	object, _ := o.Object.(runtime.Object)
	return object.GetObjectKind().GroupVersionKind()
}

// WriteYAML writes objects for kubectl apply, each with what there is to say about
// it as a comment.
func WriteYAML(to io.Writer, objects []*Object) error {
	for i, o := range objects {
		if i > 0 {
			if _, err := io.WriteString(to, "---\n"); err != nil {
				return err
			}
		}
		content, err := manifest(o.Object)
		if err != nil {
			return err
		}
		text, err := yaml.Marshal(content)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(to, "%s%s", comment(o), text); err != nil {
			return err
		}
	}
	return nil
}

func comment(o *Object) string {
	lines := append([]string{"From " + o.From}, o.Remarks...)
	for i, line := range lines[1:] {
		lines[i+1] = "- " + line
	}
	return "# " + strings.ReplaceAll(strings.Join(lines, "\n"), "\n", "\n# ") + "\n"
}

// WriteJSON writes objects as one List.
func WriteJSON(to io.Writer, objects []*Object) error {
	items := []any{}
	for _, o := range objects {
		content, err := manifest(o.Object)
		if err != nil {
			return err
		}
		items = append(items, content)
	}
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
}

// manifest is an object without what the API server fills in.
func manifest(object metav1.Object) (map[string]any, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	return content, nil
}
