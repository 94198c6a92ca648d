package docs

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const referenceHead = `# API reference

<!-- Made from config/crd by "make generate"; do not edit. -->

The custom resources of the group berth.dev, version v1beta1. All are cluster-scoped. ` + "`kubectl explain KIND.spec`" + ` tells the same.
What [compatibility](compatibility.md) promises holds for everything on this page.

A field in **bold** has to be given. "[]" stands for each entry of a list.
`

// selectorFields are what a schema consists of that is a label selector.
var selectorFields = []string{"matchExpressions", "matchLabels"}

const referenceTail = `
## Label selectors

` + "`matchLabels`" + ` are labels that an object must have, with these values; ` + "`matchExpressions`" + ` are requirements, each with ` + "`key`, `operator`" + ` (In, NotIn,
Exists or DoesNotExist) and ` + "`values`" + `. All of both have to be met; an empty selector matches everything.

## Conditions

` + "`type`, `status`, `reason`, `message`, `observedGeneration` and `lastTransitionTime`" + `, as all of Kubernetes has them.
`

// Reference renders the definitions as a page.
func Reference(definitions []Definition) string {
	var page strings.Builder
	page.WriteString(referenceHead)
	for _, d := range definitions {
		page.WriteString("\n## " + d.Kind + "\n\n" + oneLine(d.Schema.Description) + "\n\n")
		names := append([]string{d.Plural}, d.ShortNames...)
		fmt.Fprintf(&page, "`kubectl get %s` shows %s", strings.Join(names, "` or `"), strings.Join(d.Columns, ", "))
		if len(d.Wide) > 0 {
			fmt.Fprintf(&page, "; with `-o wide` also %s", strings.Join(d.Wide, ", "))
		}
		page.WriteString(".\n")
		for _, part := range []string{"spec", "status"} {
			if schema, has := d.Schema.Properties[part]; has {
				writePart(&page, part, &schema)
			}
		}
	}
	page.WriteString(referenceTail)
	return page.String()
}

// writePart writes the table of a spec or a status, and what the API server checks of
// it as a whole.
func writePart(page *strings.Builder, name string, part *Schema) {
	fmt.Fprintf(page, "\n| %s | type | |\n|---|---|---|\n", name)
	requires := map[string]bool{}
	noteRequired(requires, "", part)
	part.walk("", func(path string, field *Schema) bool {
		path = strings.TrimPrefix(path, ".")
		cell := "`" + path + "`"
		if requires[path] {
			cell = "**" + cell + "**"
		}
		fmt.Fprintf(page, "| %s | %s | %s |\n", cell, typeOf(field), strings.ReplaceAll(explain(path, field), "|", `\|`))
		into := !isSelector(field) && (field.Items == nil || !isSelector(field.Items)) && !isConditions(path)
		if into {
			noteRequired(requires, path, field)
		}
		return into
	})
	if len(part.Rules) > 0 {
		page.WriteString("\nBeyond that the API server demands:\n\n")
		for _, rule := range part.Rules {
			fmt.Fprintf(page, "- %s\n", ruleText(rule))
		}
	}
}

// noteRequired notes the paths of the fields below path that have to be given.
func noteRequired(requires map[string]bool, path string, field *Schema) {
	for _, name := range field.Required {
		requires[strings.TrimPrefix(path+"."+name, ".")] = true
	}
	if field.Items != nil {
		noteRequired(requires, path+"[]", field.Items)
	}
}

// typeOf names the type of a field: "list of strings".
func typeOf(field *Schema) string {
	switch {
	case isSelector(field):
		return "[label selector](#label-selectors)"
	case field.Items != nil && isSelector(field.Items):
		return "list of [label selectors](#label-selectors)"
	case field.Items != nil:
		return "list of " + field.Items.Type + "s"
	case field.AdditionalProperties != nil:
		return "map of " + field.AdditionalProperties.Type + "s"
	case field.Format == "date-time":
		return "time"
	}
	return field.Type
}

func isSelector(field *Schema) bool {
	if len(field.Properties) != len(selectorFields) {
		return false
	}
	return !slices.ContainsFunc(selectorFields, func(name string) bool { _, has := field.Properties[name]; return !has })
}

func isConditions(path string) bool { return path == "conditions" }

// explain renders what there is to say about a field.
func explain(path string, field *Schema) string {
	sentences := []string{oneLine(field.Description)}
	if isConditions(path) {
		sentences = append(sentences, "See [conditions](#conditions).")
	}
	if field.Default != nil {
		text, err := json.Marshal(field.Default)
		if err == nil {
			sentences = append(sentences, "Default: `"+strings.Trim(string(text), `"`)+"`.")
		}
	}
	bounded := field
	if field.Items != nil {
		bounded = field.Items
		if text := between(field.MinItems, field.MaxItems); text != "" {
			sentences = append(sentences, text+" entries.")
		}
	}
	if len(bounded.Enum) > 0 {
		var values []string
		for _, value := range bounded.Enum {
			values = append(values, fmt.Sprintf("`%v`", value))
		}
		sentences = append(sentences, "One of "+strings.Join(values, ", ")+".")
	}
	if text := between(bounded.Minimum, bounded.Maximum); text != "" {
		sentences = append(sentences, text+".")
	}
	for _, rule := range slices.Concat(field.Rules, itemRules(field)) {
		sentences = append(sentences, "*"+ruleText(rule)+".*")
	}
	return strings.Join(sentences, " ")
}

func itemRules(field *Schema) []Rule {
	if field.Items == nil || isSelector(field.Items) {
		return nil
	}
	return field.Items.Rules
}

// ruleText says what a rule is about, and its message.
func ruleText(rule Rule) string {
	if rule.FieldPath == "" {
		return rule.Message
	}
	return "`" + strings.TrimPrefix(rule.FieldPath, ".") + "`: " + rule.Message
}

// between renders bounds: "1 to 64".
func between[N int64 | float64](least, most *N) string {
	text := func(n N) string { return strconv.FormatFloat(float64(n), 'f', -1, 64) }
	switch {
	case least != nil && most != nil:
		return text(*least) + " to " + text(*most)
	case least != nil:
		return "At least " + text(*least)
	case most != nil:
		return "At most " + text(*most)
	}
	return ""
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
