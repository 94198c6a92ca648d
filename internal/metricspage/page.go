package metricspage

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
)

// metric is what there is to know about one metric.
type metric struct {
	name, kind, help string
	labels           []string
}

// Command returns the subcommand that writes a program's part of the page.
// register registers all metrics of the program.
func Command(register func(prometheus.Registerer)) *cobra.Command {
	return &cobra.Command{
		Use:    "metrics",
		Short:  "Writes the reference of this program's metrics",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return write(cmd.OutOrStdout(), cmd.Root().Name(), register)
		},
	}
}

// write writes what register registers as a section in Markdown.
func write(w io.Writer, program string, register func(prometheus.Registerer)) error {
	r := recorder{registry: prometheus.NewRegistry()}
	register(&r)
	if r.err != nil {
		return r.err
	}
	slices.SortFunc(r.metrics, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	var text strings.Builder
	fmt.Fprintf(&text, "\n## Of the %s\n\n| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n", program)
	for _, m := range r.metrics {
		labels := make([]string, len(m.labels))
		for i, l := range m.labels {
			labels[i] = "`" + l + "`"
		}
		fmt.Fprintf(&text, "| `%s` | %s | %s | %s | %s |\n", m.name, m.kind, strings.Join(labels, ", "), unitOf(m.name), strings.ReplaceAll(m.help, "|", `\|`))
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// unitOf returns the unit, which by convention is part of the name; without one, a
// metric counts things.
func unitOf(name string) string {
	name = strings.TrimSuffix(name, "_total")
	for _, unit := range []string{"timestamp_seconds", "seconds", "bytes", "ratio"} {
		if strings.HasSuffix(name, "_"+unit) {
			return strings.ReplaceAll(unit, "timestamp_seconds", "seconds since 1970")
		}
	}
	return ""
}

// recorder is a registry that notes what is registered.
type recorder struct {
	registry *prometheus.Registry
	metrics  []metric
	err      error
}

// Register implements prometheus.Registerer.
func (r *recorder) Register(c prometheus.Collector) error {
	if err := r.registry.Register(c); err != nil {
		return err
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		c.Describe(descs)
	}()
	for desc := range descs {
		m, err := parse(desc)
		if err != nil {
			r.err = cmp.Or(r.err, err)
			continue
		}
		m.kind = kindOf(c, m.name)
		r.metrics = append(r.metrics, m)
	}
	return nil
}

// MustRegister implements prometheus.Registerer.
func (r *recorder) MustRegister(collectors ...prometheus.Collector) {
	for _, c := range collectors {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements prometheus.Registerer.
func (r *recorder) Unregister(c prometheus.Collector) bool { return r.registry.Unregister(c) }

// described is how a Desc, which tells nothing otherwise, prints itself.
var described = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"), .*variableLabels: \{(.*)\}\}$`)

func parse(desc *prometheus.Desc) (metric, error) {
	parts := described.FindStringSubmatch(desc.String())
	if parts == nil {
		return metric{}, fmt.Errorf("reading the description of a metric: %s", desc)
	}
	name, err := strconv.Unquote(parts[1])
	if err != nil {
		return metric{}, fmt.Errorf("reading the name of %s: %w", desc, err)
	}
	help, err := strconv.Unquote(parts[2])
	if err != nil {
		return metric{}, fmt.Errorf("reading the help of %s: %w", desc, err)
	}
	m := metric{name: name, help: help}
	if parts[3] != "" {
		m.labels = strings.Split(parts[3], ",")
	}
	return m, nil
}

// kindOf returns the type of a metric. Of a function, and of what a collector of
// ours makes, the name tells; promlint sees to that where it is collected.
func kindOf(c prometheus.Collector, name string) string {
	switch c.(type) {
	case *prometheus.HistogramVec, prometheus.Histogram:
		return "histogram"
	case *prometheus.GaugeVec, prometheus.Gauge:
		return "gauge"
	case *prometheus.CounterVec, prometheus.Counter:
		return "counter"
	}
	if strings.HasSuffix(name, "_total") {
		return "counter"
	}
	return "gauge"
}
