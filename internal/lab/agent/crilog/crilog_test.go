package crilog

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var began = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// ticking returns a clock that moves by a second with every look at it.
func ticking() func() time.Time {
	at := began
	return func() time.Time {
		at = at.Add(time.Second)
		return at
	}
}

func newLog(t *testing.T) (*Writer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "folder", "0.log")
	w, err := Create(path, ticking())
	if err != nil {
		t.Fatal(err)
	}
	return w, path
}

func write(t *testing.T, w interface{ Write([]byte) (int, error) }, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if n, err := w.Write([]byte(part)); err != nil || n != len(part) {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
}

func number(n int64) *int64 { return &n }

func TestCopy(t *testing.T) {
	t.Parallel()
	w, path := newLog(t)
	write(t, w.Stream(Stdout), "one\ntw", "o\n\nfo")
	write(t, w.Stream(Stderr), "problem\n")
	write(t, w.Stream(Stdout), strings.Repeat("x", maxPart+5)+"\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", maxPart+5) + "\n"
	tests := map[string]struct {
		options Options
		want    string
	}{
		"all":          {Options{}, "one\ntwo\n\nproblem\n" + long + "fo"},
		"tail":         {Options{Tail: number(1)}, "fo"},
		"no tail":      {Options{Tail: number(0)}, ""},
		"longer tail":  {Options{Tail: number(100)}, "one\ntwo\n\nproblem\n" + long + "fo"},
		"limit":        {Options{LimitBytes: 5}, "one\nt"},
		"since":        {Options{Since: began.Add(4 * time.Second), LimitBytes: 8}, "problem\n"},
		"timestamps":   {Options{Timestamps: true, LimitBytes: 35}, "2030-01-01T00:00:01.000000000Z one\n"},
		"tail, marked": {Options{Timestamps: true, Tail: number(1)}, "2030-01-01T00:00:07.000000000Z fo"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := Copy(t.Context(), &out, path, test.options); err != nil {
				t.Fatal(err)
			}
			if out.String() != test.want {
				t.Errorf("got %.80q, want %.80q", out.String(), test.want)
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		t.Parallel()
		if err := Copy(t.Context(), &bytes.Buffer{}, path+"x", Options{}); err == nil {
			t.Error("no error")
		}
	})
}

// shared can be written and read concurrently and tells of every write.
type shared struct {
	mu      sync.Mutex
	text    string
	written chan struct{}
}

func (s *shared) Write(data []byte) (int, error) {
	s.mu.Lock()
	s.text += string(data)
	s.mu.Unlock()
	s.written <- struct{}{}
	return len(data), nil
}

func TestFollow(t *testing.T) {
	t.Parallel()
	w, path := newLog(t)
	stdout := w.Stream(Stdout)
	ended, done := make(chan struct{}), make(chan error, 1)
	out := &shared{written: make(chan struct{}, 100)}
	go func() { done <- Copy(t.Context(), out, path, Options{Ended: ended}) }()
	for i := range 3 {
		write(t, stdout, fmt.Sprintln("line", i))
		<-out.written
	}
	write(t, stdout, "last")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	close(ended)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if want := "line 0\nline 1\nline 2\nlast"; out.text != want {
		t.Errorf("got %q, want %q", out.text, want)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w, path := newLog(t)
	t.Cleanup(func() { _ = w.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Copy(ctx, &bytes.Buffer{}, path, Options{Ended: make(chan struct{})}); err != nil {
		t.Error(err)
	}
}

func TestWriterAppends(t *testing.T) {
	t.Parallel()
	w, path := newLog(t)
	write(t, w.Stream(Stdout), "old\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Create(path, ticking())
	if err != nil {
		t.Fatal(err)
	}
	write(t, again.Stream(Stdout), "new\n")
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Copy(t.Context(), &out, path, Options{}); err != nil || out.String() != "old\nnew\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
