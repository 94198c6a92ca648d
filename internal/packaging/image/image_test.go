package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program stands for the real ones: it has a dependency and prints its version.
const program = `package main

import "os"

var version = "dev"

func main() { os.Stdout.WriteString(version) }
`

// build compiles the program as the Makefile does, in a folder of its own.
func build(t *testing.T, architecture string) Binary {
	t.Helper()
	folder := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module example.com/program\n\ngo 1.26\n", "main.go": program} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(folder, "controller")
	command := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", binary, ".")
	command.Dir = folder
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return Binary{Architecture: architecture, Path: binary}
}

// write builds everything from source and returns the archive's folder.
func write(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	i := Image{Name: "controller", Version: "v1.2.3", User: "65532:65532"}
	if err := i.Write(filepath.Join(folder, "controller.tar"), []Binary{build(t, "amd64"), build(t, "arm64")}); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestSameBytes(t *testing.T) {
	t.Parallel()
	one, other := write(t), write(t)
	for _, name := range []string{"controller.tar", "controller-amd64.spdx.json", "controller-arm64.spdx.json"} {
		a, err := os.ReadFile(filepath.Join(one, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(other, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("two builds of %s differ", name)
		}
	}
}

// files of a tar archive.
func files(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	file, err := os.Open(filepath.Join(write(t), "controller.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	folder := t.TempDir()
	for name, content := range files(t, file) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	outer, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1.2.3" {
		t.Fatalf("index %+v (error %v)", manifest, err)
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if manifest, err = index.IndexManifest(); err != nil || len(manifest.Manifests) != 2 {
		t.Fatalf("index %+v (error %v)", manifest, err)
	}
	for n, want := range []struct {
		architecture string
		machine      elf.Machine
	}{{"amd64", elf.EM_X86_64}, {"arm64", elf.EM_AARCH64}} {
		descriptor := manifest.Manifests[n]
		if descriptor.Platform.Architecture != want.architecture {
			t.Errorf("image %d is for %v", n, descriptor.Platform)
		}
		image, err := index.Image(descriptor.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != want.architecture || config.Config.User != "65532:65532" || fmt.Sprint(config.Config.Entrypoint) != "[/controller]" ||
			config.Config.Labels["org.opencontainers.image.version"] != "v1.2.3" {
			t.Errorf("config %+v", config)
		}
		layers, err := image.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers (error %v)", len(layers), err)
		}
		content, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		inside := files(t, content)
		checkStatic(t, inside["controller"], want.machine)
		checkSBOM(t, inside["sbom.spdx.json"])
	}
}

func checkStatic(t *testing.T, binary []byte, machine elf.Machine) {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	if file.Machine != machine {
		t.Errorf("the binary is for %s, want %s", file.Machine, machine)
	}
	for _, program := range file.Progs {
		if program.Type == elf.PT_INTERP || program.Type == elf.PT_DYNAMIC {
			t.Error("the binary is not static")
		}
	}
	if !bytes.Contains(binary, []byte("v1.2.3")) {
		t.Error("the binary does not know its version")
	}
}

func checkSBOM(t *testing.T, content []byte) {
	t.Helper()
	var document spdxDocument
	if err := json.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{document.ID: true}
	for _, p := range document.Packages {
		if ids[p.ID] {
			t.Errorf("%s is there twice", p.ID)
		}
		ids[p.ID] = true
	}
	for _, r := range document.Relationships {
		if !ids[r.From] || !ids[r.To] {
			t.Errorf("relationship %+v of nothing", r)
		}
	}
	if document.Version != "SPDX-2.3" || len(document.Packages) < 2 || !strings.HasPrefix(document.Packages[1].Refs[0].Locator, "pkg:golang/stdlib@1.") {
		t.Errorf("SBOM %s", content)
	}
}

// A binary's modules are in its SBOM: those of the command that makes images are
// known.
func TestModules(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "images")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/images").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	sbom, err := sbomOf(Image{Name: "images", Version: "v1"}, "amd64", content)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(sbom, []byte(`"pkg:golang/github.com/google/go-containerregistry@v`)) {
		t.Errorf("SBOM %s", sbom)
	}
	checkSBOM(t, sbom)
}

func TestNoGoBinary(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte("no binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Image{Name: "text"}.Write(filepath.Join(t.TempDir(), "text.tar"), []Binary{{Architecture: "amd64", Path: file}})
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v", err)
	}
}
