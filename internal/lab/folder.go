package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/lab/machine"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// stateRoot has a folder per lab. It is not among the temporary files because a
// start of the machine should empty it, but no cleaner that runs daily.
const stateRoot = "/run/berth-lab"

// limitsFile remembers limits of the machine that labs have raised.
const limitsFile = "limits.json"

func limits() machine.Limits { return machine.NewLimits(filepath.Join(stateRoot, limitsFile)) }

// folder is where a lab keeps its files.
type folder string

func stateFolder(name string) folder { return folder(filepath.Join(stateRoot, name)) }

func (f folder) join(elements ...string) string {
	return filepath.Join(append([]string{string(f)}, elements...)...)
}

func (f folder) processes() proc.Folders {
	return proc.Folders{Records: f.join("processes"), Logs: f.join("logs")}
}

// claim makes the folder, and so makes sure that the lab is the only one of its
// name. The folder is a file system of its own, in memory: fast, and gone with
// everything that is mounted below it in one unmount.
func (f folder) claim() error {
	return withStateRoot(func() error {
		err := os.Mkdir(string(f), 0o700)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("exists already; use it, remove it with `%s`, or choose another --name", commandFor("down", filepath.Base(string(f))))
		}
		if err != nil {
			return err
		}
		err = unix.Mount("berth-lab", string(f), "tmpfs", 0, "mode=0700")
		if err == nil {
			err = limits().Raise()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("prepare %s: %w", f, err), f.delete())
		}
		return nil
	})
}

// remove deletes the folder with all that is mounted below it. The last lab puts
// back the limits of the machine.
func (f folder) remove() error {
	return withStateRoot(func() error {
		if err := f.delete(); err != nil {
			return err
		}
		entries, err := os.ReadDir(stateRoot)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if entry.Name() != limitsFile {
				return nil // another lab
			}
		}
		return limits().Restore()
	})
}

func (f folder) delete() error {
	for {
		err := unix.Unmount(string(f), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not, or no longer, a mount point
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", f, err)
		}
	}
	return os.RemoveAll(string(f))
}

// withStateRoot runs fn while the folder of all labs exists and no other process
// does the same. It removes the folder if that is empty afterwards.
func withStateRoot(fn func() error) error {
	root, err := lockStateRoot()
	if err != nil {
		return fmt.Errorf("lock %s: %w", stateRoot, err)
	}
	defer func() { _ = root.Close() }() // and so unlocks it
	if err := fn(); err != nil {
		return err
	}
	err = os.Remove(stateRoot)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// lockStateRoot returns the open and locked folder. Who had the lock before may
// have removed the folder: then the lock is on something that nobody else sees.
func lockStateRoot() (*os.File, error) {
	for {
		if err := os.MkdirAll(stateRoot, 0o700); err != nil {
			return nil, err
		}
		root, err := os.Open(stateRoot)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(root.Fd()), unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, root.Close())
		}
		locked, err := root.Stat()
		if err != nil {
			return nil, errors.Join(err, root.Close())
		}
		if current, err := os.Stat(stateRoot); err == nil && os.SameFile(locked, current) {
			return root, nil
		}
		_ = root.Close()
	}
}
