package agent

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-lb/berth/internal/lab/container"
)

// entrypoint is what an image consists of here.
type entrypoint struct {
	// args start with the program's path in the container.
	args []string
	// mount puts the program there.
	mount container.Mount
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
func findImage(images map[string][]string, reference string) (entrypoint, error) {
	argv, found := images[imageName(reference)]
	if !found {
		known := strings.Join(slices.Sorted(maps.Keys(images)), ", ")
		return entrypoint{}, fmt.Errorf("image %q: there is no registry here and no program is mapped to %q; known images: %s",
			reference, imageName(reference), known)
	}
	inside := "/" + filepath.Base(argv[0])
	return entrypoint{
		args:  append([]string{inside}, argv[1:]...),
		mount: container.Mount{Source: argv[0], Target: inside, ReadOnly: true},
	}, nil
}
