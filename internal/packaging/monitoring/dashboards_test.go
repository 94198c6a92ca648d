package monitoring

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is what is looked at of one.
type dashboard struct {
	UID        string `json:"uid"`
	Title      string `json:"title"`
	Templating struct {
		List []struct {
			Name string `json:"name"`
			Type string `json:"type"`
			// Query is a string or an object with one.
			Query json.RawMessage `json:"query"`
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		RefID        string `json:"refId"`
		Expr         string `json:"expr"`
		LegendFormat string `json:"legendFormat"`
	} `json:"targets"`
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	paths, err := filepath.Glob(root + "/config/monitoring/dashboards/*.json")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]dashboard{}
	for _, path := range paths {
		var d dashboard
		name := filepath.Base(path)
		if err := json.Unmarshal([]byte(read(t, "config/monitoring/dashboards/"+name)), &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = d
	}
	if len(all) != 2 || all["overview.json"].UID == "" || all["overview.json"].UID == all["node.json"].UID {
		t.Fatalf("dashboards: %v", paths)
	}
	return all
}

var (
	labelValues = regexp.MustCompile(`label_values\((\w+), (\w+)\)`)
	legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)
	variable    = regexp.MustCompile(`\$\{?(\w+)`)
)

func TestDashboards(t *testing.T) {
	t.Parallel()
	metrics := listed(t)
	for name, d := range dashboards(t) {
		variables := []string{"__rate_interval"}
		for _, v := range d.Templating.List {
			variables = append(variables, v.Name)
			if v.Type != "query" {
				continue
			}
			match := labelValues.FindStringSubmatch(string(v.Query))
			if match == nil {
				t.Errorf("%s: the variable %s is %s", name, v.Name, v.Query)
				continue
			}
			checkExpression(t, name+": $"+v.Name, "sum by ("+match[2]+") ("+match[1]+")", metrics)
		}
		for _, p := range d.Panels {
			where := name + ": " + p.Title
			if p.Type == "row" {
				continue
			}
			if p.Title == "" || p.Description == "" || len(p.Targets) == 0 {
				t.Errorf("%s lacks a title, a description or an expression", where)
			}
			for _, target := range p.Targets {
				for _, used := range variable.FindAllStringSubmatch(target.Expr, -1) {
					if !slices.Contains(variables, used[1]) {
						t.Errorf("%s uses $%s, which is not there", where, used[1])
					}
				}
				expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
				checkExpression(t, where, expr, metrics)
				for _, used := range legendLabel.FindAllStringSubmatch(target.LegendFormat, -1) {
					checkExpression(t, where+", its legend", "sum by ("+used[1]+") ("+expr+")", metrics)
				}
			}
		}
		checkLayout(t, name, d.Panels)
	}
}

// checkLayout fails the test if panels share an id or a place.
func checkLayout(t *testing.T, name string, panels []panel) {
	t.Helper()
	for i, a := range panels {
		if a.GridPos.W <= 0 || a.GridPos.H <= 0 || a.GridPos.X+a.GridPos.W > 24 {
			t.Errorf("%s: %q is at %+v", name, a.Title, a.GridPos)
		}
		for _, b := range panels[:i] {
			apart := a.GridPos.X+a.GridPos.W <= b.GridPos.X || b.GridPos.X+b.GridPos.W <= a.GridPos.X ||
				a.GridPos.Y+a.GridPos.H <= b.GridPos.Y || b.GridPos.Y+b.GridPos.H <= a.GridPos.Y
			if a.ID == b.ID || !apart {
				t.Errorf("%s: %q and %q have the same id or overlap", name, a.Title, b.Title)
			}
		}
	}
}

// What is wrong in an expression is found.
func TestProblemsOf(t *testing.T) {
	t.Parallel()
	metrics := map[string]metric{
		"berth_up":               {name: "berth_up", kind: "gauge", labels: []string{"peer"}},
		"berth_duration_seconds": {name: "berth_duration_seconds", kind: "histogram"},
	}
	for expr, bad := range map[string]bool{
		`sum by (peer, node) (berth_up{peer="a",instance="b"}) + up`:                     false,
		`histogram_quantile(0.9, sum by (le) (rate(berth_duration_seconds_bucket[5m])))`: false,
		`sum by (peer (berth_up)`:                          true,
		`berth_down`:                                       true,
		`berth_up{kind="a"}`:                               true,
		`sum by (kind) (berth_up)`:                         true,
		`berth_up and on (kind) berth_up`:                  true,
		`berth_duration_seconds`:                           true,
		`berth_up_bucket`:                                  true,
		`max(berth_up{peer="a"} / on (peer) berth_up) > 1`: false,
		`berth_duration_seconds_count{peer="a"}`:           true,
	} {
		if found := problemsOf(expr, metrics); (len(found) > 0) != bad {
			t.Errorf("%s: %q, want some: %v", expr, found, bad)
		}
	}
}
