package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// measurements collect how long users were without service, over all runs.
type measurements struct {
	mu    sync.Mutex
	names []string
	of    map[string][]time.Duration
}

// add notes one result of a measurement.
func (m *measurements) add(name string, result time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[string][]time.Duration{}
	}
	if _, known := m.of[name]; !known {
		m.names = append(m.names, name)
	}
	m.of[name] = append(m.of[name], result)
}

// table renders everything that was measured, or nothing if nothing was.
func (m *measurements) table() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.names) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-64s %5s %9s %9s\n", "measured", "runs", "median", "maximum")
	for _, name := range m.names {
		all := slices.Clone(m.of[name])
		slices.Sort(all)
		fmt.Fprintf(&b, "%-64s %5d %9s %9s\n", name, len(all), rounded(median(all)), rounded(all[len(all)-1]))
	}
	return b.String()
}

// median of durations in ascending order.
func median(sorted []time.Duration) time.Duration {
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func rounded(d time.Duration) string { return d.Round(time.Millisecond).String() }
