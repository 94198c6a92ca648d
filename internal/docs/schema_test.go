package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func definitions(t *testing.T) []Definition {
	t.Helper()
	all, err := Definitions(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 8 {
		t.Fatalf("only %d custom resource definitions found", len(all))
	}
	return all
}

// quantity is how a description says what a number counts or is measured in.
var quantity = regexp.MustCompile(`(?i)how many|number|\bAS\b|milliseconds|seconds|length|weight|priority|port|TTL|LOCAL_PREF|MULTI_EXIT_DISC|generation|hops`)

// TestFieldsAreExplained: kubectl explain has something to say about every field, and
// of a number it says what it counts or what unit it has.
func TestFieldsAreExplained(t *testing.T) {
	t.Parallel()
	for _, definition := range definitions(t) {
		if definition.Schema.Description == "" {
			t.Errorf("%s has no description", definition.Kind)
		}
		definition.Schema.walk(definition.Kind, func(path string, field *Schema) bool {
			switch {
			case strings.HasSuffix(path, ".metadata"): // kubectl has its own words for that
			case len(strings.TrimSpace(field.Description)) < 8:
				t.Errorf("%s has no description", path)
			case field.Type == "integer" && !quantity.MatchString(field.Description):
				t.Errorf("%s is a number, and its description does not say of what: %s", path, field.Description)
			}
			return true
		})
	}
}

// TestColumns: kubectl get says of every kind that users write whether it is in force
// and why not.
func TestColumns(t *testing.T) {
	t.Parallel()
	uses := map[string]string{
		"IPAddressPool": "Assigned", "L2Advertisement": "Services", "BGPAdvertisement": "Services", "BGPPeer": "Up",
		"Community": "Advertisements", "BFDProfile": "Peers", "IPReservation": "Addresses", "NodeState": "Owned",
	}
	for _, definition := range definitions(t) {
		kind := definition.Kind
		want := []string{"Accepted", "Reason", uses[kind]}
		if kind == "NodeState" { // nobody writes it but a speaker
			want[0] = "Ready"
		}
		for _, name := range want {
			if !slices.Contains(definition.Columns, name) {
				t.Errorf("%s has no column %q: %q", kind, name, definition.Columns)
			}
		}
	}
}
