package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Service{})
	return s
}

const (
	one = "apiVersion: v1\nkind: Service\nmetadata:\n  name: one\n"
	two = `{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "two", "namespace": "shop"}}`
)

func TestRead(t *testing.T) {
	for name, test := range map[string]struct {
		text    string
		sources []string
		err     string
	}{
		"one":             {one, []string{"-, document 1: Service one"}, ""},
		"several":         {one + "---\n# nothing\n---\n" + two + "\n---\n", []string{"-, document 1: Service one", "-, document 3: Service shop/two"}, ""},
		"JSON":            {two + two, []string{"-, document 1: Service shop/two", "-, document 2: Service shop/two"}, ""},
		"a List":          {`{"apiVersion": "v1", "kind": "List", "items": [` + two + `]}`, []string{"-, document 1, items[0]: Service shop/two"}, ""},
		"nothing":         {"", nil, ""},
		"unknown field":   {one + "spec:\n  prots: []\n", nil, `-, document 1: Service one: unknown field "spec.prots"`},
		"a field twice":   {one + "kind: Service\n", nil, `-, document 1: yaml: unmarshal errors:` + "\n" + `  line 5: key "kind" already set in map`},
		"unknown kind":    {strings.Replace(one, "Service", "Pod", 1), nil, "-, document 1: Pod one: kind Pod of v1 does not belong here"},
		"no kind":         {"metadata: {name: x}", nil, "-, document 1: x: is no API object: kind or apiVersion is missing"},
		"no name":         {"apiVersion: v1\nkind: Service\n", nil, "-, document 1: Service: metadata.name is missing"},
		"wrong type":      {one + "spec:\n  ports: 3\n", nil, "-, document 1: Service one: json: cannot unmarshal"},
		"all that is bad": {strings.Replace(one, "Service", "Pod", 1) + "---\n" + one + "spec: {a: 1}\n", nil, "-, document 2: Service one: unknown field"},
		"no object":       {"[1]", nil, "-, document 1: is no API object"},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := Read([]string{Stdin}, strings.NewReader(test.text), scheme())
			var sources []string
			for _, o := range objects {
				sources = append(sources, strings.Replace(o.Source, "standard input", "-", 1))
			}
			if diff := cmp.Diff(test.sources, sources); diff != "" {
				t.Error(diff)
			}
			got := ""
			if err != nil {
				got = strings.ReplaceAll(err.Error(), "standard input", "-")
			}
			if test.err == "" && got != "" || !strings.Contains(got, test.err) {
				t.Errorf("got error %q, want %q", got, test.err)
			}
		})
	}
}

func TestFoldersAndFiles(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{"b.yml": one, "a.json": two, "c.txt": "no", "empty/README": ""} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	objects, err := Read([]string{folder, filepath.Join(folder, "b.yml")}, nil, scheme())
	if err != nil || len(objects) != 3 || objects[0].GetName() != "two" || objects[1].GetName() != "one" {
		t.Errorf("got %v, %v", objects, err)
	}
	if _, err := Read([]string{filepath.Join(folder, "nope.yaml")}, nil, scheme()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := Read([]string{filepath.Join(folder, "empty")}, nil, scheme()); err == nil {
		t.Error("a folder without manifests was accepted")
	}
}
