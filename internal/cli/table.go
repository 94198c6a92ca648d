package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// State says how something is doing. Tables show it as a colour.
type State string

// The states, from the best to the worst.
const (
	StateOK State = "OK"
	// StateUnknown: what it depends on could not be read.
	StateUnknown State = "Unknown"
	// StateWarning: it works, but not for long or not in full.
	StateWarning State = "Warning"
	StateError   State = "Error"
)

func (s State) rank() int {
	return strings.Index("OK      Unknown Warning Error", string(s))
}

func worse(a, b State) State {
	if b.rank() > a.rank() {
		return b
	}
	return a
}

// Printer writes text for people.
type Printer struct {
	out    io.Writer
	colour bool
	wide   bool
	err    error
}

// NewPrinter returns what writes to out: in colours, and with all columns of
// tables, if asked to.
func NewPrinter(out io.Writer, colour, wide bool) *Printer {
	return &Printer{out: out, colour: colour, wide: wide}
}

func (p *Printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

// paint colours a text as SGR sequences do (ECMA-48).
func (p *Printer) paint(state State, text string) string {
	code := map[State]string{StateOK: "32", StateWarning: "33", StateUnknown: "33", StateError: "31"}[state]
	if !p.colour || code == "" || strings.TrimSpace(text) == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// column of a table. Those that are wide are left out unless asked for.
type column struct {
	name string
	wide bool
}

// cell of a table.
type cell struct {
	text  string
	state State
}

func plain(text string) cell { return cell{text: text} }

type table struct {
	columns []column
	rows    [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// print writes the table as kubectl does: columns aligned, three spaces apart.
func (t *table) print(p *Printer) {
	widths := make([]int, len(t.columns))
	shown := make([]int, 0, len(t.columns))
	for i, c := range t.columns {
		if c.wide && !p.wide {
			continue
		}
		shown = append(shown, i)
		widths[i] = utf8.RuneCountInString(c.name)
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(shownText(row[i])))
		}
	}
	line := func(text func(i int) (string, State)) {
		for n, i := range shown {
			s, state := text(i)
			pad := ""
			if n < len(shown)-1 {
				pad = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(s)+3)
			}
			p.printf("%s%s", p.paint(state, s), pad)
		}
		p.printf("\n")
	}
	line(func(i int) (string, State) { return t.columns[i].name, "" })
	for _, row := range t.rows {
		line(func(i int) (string, State) { return shownText(row[i]), row[i].state })
	}
}

func shownText(c cell) string {
	if c.text == "" {
		return "-"
	}
	return c.text
}

// plural renders "1 node", "2 nodes".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// few joins texts, leaving out those beyond the first few.
func few(texts []string, most int) string {
	if more := len(texts) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(texts[:most], ", "), more)
	}
	return strings.Join(texts, ", ")
}

func (p *Printer) bold(text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[1m" + text + "\x1b[0m"
}

// mark is the sign of a state at the beginning of a line.
func (p *Printer) mark(state State) string {
	sign := map[State]string{StateOK: "ok  ", StateUnknown: "?   ", StateWarning: "warn", StateError: "FAIL"}[state]
	if sign == "" {
		sign = "    "
	}
	return p.paint(state, sign)
}
