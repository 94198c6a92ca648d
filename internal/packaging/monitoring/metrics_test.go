package monitoring

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/promql/parser"
)

const root = "../../.."

// metric is a row of the generated page.
type metric struct {
	name, kind, help string
	labels           []string
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(root + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

var (
	row   = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([a-z]+) \\| (.*?) \\| [a-z0-9 ]* \\| (.*) \\|$")
	label = regexp.MustCompile("`([a-z0-9_]+)`")
)

// listed returns the metrics that the page lists.
func listed(t *testing.T) map[string]metric {
	t.Helper()
	all := map[string]metric{}
	for _, match := range row.FindAllStringSubmatch(read(t, "docs/metrics.md"), -1) {
		m := metric{name: match[1], kind: match[2], help: match[4]}
		for _, l := range label.FindAllStringSubmatch(match[3], -1) {
			m.labels = append(m.labels, l[1])
		}
		if other, found := all[m.name]; found && (m.kind != other.kind || !slices.Equal(m.labels, other.labels)) {
			t.Errorf("the two programs have different metrics of the name %s", m.name)
		}
		all[m.name] = m
	}
	if len(all) < 50 {
		t.Fatalf("docs/metrics.md lists only %d metrics", len(all))
	}
	return all
}

func TestConventions(t *testing.T) {
	t.Parallel()
	kinds := map[string]dto.MetricType{"counter": dto.MetricType_COUNTER, "gauge": dto.MetricType_GAUGE, "histogram": dto.MetricType_HISTOGRAM}
	var families []*dto.MetricFamily
	for _, m := range listed(t) {
		kind, known := kinds[m.kind]
		if !known {
			t.Errorf("%s is a %s", m.name, m.kind)
		}
		if !strings.HasPrefix(m.name, "berth_") || !strings.HasSuffix(m.help, ".") {
			t.Errorf("%s: %q: names begin with berth_, and help is a sentence", m.name, m.help)
		}
		example := &dto.Metric{}
		for _, l := range m.labels {
			example.Label = append(example.Label, &dto.LabelPair{Name: &l, Value: new(string)})
		}
		families = append(families, &dto.MetricFamily{Name: &m.name, Help: &m.help, Type: &kind, Metric: []*dto.Metric{example}})
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// targetLabels are those that Prometheus gives to all series of a target.
var targetLabels = []string{"instance", "job", "namespace", "pod", "container", "node"}

// foreign are metrics of others: of Go's runtime, of the process, of Prometheus.
var foreign = regexp.MustCompile(`^(go_|process_|up$)`)

// checkExpression fails the test unless a PromQL expression is in order.
func checkExpression(t *testing.T, where, text string, metrics map[string]metric) {
	t.Helper()
	for _, problem := range problemsOf(text, metrics) {
		t.Errorf("%s: %s: %s", where, text, problem)
	}
}

// problemsOf parses a PromQL expression and says which of its metrics and labels
// there are not.
func problemsOf(text string, metrics map[string]metric) []string {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	has := slices.Clone(targetLabels)
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		m, found := lookUp(selector.Name, metrics)
		if !found {
			problems = append(problems, "there is no metric "+selector.Name)
		}
		for _, matcher := range selector.LabelMatchers {
			if matcher.Name != "__name__" && !slices.Contains(append(m.labels, targetLabels...), matcher.Name) {
				problems = append(problems, selector.Name+" has no label "+matcher.Name)
			}
		}
		has = append(has, m.labels...)
		return nil
	})
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		for _, name := range groupedBy(node) {
			if !slices.Contains(has, name) {
				problems = append(problems, "no metric in it has the label "+name)
			}
		}
		return nil
	})
	return problems
}

// groupedBy returns the labels by which a node of an expression groups or matches.
func groupedBy(node parser.Node) []string {
	switch n := node.(type) {
	case *parser.AggregateExpr:
		return n.Grouping
	case *parser.BinaryExpr:
		if n.VectorMatching != nil {
			return append(slices.Clone(n.VectorMatching.MatchingLabels), n.VectorMatching.Include...)
		}
	}
	return nil
}

// lookUp returns the metric that a series belongs to.
func lookUp(series string, metrics map[string]metric) (metric, bool) {
	if m, found := metrics[series]; found && m.kind != "histogram" {
		return m, true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if m, found := metrics[strings.TrimSuffix(series, suffix)]; found && m.kind == "histogram" && strings.HasSuffix(series, suffix) {
			m.labels = append(slices.Clone(m.labels), "le")
			return m, true
		}
	}
	return metric{}, foreign.MatchString(series)
}
