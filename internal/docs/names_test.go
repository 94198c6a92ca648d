package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ourName has Berth's names of annotations and the like, and not those of objects as
// kubectl prints them ("ipaddresspool.berth.dev/default").
var ourName = regexp.MustCompile(`(?:^|[^.\w])(berth\.dev/[A-Za-z][\w-]*)`)

// namesIn returns Berth's names in a text.
func namesIn(text string) []string {
	var names []string
	for _, match := range ourName.FindAllStringSubmatch(text, -1) {
		names = append(names, strings.TrimRight(match[1], "-"))
	}
	return names
}

// TestNames: every annotation, label and condition of Berth's that a page names is one
// that the sources know.
func TestNames(t *testing.T) {
	t.Parallel()
	known := namesInSources(t)
	for _, page := range pages(t) {
		content, err := os.ReadFile(filepath.Join(root, page.Path))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range namesIn(string(content)) {
			if !known[name] {
				t.Errorf("%s: no annotation, label or condition %s", page.Path, name)
			}
		}
	}
}

// namesInSources returns those of the product's sources and manifests.
func namesInSources(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, folder := range []string{"api", "controller", "speaker", "internal", "cmd", "config"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") || filepath.Ext(path) != ".go" && filepath.Ext(path) != ".yaml" {
				return err
			}
			content, err := os.ReadFile(path)
			for _, name := range namesIn(string(content)) {
				found[name] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}
