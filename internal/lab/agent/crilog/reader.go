package crilog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// pollInterval is how often a followed file is looked at for more.
const pollInterval = 100 * time.Millisecond

// Options choose what Copy writes.
type Options struct {
	// Tail is the number of lines from the end; all if nil.
	Tail *int64
	// Since leaves out what is older.
	Since time.Time
	// Timestamps puts its time before each line.
	Timestamps bool
	// LimitBytes ends the output; 0 means no limit.
	LimitBytes int64
	// Ended is closed when nothing more will be stored. If it is not nil, Copy goes
	// on until then.
	Ended <-chan struct{}
}

// Copy writes the lines stored at path to out. With Ended, it also writes what is
// stored later, and returns when Ended is closed or ctx ends.
func Copy(ctx context.Context, out io.Writer, path string, options Options) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("container log: %w", err)
	}
	defer func() { _ = file.Close() }()
	if options.Tail != nil {
		if err := seekTail(file, *options.Tail); err != nil {
			return fmt.Errorf("container log: %w", err)
		}
	}
	if options.LimitBytes > 0 {
		out = &limited{out: out, left: options.LimitBytes}
	}
	c := copier{in: bufio.NewReaderSize(file, 64<<10), out: out, options: options}
	err = c.run(ctx)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

type copier struct {
	in      *bufio.Reader
	out     io.Writer
	options Options
	rest    []byte // a line that is not yet stored whole
}

func (c *copier) run(ctx context.Context) error {
	for {
		// Asked before reading: what is stored before the end must not be missed.
		last := c.options.Ended == nil || ended(c.options.Ended)
		if err := c.drain(); err != nil || last {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.options.Ended:
		case <-time.After(pollInterval):
		}
	}
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// drain copies all lines that are stored whole.
func (c *copier) drain() error {
	for {
		part, err := c.in.ReadSlice('\n')
		c.rest = append(c.rest, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := c.line(c.rest[:len(c.rest)-1]); err != nil {
			return err
		}
		c.rest = c.rest[:0]
	}
}

func (c *copier) line(stored []byte) error {
	fields := bytes.SplitN(stored, []byte(" "), 4)
	if len(fields) < 4 {
		return nil // written by somebody else
	}
	if !c.options.Since.IsZero() {
		at, err := time.Parse(timeFormat, string(fields[0]))
		if err != nil || at.Before(c.options.Since) {
			return nil
		}
	}
	text := fields[3]
	if c.options.Timestamps {
		text = bytes.Join([][]byte{fields[0], text}, []byte(" "))
	}
	if string(fields[2]) == full {
		text = append(bytes.Clone(text), '\n')
	}
	_, err := c.out.Write(text)
	return err
}

// seekTail moves to the start of the nth line from the end, reading backwards.
func seekTail(file *os.File, n int64) error {
	position, err := file.Seek(0, io.SeekEnd)
	if err != nil || n <= 0 {
		return err
	}
	block := make([]byte, 32<<10)
	for newlines := int64(0); position > 0; {
		size := min(int64(len(block)), position)
		position -= size
		if _, err := file.ReadAt(block[:size], position); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if block[i] != '\n' {
				continue
			}
			if newlines++; newlines > n {
				_, err := file.Seek(position+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

// errLimit ends the copying when LimitBytes are out.
var errLimit = errors.New("limit reached")

type limited struct {
	out  io.Writer
	left int64
}

func (l *limited) Write(data []byte) (int, error) {
	if int64(len(data)) > l.left {
		data = data[:l.left]
	}
	n, err := l.out.Write(data)
	l.left -= int64(n)
	if err == nil && l.left <= 0 {
		err = errLimit
	}
	return n, err
}
