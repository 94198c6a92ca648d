package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// directOf returns what a module requires itself: modules, and those of its tools that
// are not in one of these.
func directOf(t *testing.T, file string) []string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	listed, section := map[string][]string{}, ""
	for line := range strings.SplitSeq(string(content), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasSuffix(line, "// indirect"):
		case words[0] == ")":
			section = ""
		case len(words) == 2 && words[1] == "(":
			section = words[0]
		case section != "":
			listed[section] = append(listed[section], words[0])
		default:
			listed[words[0]] = append(listed[words[0]], words[1])
		}
	}
	direct := listed["require"]
	for _, tool := range listed["tool"] {
		if !slices.ContainsFunc(direct, func(module string) bool { return strings.HasPrefix(tool, module+"/") }) {
			direct = append(direct, tool)
		}
	}
	return direct
}

// TestDependencies: docs/dependencies.md says of each direct dependency of each module
// why it is there, in a table below the path of its go.mod, and of nothing else.
func TestDependencies(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(root, "docs/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("^\\| `([^`]+)` \\| (.+) \\|$")
	listed, file := map[string][]string{}, ""
	for line := range strings.SplitSeq(string(content), "\n") {
		if title, found := strings.CutPrefix(line, "## "); found {
			file = strings.Trim(title[strings.LastIndex(title, " ")+1:], "`()")
		}
		if match := row.FindStringSubmatch(line); match != nil {
			listed[file] = append(listed[file], match[1])
		}
	}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "go.mod" {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		direct := directOf(t, path)
		for _, module := range direct {
			if !slices.Contains(listed[name], module) {
				t.Errorf("docs/dependencies.md has no line for %s of %s", module, name)
			}
		}
		for _, module := range listed[name] {
			if !slices.Contains(direct, module) {
				t.Errorf("docs/dependencies.md has a line for %s, which %s does not require", module, name)
			}
		}
		delete(listed, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range listed {
		t.Errorf("docs/dependencies.md has a table for %s, which is not there", name)
	}
}
