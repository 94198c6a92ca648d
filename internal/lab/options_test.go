package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-lb/berth/internal/lab/network"
)

// withBinaries returns options whose files all exist, though as empty files.
func withBinaries(t *testing.T) Options {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"bin/lab", "bin/kube", "bin/agnhost", "bin/controller", "bin/speaker", "bin/web", "deploy/berth.yaml"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	options := DefaultOptions()
	options.BinDir = filepath.Join(root, "bin")
	return options
}

func TestCompleteFillsInDefaults(t *testing.T) {
	t.Parallel()
	options := withBinaries(t)
	options.Images = map[string]string{"registry.example:5000/team/web:v1@sha256:12": options.bin("web")}
	complete, err := options.complete()
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(filepath.Dir(options.BinDir), "deploy", "berth.yaml"); complete.Manifest != want {
		t.Errorf("manifest %s, want %s", complete.Manifest, want)
	}
	images, err := complete.images("")
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string][]string{
		"web":     {options.bin("web")},
		"agnhost": {options.bin("agnhost")},
		"speaker": {options.bin("speaker")},
	} {
		if got := images[image].Entrypoint; !slices.Equal(got, want) {
			t.Errorf("entrypoint of %s is %v, want %v", image, got, want)
		}
	}
	complete.Progress("nobody listens") // must not panic
}

func TestCompleteRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*testing.T, *Options)
		want   []string // parts of the message
	}{
		"name":        {func(_ *testing.T, o *Options) { o.Name = "a-b" }, []string{`name: "a-b"`}},
		"no name":     {func(_ *testing.T, o *Options) { o.Name = "" }, []string{"name:"}},
		"long name":   {func(_ *testing.T, o *Options) { o.Name = strings.Repeat("a", 21) }, []string{"name:"}},
		"path":        {func(_ *testing.T, o *Options) { o.Name = "../x" }, []string{"name:"}},
		"nodes":       {func(_ *testing.T, o *Options) { o.Nodes = network.MaxNodes + 1 }, []string{"nodes: 201"}},
		"family":      {func(_ *testing.T, o *Options) { o.IPFamily = "ipv5" }, []string{`ip family: "ipv5"`}},
		"routers":     {func(_ *testing.T, o *Options) { o.Routers = 3 }, []string{"routers: 3"}},
		"berth alone": {func(_ *testing.T, o *Options) { o.Nodes = 0 }, []string{"berth: needs at least one node"}},
		"image": {
			func(_ *testing.T, o *Options) { o.Images = map[string]string{"web": "/does/not/exist"} },
			[]string{"image web: /does/not/exist does not exist"},
		},
		"folder as image": {
			func(_ *testing.T, o *Options) { o.Images = map[string]string{"web": "/"} },
			[]string{"image web: / is a folder"},
		},
		"manifest": {
			func(_ *testing.T, o *Options) { o.Manifest = "/does/not/exist" },
			[]string{"manifest: /does/not/exist does not exist; make it with `make generate`"},
		},
		"everything at once": {
			func(t *testing.T, o *Options) {
				t.Helper()
				o.Nodes = -1
				for _, binary := range []string{"kube", "speaker"} {
					if err := os.Remove(o.bin(binary)); err != nil {
						t.Fatal(err)
					}
				}
			},
			[]string{"nodes: -1", "bin/kube does not exist; build it with `make build`", "bin/speaker does not exist"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := withBinaries(t)
			test.change(t, &options)
			_, err := options.complete()
			if err == nil {
				t.Fatal("accepted")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

func TestCompleteWithoutBerthNeedsNoneOfIt(t *testing.T) {
	t.Parallel()
	options := withBinaries(t)
	for _, binary := range []string{"controller", "speaker"} {
		if err := os.Remove(options.bin(binary)); err != nil {
			t.Fatal(err)
		}
	}
	options.Berth = false
	options.Manifest = "/does/not/exist"
	if _, err := options.complete(); err != nil {
		t.Error(err)
	}
}

func TestImageBaseName(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{
		"agnhost":      "agnhost",
		"agnhost:2.53": "agnhost",
		"registry.k8s.io/e2e-test-images/agnhost:2": "agnhost",
		"localhost:5000/a/b":                        "b",
		"ghcr.io/berth-lb/speaker@sha256:abc":       "speaker",
		"ghcr.io/berth-lb/speaker:v1@sha256:abc":    "speaker",
	} {
		if got := imageBaseName(image); got != want {
			t.Errorf("imageBaseName(%q) = %q, want %q", image, got, want)
		}
	}
}
