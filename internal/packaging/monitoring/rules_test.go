package monitoring

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// ruleFile is what there is in a file of rules.
type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			For         string            `json:"for"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

func rules(t *testing.T) ruleFile {
	t.Helper()
	var file ruleFile
	if err := yaml.UnmarshalStrict([]byte(read(t, "config/monitoring/rules.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRules(t *testing.T) {
	t.Parallel()
	metrics, tests, runbooks := listed(t), read(t, "internal/packaging/monitoring/testdata/alerts.yaml"), read(t, "docs/runbooks.md")
	for _, group := range rules(t).Groups {
		for _, rule := range group.Rules {
			checkExpression(t, rule.Alert, rule.Expr, metrics)
			if !strings.HasPrefix(rule.Alert, "Berth") || rule.For == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s lacks its name, its for, a summary or a description", rule.Alert)
			}
			if severity := rule.Labels["severity"]; severity != "warning" && severity != "critical" {
				t.Errorf("%s has the severity %q", rule.Alert, severity)
			}
			_, anchor, _ := strings.Cut(rule.Annotations["runbook_url"], "/docs/runbooks.md#")
			if anchor != strings.ToLower(rule.Alert) {
				t.Errorf("the runbook of %s is %q", rule.Alert, rule.Annotations["runbook_url"])
			}
			checkRunbook(t, rule.Alert, runbooks)
			if !regexp.MustCompile(`(alertname="` + rule.Alert + `",alertstate="firing",.*value: 1|alertname: ` + rule.Alert + `\n    exp_alerts:\n    - )`).MatchString(tests) {
				t.Errorf("no test has %s fire", rule.Alert)
			}
		}
	}
}

// checkRunbook fails the test unless the runbook of an alert says what it has to.
func checkRunbook(t *testing.T, alert, runbooks string) {
	t.Helper()
	_, section, found := strings.Cut(runbooks, "\n## "+alert+"\n")
	if !found {
		t.Errorf("docs/runbooks.md has no section %s", alert)
		return
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, part := range []string{"**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Remedy.**"} {
		if !strings.Contains(section, part) {
			t.Errorf("the runbook of %s lacks %s", alert, part)
		}
	}
	if !strings.Contains(section, "kubectl ") {
		t.Errorf("the runbook of %s names no command", alert)
	}
}

// Every section is an alert's.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	content := read(t, "config/monitoring/rules.yaml")
	for line := range strings.Lines(read(t, "docs/runbooks.md")) {
		if alert, found := strings.CutPrefix(strings.TrimSpace(line), "## "); found && !strings.Contains(content, "alert: "+alert+"\n") {
			t.Errorf("docs/runbooks.md is about %s, which is no alert", alert)
		}
	}
}

func TestAlertsFire(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"check", "rules", root + "/config/monitoring/rules.yaml"},
		{"test", "rules", "testdata/alerts.yaml"},
	} {
		if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
