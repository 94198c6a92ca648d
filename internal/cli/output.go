package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"
)

// Format is how a report is written.
type Format string

// The formats.
const (
	FormatTable Format = "table"
	FormatWide  Format = "wide"
	FormatJSON  Format = "json"
	FormatYAML  Format = "yaml"
)

// Formats are all formats.
func Formats() []string {
	return []string{string(FormatTable), string(FormatWide), string(FormatJSON), string(FormatYAML)}
}

// Report can be written in every format. JSON and YAML have what it marshals to.
type Report interface {
	// text writes the report for people.
	text(p *Printer)
}

// Write writes a report, in colours if that makes sense and is asked for.
func Write(out io.Writer, report Report, format Format, colour bool) error {
	switch format {
	case FormatTable, FormatWide:
		p := NewPrinter(out, colour, format == FormatWide)
		report.text(p)
		return p.err
	case FormatJSON:
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(report)
	case FormatYAML:
		text, err := yaml.Marshal(report)
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	}
	return fmt.Errorf("there is no output format %q; it is one of %v", format, Formats())
}
