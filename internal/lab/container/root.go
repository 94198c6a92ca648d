package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hostFolders are those of the host that every container sees, read-only, in place
// of an image.
func hostFolders() []string {
	return []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"}
}

// etcFolders are seen likewise.
func etcFolders() []string {
	return []string{"alternatives", "ca-certificates", "ld.so.conf.d", "pki", "ssl"}
}

// etcFiles are copied, so that they stay writable as they are in an image.
func etcFiles() []string {
	return []string{
		"gai.conf", "group", "host.conf", "ld.so.cache", "ld.so.conf", "localtime",
		"mime.types", "nsswitch.conf", "passwd", "protocols", "services",
	}
}

// tree is a mount taken off the host while it is still visible, to be attached
// once the new root is in place. Attaching by path from within the new root would
// resolve the host's symbolic links in the wrong tree, and the container's in the
// host's.
type tree struct {
	Mount
	fd      int
	folder  bool
	devices bool // it is the host's /dev, on which the container's terminals belong
}

// enterRoot builds the container's root and makes it the process's own.
func (s Spec) enterRoot() error {
	// Nothing that is mounted from here on may reach the host, or come from it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	trees, err := s.takeTrees()
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", s.Root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount root on %s: %w", s.Root, err)
	}
	if err := s.furnish(); err != nil {
		return err
	}
	if err := pivot(s.Root); err != nil {
		return err
	}
	if err := s.mountKernelFiles(); err != nil {
		return err
	}
	for _, t := range trees {
		if err := t.attach(); err != nil {
			return fmt.Errorf("mount %s: %w", t.Target, err)
		}
	}
	return s.finishRoot()
}

// finishRoot is what has to wait for all mounts.
func (s Spec) finishRoot() error {
	// Runtimes create a missing working folder; it is no longer possible below.
	if err := os.MkdirAll(s.dir(), 0o755); err != nil {
		return fmt.Errorf("create working folder: %w", err)
	}
	if !s.ReadOnlyRoot {
		return nil
	}
	return remountReadOnly("/")
}

// takeTrees clones the sources of all mounts, parents before children.
func (s Spec) takeTrees() ([]tree, error) {
	mounts := slices.Clone(s.Mounts)
	slices.SortStableFunc(mounts, func(a, b Mount) int {
		return strings.Count(filepath.Clean(a.Target), "/") - strings.Count(filepath.Clean(b.Target), "/")
	})
	var trees []tree
	if s.Credentials.Privileged {
		// Without what is mounted below it: pts and shm are to be the container's own.
		devices, err := takeTree(Mount{Source: "/dev", Target: "/dev"}, 0)
		if err != nil {
			return nil, err
		}
		devices.devices = true
		trees = append(trees, devices)
	}
	for _, m := range mounts {
		t, err := takeTree(m, unix.AT_RECURSIVE)
		if err != nil {
			return nil, err
		}
		trees = append(trees, t)
	}
	return trees, nil
}

func takeTree(m Mount, flags uint) (tree, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return tree{}, fmt.Errorf("open %s for mount %s: %w", m.Source, m.Target, err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return tree{}, fmt.Errorf("stat %s: %w", m.Source, err)
	}
	return tree{Mount: m, fd: fd, folder: stat.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

func (t tree) attach() error {
	if err := makeTarget(t.Target, t.folder); err != nil {
		return err
	}
	if err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, t.Target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	_ = unix.Close(t.fd)
	if t.devices {
		return mountTerminals()
	}
	if !t.ReadOnly {
		return nil
	}
	return remountReadOnly(t.Target)
}

// makeTarget creates what is to be mounted on, unless it exists.
func makeTarget(path string, folder bool) error {
	if folder {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return file.Close()
}

// furnish fills the new root, which is still an ordinary folder of the host.
func (s Spec) furnish() error {
	if s.Image != "" {
		if err := s.overlayImage(); err != nil {
			return err
		}
		return s.writeFiles()
	}
	for _, name := range hostFolders() {
		if err := shareFolder(s.Root, name); err != nil {
			return err
		}
	}
	for name, mode := range map[string]os.FileMode{
		"dev": 0o755, "etc": 0o755, "home": 0o755, "mnt": 0o755, "opt": 0o755, "proc": 0o555, "root": 0o700,
		"run": 0o755, "sys": 0o555, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777, "var/lib": 0o755, "var/log": 0o755,
	} {
		if err := s.makeFolder(name, mode); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", filepath.Join(s.Root, "var/run")); err != nil {
		return fmt.Errorf("create /var/run: %w", err)
	}
	for _, name := range etcFolders() {
		if err := shareFolder(s.Root, filepath.Join("etc", name)); err != nil {
			return err
		}
	}
	if err := s.copyEtc(); err != nil {
		return err
	}
	return s.writeFiles()
}

// overlayImage covers the root with the image's file system, to which changes can be
// made that end with the container, and adds the folders that runtimes mount on.
func (s Spec) overlayImage() error {
	changes, work := filepath.Join(s.Root, "changes"), filepath.Join(s.Root, "work")
	for _, folder := range []string{changes, work} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", s.Image, changes, work)
	if err := unix.Mount("overlay", s.Root, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount image %s: %w", s.Image, err)
	}
	for name, mode := range map[string]os.FileMode{"dev": 0o755, "proc": 0o555, "sys": 0o555} {
		if err := s.makeFolder(name, mode); err != nil {
			return err
		}
	}
	return nil
}

func (s Spec) makeFolder(name string, mode os.FileMode) error {
	path := filepath.Join(s.Root, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("create /%s: %w", name, err)
	}
	if err := unix.Chmod(path, uint32(mode)); err != nil {
		return fmt.Errorf("create /%s: %w", name, err)
	}
	return nil
}

// shareFolder shows the host's folder, or copies the symbolic link that stands in
// its place on systems with a merged /usr. One that the host lacks is left out.
func shareFolder(root, name string) error {
	source, target := "/"+name, filepath.Join(root, name)
	info, err := os.Lstat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		link, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(link, target)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	return remountReadOnly(target)
}

func (s Spec) copyEtc() error {
	for _, name := range etcFiles() {
		content, err := os.ReadFile(filepath.Join("/etc", name))
		if err != nil {
			continue // not every system has all of them
		}
		if err := os.WriteFile(filepath.Join(s.Root, "etc", name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (s Spec) writeFiles() error {
	for name, content := range s.Files {
		path := filepath.Join(s.Root, filepath.Clean("/"+name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pivot makes root the root and lets go of the old one: with both arguments the
// same, the old root is stacked on the new one and can be unmounted (pivot_root(2)).
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter root %s: %w", root, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to root %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	return unix.Chdir("/")
}

// remountReadOnly keeps the other flags of the mount, which a remount would clear.
func remountReadOnly(target string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(target, &stat); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	// ST_NOSUID, ST_NODEV and ST_NOEXEC have the values of MS_…, statfs(2).
	keep := uintptr(stat.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|keep, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	return nil
}
