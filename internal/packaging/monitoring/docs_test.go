package monitoring

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	mentioned = regexp.MustCompile(`\bberth_[a-z0-9_]+\b(\*?)`)
	command   = regexp.MustCompile("kubectl berth ([a-z]+)")
)

// The documentation names only metrics that there are; with an asterisk it names
// all that begin so.
func TestDocsNameMetrics(t *testing.T) {
	t.Parallel()
	metrics := listed(t)
	paths, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(paths) < 10 {
		t.Fatalf("docs: %v (error %v)", paths, err)
	}
	for _, path := range paths {
		page := "docs/" + filepath.Base(path)
		for _, match := range mentioned.FindAllStringSubmatch(read(t, page), -1) {
			_, found := lookUp(match[0], metrics)
			prefix := strings.TrimSuffix(match[0], "*")
			for name := range metrics {
				found = found || match[0] == name || match[1] != "" && strings.HasPrefix(name, prefix)
			}
			if !found {
				t.Errorf("%s names %s, which is no metric", page, match[0])
			}
		}
	}
}

// Runbooks use only commands that the plugin has.
func TestRunbooksNameCommands(t *testing.T) {
	t.Parallel()
	reference := read(t, "docs/kubectl.md")
	for _, match := range command.FindAllStringSubmatch(read(t, "docs/runbooks.md"), -1) {
		if !regexp.MustCompile("\\| .*`" + match[1] + "[ `]").MatchString(reference) {
			t.Errorf("docs/runbooks.md uses %s, which docs/kubectl.md does not have", match[0])
		}
	}
}
