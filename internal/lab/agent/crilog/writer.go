package crilog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxPart is how many bytes of a line are kept in memory, and so the size of its
// parts on disk. It is containerd's default.
const maxPart = 16 << 10

// Names of the two streams.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// Writer stores the output of one run of a container.
type Writer struct {
	mu      sync.Mutex
	file    *os.File
	now     func() time.Time
	streams []*stream
}

// Create makes the file and its folder. It is appended to if it exists.
func Create(path string, now func() time.Time) (*Writer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("container log: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("container log: %w", err)
	}
	return &Writer{file: file, now: now}, nil
}

// Stream returns the writer for Stdout or Stderr.
func (w *Writer) Stream(name string) io.Writer {
	s := &stream{log: w, name: name}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams = append(w.streams, s)
	return s
}

// Close stores what is left of unfinished lines and closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, s := range w.streams {
		if len(s.pending) > 0 {
			errs = append(errs, s.store(s.pending, partial))
		}
	}
	return errors.Join(append(errs, w.file.Close())...)
}

// Tags of a stored line.
const (
	full    = "F"
	partial = "P"
)

type stream struct {
	log     *Writer
	name    string
	pending []byte
}

// Write never fails because of a full disk: it would stop the container, whose
// output is worth less than its service.
func (s *stream) Write(data []byte) (int, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	written := len(data)
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		room := maxPart - len(s.pending)
		switch {
		case end >= 0 && end <= room:
			_ = s.store(append(s.pending, data[:end]...), full)
			s.pending, data = s.pending[:0], data[end+1:]
		case len(data) >= room:
			_ = s.store(append(s.pending, data[:room]...), partial)
			s.pending, data = s.pending[:0], data[room:]
		default:
			s.pending, data = append(s.pending, data...), nil
		}
	}
	return written, nil
}

func (s *stream) store(line []byte, tag string) error {
	entry := make([]byte, 0, len(line)+64)
	entry = s.log.now().UTC().AppendFormat(entry, timeFormat)
	entry = append(entry, ' ')
	entry = append(entry, s.name...)
	entry = append(entry, ' ')
	entry = append(entry, tag...)
	entry = append(entry, ' ')
	entry = append(entry, line...)
	entry = append(entry, '\n')
	_, err := s.log.file.Write(entry)
	return err
}

// timeFormat has a fixed width, unlike time.RFC3339Nano.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"
