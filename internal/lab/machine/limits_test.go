package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

const (
	low     = "fs/inotify/max_user_instances"
	high    = "net/ipv4/neigh/default/gc_thresh3"
	missing = "net/ipv6/neigh/default/gc_thresh3"
)

// fakeLimits has one limit that is too low, one that is high enough, and lacks
// the rest.
func fakeLimits(t *testing.T) Limits {
	t.Helper()
	l := Limits{root: t.TempDir(), saved: filepath.Join(t.TempDir(), "limits.json")}
	for name, value := range map[string]int{low: 128, high: 1 << 20} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(l.root, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.write(name, value); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func check(t *testing.T, l Limits, name string, want int) {
	t.Helper()
	if got, err := l.read(name); err != nil || got != want {
		t.Errorf("%s = %d, error %v; want %d", name, got, err, want)
	}
}

func TestRaiseAndRestore(t *testing.T) {
	t.Parallel()
	l := fakeLimits(t)
	for range 2 { // the second lab finds them raised and must not remember that
		if err := l.Raise(); err != nil {
			t.Fatal(err)
		}
		check(t, l, low, minimums()[low])
		check(t, l, high, 1<<20)
	}
	for range 2 {
		if err := l.Restore(); err != nil {
			t.Fatal(err)
		}
		check(t, l, low, 128)
		check(t, l, high, 1<<20)
	}
	if _, err := os.Stat(l.saved); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left (error %v)", l.saved, err)
	}
	if _, err := os.Stat(filepath.Join(l.root, missing)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s was made (error %v)", missing, err)
	}
}

func TestNothingToRaiseLeavesNoFile(t *testing.T) {
	t.Parallel()
	l := fakeLimits(t)
	if err := l.write(low, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := l.Raise(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.saved); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s exists (error %v)", l.saved, err)
	}
}

func TestBrokenFileIsReported(t *testing.T) {
	t.Parallel()
	l := fakeLimits(t)
	if err := os.WriteFile(l.saved, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Raise(); err == nil {
		t.Error("raise: no error")
	}
	if err := l.Restore(); err == nil {
		t.Error("restore: no error")
	}
	check(t, l, low, 128)
}
