package ociimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// entry is a file in an archive.
type entry struct {
	name     string
	kind     byte
	mode     int64
	content  string
	linkname string
}

func file(name, content string) entry {
	return entry{name: name, kind: tar.TypeReg, mode: 0o644, content: content}
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, Uid: os.Getuid(), Gid: os.Getgid(), Size: int64(len(e.content)), Linkname: e.linkname}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipped(t *testing.T, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// layout makes an image layout.
type layout struct{ blobs []entry }

// add returns the descriptor of a blob as JSON, with more fields.
func (l *layout) add(mediaType, content, more string) string {
	sum := sha256.Sum256([]byte(content))
	digest := hex.EncodeToString(sum[:])
	l.blobs = append(l.blobs, file("blobs/sha256/"+digest, content))
	d, _ := json.Marshal(descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: int64(len(content))})
	return strings.TrimSuffix(string(d), `,"platform":null}`) + more + "}"
}

// image adds one for an architecture and returns the descriptor of its manifest.
func (l *layout) image(architecture, config, layerType string, layers ...[]byte) string {
	var descriptors []string
	for _, layer := range layers {
		descriptors = append(descriptors, l.add(layerType, string(layer), ""))
	}
	c := l.add("application/vnd.oci.image.config.v1+json", config, "")
	m := `{"config":` + c + `,"layers":[` + strings.Join(descriptors, ",") + `]}`
	return l.add(typeManifest, m, `,"platform":{"os":"linux","architecture":"`+architecture+`"}`)
}

// write writes an archive whose index refers to another one of the images.
func (l *layout) write(t *testing.T, manifests ...string) string {
	t.Helper()
	inner := l.add(typeIndex, `{"manifests":[`+strings.Join(manifests, ",")+`]}`, "")
	path := filepath.Join(t.TempDir(), "image.tar")
	content := tarOf(t, append(l.blobs, file("index.json", `{"manifests":[`+inner+`]}`))...)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	configAMD = `{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/web"],"Cmd":["serve"],"Env":["A=b"],"User":"7:8","WorkingDir":"/data"}}`
	configARM = `{"os":"linux","architecture":"arm64","config":{"Entrypoint":["/arm"]}}`
	plainTar  = "application/vnd.oci.image.layer.v1.tar"
	gzipTar   = plainTar + "+gzip"
)

func TestUnpack(t *testing.T) {
	t.Parallel()
	first := tarOf(t,
		entry{name: "web", kind: tar.TypeReg, mode: 0o4555, content: "old"},
		entry{name: "data/", kind: tar.TypeDir, mode: 0o1777},
		entry{name: "link", kind: tar.TypeSymlink, linkname: "data/file"})
	second := tarOf(t, entry{name: "/data/file", kind: tar.TypeReg, mode: 0o640, content: "text"},
		entry{name: "web", kind: tar.TypeReg, mode: 0o4555, content: "new"})
	var l layout
	path := l.write(t, l.image("arm64", configARM, plainTar, tarOf(t, file("arm", ""))), l.image("amd64", configAMD, gzipTar, zipped(t, first), zipped(t, second)))
	folder := t.TempDir()
	config, err := Unpack(path, "amd64", folder)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Entrypoint: []string{"/web"}, Cmd: []string{"serve"}, Env: []string{"A=b"}, User: "7:8", WorkingDir: "/data"}
	if !reflect.DeepEqual(config, want) {
		t.Errorf("configuration %+v, want %+v", config, want)
	}
	for name, want := range map[string]string{"web": "new", "link": "text"} {
		if content, err := os.ReadFile(filepath.Join(folder, name)); err != nil || string(content) != want {
			t.Errorf("%s has %q, %v; want %q", name, content, err, want)
		}
	}
	for name, want := range map[string]os.FileMode{
		"web": 0o555 | os.ModeSetuid, "data": 0o777 | os.ModeDir | os.ModeSticky, "data/file": 0o640,
	} {
		if info, err := os.Stat(filepath.Join(folder, name)); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "arm")); err == nil {
		t.Error("the image for another architecture was unpacked as well")
	}
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	layer := tarOf(t, file("web", "x"))
	for name, test := range map[string]struct {
		make func(*testing.T, *layout) string
		want string
	}{
		"another architecture": {func(t *testing.T, l *layout) string { return l.write(t, l.image("arm64", configARM, plainTar, layer)) }, "no image for linux/amd64"},
		"wrong label":          {func(t *testing.T, l *layout) string { return l.write(t, l.image("amd64", configARM, plainTar, layer)) }, "is for linux/arm64"},
		"layer type": {func(t *testing.T, l *layout) string {
			return l.write(t, l.image("amd64", configAMD, plainTar+"+zstd", layer))
		}, "+zstd"},
		"other content": {func(t *testing.T, l *layout) string {
			m := l.image("amd64", configAMD, plainTar, layer)
			l.blobs[0].content = strings.Replace(l.blobs[0].content, "web", "wow", 1)
			return l.write(t, m)
		}, "other content than its digest"},
		"missing layer": {func(t *testing.T, l *layout) string {
			m := l.image("amd64", configAMD, plainTar, layer)
			l.blobs = l.blobs[1:]
			return l.write(t, m)
		}, "is missing"},
		"outside": {func(t *testing.T, l *layout) string {
			return l.write(t, l.image("amd64", configAMD, plainTar, tarOf(t, file("../web", "x"))))
		}, "escapes"},
		"outside by a link": {func(t *testing.T, l *layout) string {
			link := entry{name: "up", kind: tar.TypeSymlink, linkname: "/tmp"}
			return l.write(t, l.image("amd64", configAMD, plainTar, tarOf(t, link, file("up/web", "x"))))
		}, "escapes"},
		"whiteout": {func(t *testing.T, l *layout) string {
			return l.write(t, l.image("amd64", configAMD, plainTar, tarOf(t, file(".wh.web", ""))))
		}, "whiteouts"},
		"device": {func(t *testing.T, l *layout) string {
			return l.write(t, l.image("amd64", configAMD, plainTar, tarOf(t, entry{name: "null", kind: tar.TypeChar})))
		}, "type '3'"},
		"no image": {func(t *testing.T, _ *layout) string {
			path := filepath.Join(t.TempDir(), "image.tar")
			if err := os.WriteFile(path, layer, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, "there is no index.json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := test.make(t, &layout{})
			if _, err := Unpack(path, "amd64", t.TempDir()); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}
