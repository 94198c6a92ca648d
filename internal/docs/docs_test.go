package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func pages(t *testing.T) []*Page {
	t.Helper()
	all, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d pages found", len(all))
	}
	return all
}

// exists says whether a path from the root of the repository is there.
func exists(path string) bool {
	_, err := os.Stat(filepath.Join(root, path))
	return err == nil
}

// mention is what a page says, and where.
type mention struct{ where, text string }

// mentions are the lines of all blocks of code of all pages and what they say
// between backticks, without the objects.
func mentions(t *testing.T) []mention {
	t.Helper()
	var all []mention
	for _, page := range pages(t) {
		for _, span := range page.Code() {
			all = append(all, mention{fmt.Sprintf("%s:%d", page.Path, span.Line), span.Text})
		}
		for _, block := range page.Blocks {
			if slices.Contains([]string{"yaml", "json", "mermaid", "text"}, block.Language) {
				continue
			}
			for i, line := range strings.Split(block.Text, "\n") {
				line, _, _ = strings.Cut(strings.TrimPrefix(line, "$ "), " #")
				all = append(all, mention{fmt.Sprintf("%s:%d", page.Path, block.Line+i), line})
			}
		}
	}
	return all
}

// TestLinks: every link leads to a file and a heading that are there.
func TestLinks(t *testing.T) {
	t.Parallel()
	anchors := map[string][]string{}
	for _, page := range pages(t) {
		anchors[page.Path] = page.Anchors()
	}
	for _, page := range pages(t) {
		for _, link := range page.Links() {
			if strings.Contains(link.Text, "://") {
				continue
			}
			target, anchor, _ := strings.Cut(link.Text, "#")
			path := page.Path
			if target != "" {
				path = filepath.ToSlash(filepath.Join(filepath.Dir(page.Path), target))
			}
			switch {
			case !exists(path):
				t.Errorf("%s:%d: the link to %s leads to no file", page.Path, link.Line, link.Text)
			case anchor != "" && !slices.Contains(anchors[path], anchor):
				t.Errorf("%s:%d: the link to %s leads to no heading of %s", page.Path, link.Line, link.Text, path)
			}
		}
	}
}

// TestIndex: docs/README.md leads to every page below docs.
func TestIndex(t *testing.T) {
	t.Parallel()
	var listed []string
	all := pages(t)
	for _, page := range all {
		if page.Path != "docs/README.md" {
			continue
		}
		for _, link := range page.Links() {
			target, _, _ := strings.Cut(link.Text, "#")
			listed = append(listed, filepath.ToSlash(filepath.Join("docs", target)))
		}
	}
	for _, page := range all {
		if strings.HasPrefix(page.Path, "docs/") && page.Path != "docs/README.md" && !slices.Contains(listed, page.Path) {
			t.Errorf("docs/README.md has no link to %s", page.Path)
		}
	}
}

// folders of the repository that a path in the text may begin with.
var repositoryPath = regexp.MustCompile(`(^|[\s(=:])((?:\./)?(?:api|config|controller|speaker|cmd|deploy|docs|internal|bin|\.ci)/[\w./-]*)`)

// TestPaths: every file of the repository that a page names is there.
func TestPaths(t *testing.T) {
	t.Parallel()
	made := makeTargets(t)
	folders := []string{"bin/images", "bin/lab-images", "bin/plugin"} // which make fills
	for _, m := range mentions(t) {
		if program, _ := programOf(m.text); program == "kubectl" && !strings.Contains(m.text, " -f ") && !strings.Contains(m.text, " -k ") {
			continue // deploy/controller is a Deployment there
		}
		for _, match := range repositoryPath.FindAllStringSubmatch(m.text, -1) {
			path := strings.TrimRight(strings.TrimPrefix(match[2], "./"), "./")
			inText := strings.Index(m.text, match[2]) + len(match[2])
			if rest := m.text[inText:]; rest != "" && strings.ContainsAny(rest[:1], "*<{$…") {
				continue
			}
			built := slices.ContainsFunc(made, func(target string) bool { return path == target }) ||
				slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(path, folder) })
			if !exists(path) && !built {
				t.Errorf("%s: %s is not there", m.where, path)
			}
		}
	}
}

var (
	rule    = regexp.MustCompile(`(?m)^((?:[\w./-]+ ?)+):(?:[^=]|$)`)
	product = regexp.MustCompile(`(?m)^(?:PRODUCT|LAB) := (.*)$`)
	making  = regexp.MustCompile(`\bmake((?: +[\w./=|'*-]+)*)`)
)

func makeTargets(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, match := range slices.Concat(rule.FindAllStringSubmatch(string(content), -1), product.FindAllStringSubmatch(string(content), -1)) {
		targets = append(targets, strings.Fields(match[1])...)
	}
	return targets
}

// TestMakeTargets: what a page says to make, the Makefile makes.
func TestMakeTargets(t *testing.T) {
	t.Parallel()
	targets := makeTargets(t)
	for _, m := range mentions(t) {
		for _, match := range making.FindAllStringSubmatch(m.text, -1) {
			for _, word := range strings.Fields(match[1]) {
				if strings.ContainsAny(word, "=|'*") || strings.HasPrefix(word, "-") {
					continue
				}
				if !slices.Contains(targets, word) {
					t.Errorf("%s: the Makefile makes no %s", m.where, word)
				}
			}
		}
	}
}
