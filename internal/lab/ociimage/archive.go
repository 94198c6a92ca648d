package ociimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Config is what an image says about how to run it: the part of the same name of
// the OCI image configuration that the lab makes use of.
type Config struct {
	Entrypoint []string `json:"Entrypoint"`
	Cmd        []string `json:"Cmd"`
	Env        []string `json:"Env"`
	User       string   `json:"User"`
	WorkingDir string   `json:"WorkingDir"`
}

// descriptor refers to a blob.
type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
)

// archive has the files of an image layout.
type archive map[string][]byte

// Unpack writes the file system of the image for an architecture into a folder, which
// must be empty, and returns its configuration.
func Unpack(file, architecture, folder string) (Config, error) {
	config, err := unpack(file, architecture, folder)
	if err != nil {
		return Config{}, fmt.Errorf("image archive %s: %w", file, err)
	}
	return config, nil
}

func unpack(file, architecture, folder string) (Config, error) {
	in, err := os.Open(file)
	if err != nil {
		return Config{}, err
	}
	defer func() { _ = in.Close() }()
	a, err := readArchive(in)
	if err != nil {
		return Config{}, err
	}
	manifest, err := a.manifest(architecture)
	if err != nil {
		return Config{}, err
	}
	var image struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Config       Config `json:"config"`
	}
	if err := a.decode(manifest.Config, &image); err != nil {
		return Config{}, err
	}
	if image.OS != "linux" || image.Architecture != architecture {
		return Config{}, fmt.Errorf("the image said to be for linux/%s is for %s/%s", architecture, image.OS, image.Architecture)
	}
	for _, layer := range manifest.Layers {
		content, err := a.blob(layer)
		if err != nil {
			return Config{}, err
		}
		if err := unpackLayer(layer.MediaType, bytes.NewReader(content), folder); err != nil {
			return Config{}, fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
	}
	return image.Config, nil
}

func readArchive(in io.Reader) (archive, error) {
	a := archive{}
	for r := tar.NewReader(in); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if a[path.Clean(header.Name)], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}

type manifest struct {
	Config descriptor   `json:"config"`
	Layers []descriptor `json:"layers"`
}

// manifest follows the indexes to the image for an architecture.
func (a archive) manifest(architecture string) (manifest, error) {
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	content, found := a["index.json"]
	if !found {
		return manifest{}, errors.New("there is no index.json; make it with `make images`")
	}
	if err := json.Unmarshal(content, &index); err != nil {
		return manifest{}, fmt.Errorf("index.json: %w", err)
	}
	for queue := index.Manifests; len(queue) > 0; queue = queue[1:] {
		d := queue[0]
		switch {
		case d.MediaType == typeIndex:
			if err := a.decode(d, &index); err != nil {
				return manifest{}, err
			}
			queue = append(queue, index.Manifests...)
		case d.MediaType == typeManifest && d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == architecture:
			var m manifest
			return m, a.decode(d, &m)
		}
	}
	return manifest{}, fmt.Errorf("there is no image for linux/%s", architecture)
}

func (a archive) decode(d descriptor, into any) error {
	content, err := a.blob(d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	return nil
}

// blob returns what a descriptor refers to, if it is that.
func (a archive) blob(d descriptor) ([]byte, error) {
	digest, isSHA256 := strings.CutPrefix(d.Digest, "sha256:")
	if !isSHA256 {
		return nil, fmt.Errorf("digest %q: only sha256 is supported", d.Digest)
	}
	content, found := a[path.Join("blobs", "sha256", digest)]
	if !found {
		return nil, fmt.Errorf("blob %s is missing", d.Digest)
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != digest || int64(len(content)) != d.Size {
		return nil, fmt.Errorf("blob %s has other content than its digest and size say", d.Digest)
	}
	return content, nil
}
