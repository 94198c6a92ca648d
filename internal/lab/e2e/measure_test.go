package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// measurements collect what was measured, over all runs: mostly how long users
// were without service.
type measurements struct {
	mu    sync.Mutex
	names []string
	of    map[string]*measurement
}

// measurement is one row of the table: all results of one kind.
type measurement struct {
	results []int64
	render  func(int64) string
}

// add notes one result of a measurement.
func (m *measurements) add(name string, result time.Duration) {
	m.note(name, int64(result), func(n int64) string { return rounded(time.Duration(n)) })
}

// addBytes notes a result that is an amount of memory.
func (m *measurements) addBytes(name string, bytes int64) {
	m.note(name, bytes, func(n int64) string { return fmt.Sprintf("%d MiB", n>>20) })
}

func (m *measurements) note(name string, result int64, render func(int64) string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[string]*measurement{}
	}
	if m.of[name] == nil {
		m.of[name] = &measurement{render: render}
		m.names = append(m.names, name)
	}
	m.of[name].results = append(m.of[name].results, result)
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
		render, all := m.of[name].render, slices.Clone(m.of[name].results)
		slices.Sort(all)
		fmt.Fprintf(&b, "%-64s %5d %9s %9s\n", name, len(all), render(median(all)), render(all[len(all)-1]))
	}
	return b.String()
}

// median of results in ascending order.
func median(sorted []int64) int64 {
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func rounded(d time.Duration) string { return d.Round(time.Millisecond).String() }
