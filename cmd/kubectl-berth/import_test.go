package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const somePool = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: gold, namespace: metallb-system}
spec: {addresses: [192.0.2.0/28]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: gold, namespace: metallb-system}
`

// writeFiles writes files below a new folder.
func writeFiles(t *testing.T, files map[string]string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for name, text := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func TestImportFromFiles(t *testing.T) {
	folder := writeFiles(t, map[string]string{
		"all.yaml": somePool, "deep/peer.yml": strings.ReplaceAll(somePool, "gold", "silver"), "notes.txt": "not: {read", "broken/x.json": "{",
		"gap.yaml": strings.Replace(somePool, "spec: {", "spec: {unheard: of, ", 1),
	})
	all := filepath.Join(folder, "all.yaml")
	for _, test := range []struct {
		name         string
		args         []string
		out, errOut  string
		err          string
		nothingIsOut bool
	}{
		{name: "a file", args: []string{"-f", all}, out: "apiVersion: berth.dev/v1beta1\nkind: IPAddressPool"},
		{name: "several", args: []string{"-f", all, "-f", filepath.Join(folder, "deep")}, out: "name: silver"},
		{name: "JSON", args: []string{"-f", all, "-o", "json"}, out: `"kind": "List"`},
		{name: "a file that is broken", args: []string{"-f", folder}, err: "x.json", nothingIsOut: true},
		{name: "no file", args: []string{"-f", filepath.Join(folder, "none")}, err: "none", nothingIsOut: true},
		{name: "nothing in it", args: []string{"-f", filepath.Join(folder, "notes.txt")}, err: "", nothingIsOut: true},
		{name: "another namespace", args: []string{"-f", all, "--metallb-namespace", "other"}, errOut: "note: IPAddressPool metallb-system/gold: ignored", err: errNoMetalLB.Error(), nothingIsOut: true},
		{name: "gaps", args: []string{"-f", filepath.Join(folder, "gap.yaml")}, errOut: "not translated: IPAddressPool metallb-system/gold: spec.unheard", err: errGaps.Error(), nothingIsOut: true},
		{name: "gaps in part", args: []string{"-f", filepath.Join(folder, "gap.yaml"), "--partial"}, out: "# - left out: spec.unheard", errOut: "spec.unheard"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, errOut, err := (&apiServer{}).run(t, append([]string{"import", "metallb"}, test.args...)...)
			if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) || test.err == "" && !test.nothingIsOut && err != nil {
				t.Errorf("the error is %v", err)
			}
			if !strings.Contains(out, test.out) || test.nothingIsOut && out != "" {
				t.Errorf("it writes %s", out)
			}
			if !strings.Contains(errOut, test.errOut) {
				t.Errorf("it says %s", errOut)
			}
		})
	}
}

func TestImportIntoFolder(t *testing.T) {
	folder := writeFiles(t, map[string]string{"all.yaml": somePool})
	to := filepath.Join(folder, "berth")
	out, _, err := (&apiServer{}).run(t, "import", "metallb", "-f", folder, "--output-dir", to)
	if err != nil || !strings.Contains(out, "l2advertisements.yaml: 1") {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"ipaddresspools.yaml", "l2advertisements.yaml"} {
		if text, err := os.ReadFile(filepath.Join(to, name)); err != nil || !strings.Contains(string(text), "name: gold") {
			t.Errorf("%s: %s (%v)", name, text, err)
		}
	}
	if _, _, err := (&apiServer{}).run(t, "import", "metallb", "-f", filepath.Join(folder, "all.yaml"), "--output-dir", to); err == nil || !strings.Contains(err.Error(), "ipaddresspools.yaml") {
		t.Errorf("into a folder with an earlier import: %v", err)
	}
}

func metalLBObject(version, kind, name string, spec map[string]any) map[string]any {
	return map[string]any{
		"apiVersion": "metallb.io/" + version, "kind": kind, "spec": spec,
		"metadata": map[string]any{"name": name, "namespace": "metallb-system"},
	}
}

// metalLBServer is an API server that knows MetalLB's kinds, BGPPeers only in their
// older version.
func metalLBServer() *apiServer {
	const old = "/apis/metallb.io/v1beta1/"
	svc := aService("shop", "web", "192.0.2.1")
	svc.Annotations = map[string]string{"metallb.io/ip-allocated-from-pool": "gold", "metallb.io/unheard": "of"}
	return &apiServer{
		lists: map[string][]any{
			old + "ipaddresspools": {metalLBObject("v1beta1", "IPAddressPool", "gold", map[string]any{"addresses": []any{"192.0.2.0/28"}})},
			old + "bgppeers":       {metalLBObject("v1beta1", "BGPPeer", "tor", map[string]any{"myASN": 64512, "peerASN": 64512, "peerAddress": "10.0.0.1", "holdTime": "0s"})},
			pathServices:           {svc},
		},
		refuse: map[string]int{"/apis/metallb.io/v1beta2/bgppeers": http.StatusNotFound, old + "addresspools": http.StatusNotFound},
	}
}

func TestImportFromCluster(t *testing.T) {
	out, errOut, err := metalLBServer().run(t, "import", "metallb")
	if err != nil || !strings.Contains(out, "name: gold") || !strings.Contains(out, "peerAddress: 10.0.0.1") || strings.Contains(out, "holdTime") {
		t.Errorf("%v: %s", err, out)
	}
	for _, text := range []string{"Services: 1 keep the addresses", "annotation metallb.io/unheard means nothing"} {
		if !strings.Contains(errOut, text) {
			t.Errorf("it does not say %q but %s", text, errOut)
		}
	}
}

func TestImportWithoutRights(t *testing.T) {
	s := metalLBServer()
	s.refuse[pathServices] = http.StatusForbidden
	if _, errOut, err := s.run(t, "import", "metallb"); err != nil || !strings.Contains(errOut, "cannot read Services") {
		t.Errorf("%v: %s", err, errOut)
	}
	s.refuse["/apis/metallb.io/v1beta1/bgppeers"] = http.StatusForbidden
	if out, _, err := s.run(t, "import", "metallb"); err == nil || out != "" || !strings.Contains(err.Error(), "bgppeers") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestImportWithoutMetalLB(t *testing.T) {
	s := &apiServer{refuse: map[string]int{"/api/v1/namespaces/metallb-system/configmaps/config": http.StatusNotFound}}
	if _, _, err := s.run(t, "import", "metallb"); !errors.Is(err, errNoMetalLB) {
		t.Errorf("got %v", err)
	}
}
