package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// File is one file of a volume.
type File struct {
	Data []byte
	Mode os.FileMode
}

// Payload maps paths relative to the volume to their files.
type Payload map[string]File

// Names inside a volume by which its content is exchanged at once: the visible
// names are links through dataLink, which points to the folder with the present
// content. Programs that watch such volumes, client-go among them, know the scheme.
const (
	dataLink    = "..data"
	newDataLink = "..data_tmp"
)

// Write makes payload the whole content of the volume folder. It does nothing if
// it is that already. A group other than 0 gets to own and read the files.
func Write(folder string, payload Payload, group int64) error {
	if err := payload.validate(); err != nil {
		return err
	}
	if current, err := read(folder); err == nil && payload.equal(current) {
		return nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	version, err := os.MkdirTemp(folder, "..version_")
	if err != nil {
		return err
	}
	if err := payload.store(version, group); err != nil {
		return errors.Join(err, os.RemoveAll(version))
	}
	previous, _ := os.Readlink(filepath.Join(folder, dataLink))
	fresh := filepath.Join(folder, newDataLink)
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(version), fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(folder, dataLink)); err != nil {
		return err
	}
	if err := payload.link(folder); err != nil {
		return err
	}
	if previous == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(folder, previous))
}

func (p Payload) validate() error {
	for path := range p {
		if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") {
			return fmt.Errorf("path %q leaves the volume or starts with two dots; choose another", path)
		}
	}
	return nil
}

func (p Payload) store(folder string, group int64) error {
	if err := os.Chmod(folder, 0o755); err != nil {
		return err
	}
	for path, file := range p {
		target := filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		mode := file.Mode.Perm()
		if group != 0 {
			mode |= 0o440
		}
		if err := os.WriteFile(target, file.Data, 0o600); err != nil {
			return err
		}
		if err := os.Chown(target, -1, int(group)); err != nil {
			return err
		}
		if err := os.Chmod(target, mode); err != nil { // past the umask
			return err
		}
	}
	return nil
}

// link makes the visible names, of which only the first element of a path is one,
// and removes those that are no longer wanted.
func (p Payload) link(folder string) error {
	wanted := map[string]bool{}
	for path := range p {
		first, _, _ := strings.Cut(path, "/")
		wanted[first] = true
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, "..") || wanted[name] {
			delete(wanted, name)
			continue
		}
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	return nil
}

// read returns the present content, with modes as they are.
func read(folder string) (Payload, error) {
	root, err := filepath.EvalSymlinks(filepath.Join(folder, dataLink))
	if err != nil {
		return nil, err
	}
	content := Payload{}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		content[relative] = File{Data: data}
		return err
	})
	return content, err
}

// equal ignores modes, which do not change during a volume's life.
func (p Payload) equal(other Payload) bool {
	return maps.EqualFunc(p, other, func(a, b File) bool { return bytes.Equal(a.Data, b.Data) })
}
