package routers

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what is found as what is wanted")

func read(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// golden compares with a file.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", name), got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := read(t, name); string(want) != string(got) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// TestParse reads what FRR 8.4 and BIRD 2.0 have printed.
func TestParse(t *testing.T) {
	t.Parallel()
	for name, parse := range map[string]func([]byte) (any, error){
		"frr-ipv4.json":      func(b []byte) (any, error) { return parseFRRTable(b) },
		"frr-ipv6.json":      func(b []byte) (any, error) { return parseFRRTable(b) },
		"frr-neighbors.json": func(b []byte) (any, error) { return parseFRRSessions(b) },
		"frr-bfd.json":       func(b []byte) (any, error) { return parseFRRBFD(b) },
		"frr-route.json": func(b []byte) (any, error) {
			return parseFRRRoute(b, netip.MustParsePrefix("198.51.100.0/24"))
		},
		"bird-routes.txt":    func(b []byte) (any, error) { return parseBirdTable(b) },
		"bird-protocols.txt": func(b []byte) (any, error) { return parseBirdSessions(b, time.UTC) },
		"bird-bfd.txt":       func(b []byte) (any, error) { return parseBirdBFD(b) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parsed, err := parse(read(t, name))
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(parsed, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".golden", append(got, '\n'))
		})
	}
}

func TestParseNothing(t *testing.T) {
	t.Parallel()
	if table, err := parseFRRTable([]byte(`{"routes":{}}`)); err != nil || len(table) != 0 {
		t.Errorf("FRR: %v, error %v", table, err)
	}
	if paths, err := parseFRRRoute([]byte("{}"), netip.MustParsePrefix("192.0.2.0/24")); err != nil || len(paths) != 0 {
		t.Errorf("FRR: %v, error %v", paths, err)
	}
	if table, err := parseBirdTable([]byte("BIRD 2.0.12 ready.\nTable master4:\n")); err != nil || len(table) != 0 {
		t.Errorf("BIRD: %v, error %v", table, err)
	}
}

// FRR answers with the route that covers a prefix if that itself has none.
func TestParseRouteOfAnotherPrefix(t *testing.T) {
	t.Parallel()
	paths, err := parseFRRRoute(read(t, "frr-route.json"), netip.MustParsePrefix("198.51.100.7/32"))
	if err != nil || len(paths) != 0 {
		t.Errorf("%v, error %v", paths, err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]func() error{
		"FRR: no JSON":        func() error { _, err := parseFRRTable([]byte("% error")); return err },
		"FRR: BFD state":      func() error { _, err := parseFRRBFD([]byte(`[{"peer":"::1","status":"odd"}]`)); return err },
		"BIRD: unknown line":  func() error { _, err := parseBirdTable([]byte("syntax error")); return err },
		"BIRD: first is none": func() error { _, err := parseBirdTable([]byte("   unicast [a 1] * (100)")); return err },
		"BIRD: number": func() error {
			_, err := parseBirdTable([]byte("192.0.2.0/24 unicast [a 1] * (100)\n\tBGP.med: many\n"))
			return err
		},
		"BIRD: community": func() error {
			_, err := parseBirdTable([]byte("192.0.2.0/24 unicast [a 1] * (100)\n\tBGP.community: (1,65536)\n"))
			return err
		},
	} {
		if refused() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Nothing that is printed may make a parser panic.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"frr-ipv4.json", "frr-neighbors.json", "frr-bfd.json", "frr-route.json", "bird-routes.txt", "bird-protocols.txt", "bird-bfd.txt"} {
		f.Add(read(f, name))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, parse := range []func([]byte) (Table, error){parseFRRTable, parseBirdTable} {
			table, err := parse(content)
			if err != nil {
				continue
			}
			for prefix, paths := range table {
				if !prefix.IsValid() || len(paths) == 0 {
					t.Errorf("prefix %q has %d paths", prefix, len(paths))
				}
			}
		}
		parseFRRRoute(content, netip.MustParsePrefix("198.51.100.0/24")) //nolint:errcheck // must not panic
		parseFRRSessions(content)                                        //nolint:errcheck // must not panic
		parseFRRBFD(content)                                             //nolint:errcheck // must not panic
		parseBirdSessions(content, time.UTC)                             //nolint:errcheck // must not panic
		parseBirdBFD(content)                                            //nolint:errcheck // must not panic
	})
}
