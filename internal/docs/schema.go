package docs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"
)

// Definition is a custom resource, as its definition has it.
type Definition struct {
	Kind, Plural string
	ShortNames   []string
	// Columns are what kubectl get shows, Wide what it shows with -o wide in addition.
	Columns, Wide []string
	Schema        Schema
}

// Schema is the part of OpenAPI that tells about a field.
type Schema struct {
	Description          string            `json:"description"`
	Type                 string            `json:"type"`
	Format               string            `json:"format"`
	Properties           map[string]Schema `json:"properties"`
	Required             []string          `json:"required"`
	Items                *Schema           `json:"items"`
	AdditionalProperties *Schema           `json:"additionalProperties"`
	Default              any               `json:"default"`
	Enum                 []any             `json:"enum"`
	Minimum              *float64          `json:"minimum"`
	Maximum              *float64          `json:"maximum"`
	MinItems             *int64            `json:"minItems"`
	MaxItems             *int64            `json:"maxItems"`
	MaxLength            *int64            `json:"maxLength"`
	Rules                []Rule            `json:"x-kubernetes-validations"`
}

// Rule is what the API server checks beside types and bounds.
type Rule struct {
	Message   string `json:"message"`
	FieldPath string `json:"fieldPath"`
}

// definitionFile is the part of a CustomResourceDefinition that is read.
type definitionFile struct {
	Spec struct {
		Names struct {
			Kind       string   `json:"kind"`
			Plural     string   `json:"plural"`
			ShortNames []string `json:"shortNames"`
		} `json:"names"`
		Versions []struct {
			Columns []struct {
				Name     string `json:"name"`
				Priority int    `json:"priority"`
			} `json:"additionalPrinterColumns"`
			Schema struct {
				Schema Schema `json:"openAPIV3Schema"`
			} `json:"schema"`
		} `json:"versions"`
	} `json:"spec"`
}

// Definitions reads the custom resources of a repository, in the order of their names.
func Definitions(root string) ([]Definition, error) {
	files, err := filepath.Glob(filepath.Join(root, "config/crd/berth.dev_*.yaml"))
	if err != nil {
		return nil, err
	}
	var all []Definition
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var read definitionFile
		if err := yaml.Unmarshal(content, &read); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if len(read.Spec.Versions) != 1 {
			return nil, fmt.Errorf("%s: has %d versions, and one can be shown", file, len(read.Spec.Versions))
		}
		names, version := read.Spec.Names, read.Spec.Versions[0]
		d := Definition{Kind: names.Kind, Plural: names.Plural, ShortNames: names.ShortNames, Schema: version.Schema.Schema}
		for _, column := range version.Columns {
			if column.Priority == 0 {
				d.Columns = append(d.Columns, column.Name)
			} else {
				d.Wide = append(d.Wide, column.Name)
			}
		}
		all = append(all, d)
	}
	return all, nil
}

// walk visits the fields below s by their paths, and those below them where visit says
// so.
func (s *Schema) walk(path string, visit func(path string, field *Schema) (into bool)) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		field := s.Properties[name]
		if visit(path+"."+name, &field) {
			field.walk(path+"."+name, visit)
		}
	}
	if s.Items != nil {
		s.Items.walk(path+"[]", visit)
	}
	if s.AdditionalProperties != nil {
		s.AdditionalProperties.walk(path+"{}", visit)
	}
}
