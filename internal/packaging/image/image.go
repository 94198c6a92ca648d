package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is what an image is made from, apart from its binaries.
type Image struct {
	// Name is also that of the binary, which is the entrypoint.
	Name    string
	Version string
	// User that the process runs as, as uid:gid.
	User string
}

// Binary is the binary for one architecture.
type Binary struct {
	Architecture string
	Path         string
}

// mode of the only executable.
const mode = 0o555

// Write writes an archive of the image for all architectures to a file, and an
// SBOM for each binary beside it. Each image has its own SBOM in it as well.
func (i Image) Write(file string, binaries []Binary) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range binaries {
		content, err := os.ReadFile(b.Path)
		if err != nil {
			return err
		}
		sbom, err := sbomOf(i, b.Architecture, content)
		if err != nil {
			return fmt.Errorf("SBOM of %s: %w", b.Path, err)
		}
		beside := filepath.Join(filepath.Dir(file), i.Name+"-"+b.Architecture+".spdx.json")
		if err := os.WriteFile(beside, sbom, 0o644); err != nil {
			return err
		}
		image, err := i.build(b.Architecture, content, sbom)
		if err != nil {
			return fmt.Errorf("image of %s: %w", b.Path, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: b.Architecture}},
		})
	}
	folder, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	path, err := layout.Write(folder, empty.Index)
	if err != nil {
		return err
	}
	name := map[string]string{"org.opencontainers.image.ref.name": i.Version}
	if err := path.AppendIndex(index, layout.WithAnnotations(name)); err != nil {
		return err
	}
	return archive(folder, file)
}

func (i Image) build(architecture string, binary, sbom []byte) (v1.Image, error) {
	content, err := layerTar(entry{i.Name, mode, binary}, entry{"sbom.spdx.json", 0o444, sbom})
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer, History: v1.History{CreatedBy: "make images", Comment: i.Name + " " + i.Version},
	})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile() // which knows the layer
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(image, i.config(architecture, config))
}

// config adds to an image's configuration how to run it.
func (i Image) config(architecture string, before *v1.ConfigFile) *v1.ConfigFile {
	config := before.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	config.Config = v1.Config{
		Entrypoint: []string{"/" + i.Name},
		User:       i.User,
		Labels: map[string]string{
			"org.opencontainers.image.title":    "berth " + i.Name,
			"org.opencontainers.image.version":  i.Version,
			"org.opencontainers.image.licenses": license,
		},
	}
	return config
}

// entry is a file in an archive.
type entry struct {
	name    string
	mode    int64
	content []byte
}

// layerTar has files of root's and of no date.
func layerTar(entries ...entry) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		if err := addFile(w, e); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func addFile(w *tar.Writer, e entry) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Size: int64(len(e.content)), Format: tar.FormatUSTAR}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(e.content)
	return err
}

// archive packs a folder in the order of its files' names.
func archive(folder, file string) error {
	var entries []entry
	err := filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error { // in lexical order
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		entries = append(entries, entry{filepath.ToSlash(name), 0o644, content})
		return err
	})
	if err != nil {
		return err
	}
	content, err := layerTar(entries...)
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644)
}
