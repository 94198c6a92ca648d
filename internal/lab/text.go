package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// lastLines quotes the last n lines of a log under its name.
func lastLines(name, content string, n int) string {
	lines := strings.Split(strings.TrimSpace(content), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return fmt.Sprintf("\n  %s is empty", name)
	}
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return fmt.Sprintf("\n  last lines of %s:\n    %s", name, strings.Join(lines, "\n    "))
}

// listOr names the members of a set in alphabetical order, or says fallback when
// there are none.
func listOr(set map[string]bool, fallback string) string {
	if len(set) == 0 {
		return fallback
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}
