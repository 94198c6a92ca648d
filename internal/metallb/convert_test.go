package metallb

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

var usual = Options{Namespace: "metallb-system", BerthNamespace: "berth-system"}

func convertText(text []byte) (*Result, error) {
	objects, err := Read(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	services, objects, err := Services(objects)
	if err != nil {
		return nil, err
	}
	return Convert(objects, services, usual), nil
}

// render writes all that there is to say about a result.
func render(t *testing.T, r *Result) string {
	t.Helper()
	var b strings.Builder
	for _, said := range []struct {
		what  string
		texts []string
	}{{"gap", r.Gaps}, {"warning", r.Warnings}, {"remark", r.Remarks}} {
		for _, text := range said.texts {
			fmt.Fprintf(&b, "%s: %s\n", said.what, text)
		}
	}
	b.WriteString("---\n")
	if err := WriteYAML(&b, r.Objects); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestConvert(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no examples", err)
	}
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".yaml")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			result, err := convertText(text)
			if err != nil {
				t.Fatal(err)
			}
			if (len(result.Gaps) > 0) != (name == "gaps") {
				t.Errorf("gaps: %q", result.Gaps)
			}
			golden(t, filepath.Join("testdata", name+".golden"), render(t, result))
			if again, _ := convertText(text); render(t, again) != render(t, result) {
				t.Error("a second conversion has another result")
			}
			expectSound(t, result)
		})
	}
}

func golden(t *testing.T, path, text string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s differs (-want +got); run the test with -update if that is meant:\n%s", path, diff)
	}
}

// expectSound fails the test unless what is written can be read as Berth's objects,
// none of which is invalid.
func expectSound(t *testing.T, r *Result) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var all config.Objects
	for _, o := range r.Objects {
		var text strings.Builder
		if err := WriteYAML(&text, []*Object{o}); err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode([]byte(text.String()), nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", text.String(), err)
		}
		collect(t, &all, object)
	}
	_, verdicts := config.Build(all)
	for _, o := range r.Objects {
		if v := verdictOf(verdicts, o.Object); v.Reason == v1beta1.ReasonInvalid || v.Reason == "" {
			t.Errorf("%s became %s, which is %q: %s", o.From, o.Object.GetName(), v.Reason, v.Message)
		}
	}
}

func collect(t *testing.T, all *config.Objects, object runtime.Object) {
	t.Helper()
	switch o := object.(type) {
	case *v1beta1.IPAddressPool:
		all.IPAddressPools = append(all.IPAddressPools, o)
	case *v1beta1.L2Advertisement:
		all.L2Advertisements = append(all.L2Advertisements, o)
	case *v1beta1.BGPAdvertisement:
		all.BGPAdvertisements = append(all.BGPAdvertisements, o)
	case *v1beta1.BGPPeer:
		all.BGPPeers = append(all.BGPPeers, o)
	case *v1beta1.Community:
		all.Communities = append(all.Communities, o)
	case *v1beta1.BFDProfile:
		all.BFDProfiles = append(all.BFDProfiles, o)
	default:
		t.Fatalf("%T is none of Berth's kinds", object)
	}
}

func TestListsAreBounded(t *testing.T) {
	many := func(n int, item string) string {
		return strings.TrimSuffix(strings.Repeat(item+",", n), ",")
	}
	for name, test := range map[string]struct{ kind, spec, want string }{
		"addresses":  {"IPAddressPool", `{"addresses":[` + many(65, `"10.0.0.0/24"`) + `]}`, "has 65 entries"},
		"interfaces": {"L2Advertisement", `{"interfaces":[` + many(65, `"eth0"`) + `]}`, "has 65 entries"},
		"selectors":  {"L2Advertisement", `{"nodeSelectors":[` + many(33, `{}`) + `]}`, "has 33 entries"},
		"values": {"L2Advertisement", `{"nodeSelectors":[{"matchExpressions":[{"key":"a","operator":"In","values":[` +
			many(65, `"x"`) + `]}]}]}`, "has 65 entries"},
		"weight":    {"L2Advertisement", `{"preferredNodeSelectors":[{"weight":101,"preference":{}}]}`, "101 is not from 1 to 100"},
		"priority":  {"IPAddressPool", `{"addresses":["10.0.0.0/24"],"serviceAllocation":{"priority":2147483648}}`, "2147483648 is not from"},
		"password":  {"BGPPeer", `{"myASN":1,"peerASN":2,"peerAddress":"10.0.0.1","password":"` + strings.Repeat("x", 81) + `"}`, "longer than"},
		"keepalive": {"BGPPeer", `{"myASN":1,"peerASN":2,"peerAddress":"10.0.0.1","keepaliveTime":"300ms"}`, "300ms is less than a second"},
		"label":     {"L2Advertisement", `{"nodeSelectors":[{"matchLabels":{"a b":"c"}}]}`, "spec.nodeSelectors[0]"},
		"name":      {"L2Advertisement", `{"ipAddressPools":["No Name"]}`, "not the name of an object"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := convertText([]byte(`{"apiVersion":"metallb.io/v1beta1","kind":"` + test.kind + `","metadata":{"name":"x"},"spec":` + test.spec + `}`))
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Objects) != 0 || len(r.Gaps) == 0 || !strings.Contains(r.Gaps[0], test.want) {
				t.Errorf("%d objects, gaps %q", len(r.Objects), r.Gaps)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	for _, text := range []string{"a: b", "- 1", "{", "apiVersion: v1\nkind: List\nitems: [1]", "apiVersion: v1\nkind: Service\nspec: {ports: 1}\n"} {
		if r, err := convertText([]byte(text)); err == nil {
			t.Errorf("%q was read as %+v", text, r)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	text, err := os.ReadFile("testdata/layer2.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := convertText(text)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteJSON(&b, r.Objects); err != nil {
		t.Fatal(err)
	}
	items, err := Read(&b)
	if err != nil || len(items) != len(r.Objects) {
		t.Errorf("%d of %d objects are read again: %v", len(items), len(r.Objects), err)
	}
}

// FuzzConvert looks for inputs that break the reader, and for conversions that are
// not sound.
func FuzzConvert(f *testing.F) {
	inputs, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, input := range inputs {
		text, err := os.ReadFile(input)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
			f.Add(document)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if result, err := convertText(text); err == nil {
			expectSound(t, result)
		}
	})
}
