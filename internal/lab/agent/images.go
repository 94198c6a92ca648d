package agent

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-lb/berth/internal/lab/container"
)

// Image is what containers are started from: either a program of the host, which
// they see along with the host's other programs, or a file system of their own.
type Image struct {
	// Entrypoint is the program and its fixed arguments.
	Entrypoint []string `json:"entrypoint"`
	// Root is the folder with the image's file system. If it is empty, the
	// entrypoint starts with the path of a program of the host.
	Root string `json:"root,omitempty"`
	// The rest is only for images with a file system, and as the OCI image
	// configuration has it.
	Cmd  []string `json:"cmd,omitempty"`
	Env  []string `json:"env,omitempty"`
	User string   `json:"user,omitempty"`
	Dir  string   `json:"dir,omitempty"`
}

func (i Image) validate() error {
	if i.Root == "" {
		if len(i.Entrypoint) == 0 || !filepath.IsAbs(i.Entrypoint[0]) {
			return errors.New("start the entrypoint with the absolute path of a program")
		}
		return nil
	}
	if !filepath.IsAbs(i.Root) {
		return fmt.Errorf("root: %q is not an absolute path", i.Root)
	}
	_, _, err := i.user()
	return err
}

// user is whom the image asks to be run as; root if it says nothing.
func (i Image) user() (uid, gid uint32, err error) {
	if i.User == "" {
		return 0, 0, nil
	}
	user, group, grouped := strings.Cut(i.User, ":")
	numbers := []*uint32{&uid, &gid}
	for n, text := range []string{user, group} {
		if n == 1 && !grouped {
			break
		}
		number, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("user: %q is not of the form uid or uid:gid; names are not supported here", i.User)
		}
		*numbers[n] = uint32(number)
	}
	return uid, gid, nil
}

// args are the command of a container that sets none, with its own arguments if it
// has any.
func (i Image) args(own []string) []string {
	program := slices.Clone(i.Entrypoint)
	if i.Root == "" {
		program[0] = i.target()
	}
	if own == nil {
		own = i.Cmd
	}
	return append(program, own...)
}

// target is where a program of the host is found in the container.
func (i Image) target() string { return "/" + filepath.Base(i.Entrypoint[0]) }

// mounts put a program of the host there.
func (i Image) mounts() []container.Mount {
	if i.Root != "" {
		return nil
	}
	return []container.Mount{{Source: i.Entrypoint[0], Target: i.target(), ReadOnly: true}}
}

// imageName is the last element of an image reference without tag and digest:
// registry.k8s.io/e2e-test-images/agnhost:2.53 is agnhost.
func imageName(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	reference = reference[strings.LastIndexByte(reference, '/')+1:]
	name, _, _ := strings.Cut(reference, ":")
	return name
}

// findImage looks an image up among those that are known.
func findImage(images map[string]Image, reference string) (Image, error) {
	image, found := images[imageName(reference)]
	if !found {
		known := strings.Join(slices.Sorted(maps.Keys(images)), ", ")
		return Image{}, fmt.Errorf("image %q: there is no registry here and no program is mapped to %q; known images: %s",
			reference, imageName(reference), known)
	}
	return image, nil
}
