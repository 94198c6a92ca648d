package docs

import (
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// Manifest is an object in YAML.
type Manifest struct {
	// Where it is, such as "docs/bgp.md:12".
	Where      string
	APIVersion string
	Kind       string
	// Whole says that it can be applied; otherwise the name, or more, is ours.
	Whole bool
	// Text is the object in YAML.
	Text string
}

// ourVersion is what the objects have that a block shows only a part of.
const ourVersion = "berth.dev/v1beta1"

// Manifests returns the objects of a block: none if its language is not yaml, or what
// it holds is no object, such as the values of a chart.
func (b Block) Manifests() ([]Manifest, error) {
	if b.Language != "yaml" {
		return nil, nil
	}
	kind := ""
	for _, word := range b.Words {
		if name, found := strings.CutPrefix(word, "kind="); found {
			kind = name
		}
	}
	var all []Manifest
	for text := range strings.SplitSeq(b.Text, "\n---\n") {
		m := Manifest{Where: b.Where(), Whole: kind == "", Text: text}
		if kind != "" {
			m.Text = fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: example}\n%s", ourVersion, kind, text)
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err := yaml.Unmarshal([]byte(m.Text), &head); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Where, err)
		}
		m.APIVersion, m.Kind = head.APIVersion, head.Kind
		if m.APIVersion != "" && m.Kind != "" {
			all = append(all, m)
		}
	}
	return all, nil
}
