package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// TerminalSize in characters.
type TerminalSize struct{ Width, Height uint16 }

// ExecOptions say what Exec runs. Streams that are nil are empty, or ignored.
type ExecOptions struct {
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Terminal runs the command on a new pseudo-terminal; both its outputs go to
	// Stdout.
	Terminal bool
	// Resize carries the sizes of the terminal; may be nil.
	Resize <-chan TerminalSize
}

// errContainerEnded is wrapped by what Exec returns when there is no container to
// run the command in.
var errContainerEnded = errors.New("container has ended")

// Exec runs one more command inside the container, with the credentials,
// environment and working folder of its first process. It returns the command's
// exit status. The end of ctx kills the command and everything in its session's
// process group.
func (p *Process) Exec(ctx context.Context, options ExecOptions) (Exit, error) {
	if len(options.Args) == 0 {
		return Exit{}, errors.New("exec: name a command")
	}
	select {
	case <-p.done:
		return Exit{}, fmt.Errorf("exec %s: %w", options.Args[0], errContainerEnded)
	default:
	}
	run := &execution{process: p, options: options}
	defer run.release()
	// The thread that joins the container is thrown away; only the command, forked
	// from it, lives on inside.
	if err := (netns.Target{PID: p.PID()}).Do(run.start); err != nil {
		return Exit{}, fmt.Errorf("exec %s: %w", options.Args[0], err)
	}
	return run.wait(ctx), nil
}

// execution is one command on its way through a container.
type execution struct {
	process  *Process
	options  ExecOptions
	command  *exec.Cmd
	terminal *os.File // our side of the pseudo-terminal
	stdin    *os.File // our end of the pipe
	theirs   []*os.File
}

// start runs on a thread inside the container's namespaces.
func (e *execution) start() error {
	spec := e.process.spec
	if err := spec.Credentials.assume(); err != nil {
		return err
	}
	path, err := lookPath(e.options.Args[0], spec.Env)
	if err != nil {
		return err
	}
	e.command = &exec.Cmd{
		Path:        path,
		Args:        e.options.Args,
		Env:         spec.Env,
		Dir:         spec.dir(),
		WaitDelay:   drainTime,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if spec.Env == nil {
		e.command.Env = []string{} // nil would mean the caller's
	}
	if err := e.connect(); err != nil {
		return err
	}
	return e.command.Start()
}

func (e *execution) connect() error {
	if e.options.Terminal {
		return e.connectTerminal()
	}
	e.command.Stdout, e.command.Stderr = e.options.Stdout, e.options.Stderr
	if e.options.Stdin == nil {
		return nil
	}
	// Not command.Stdin: Wait would wait for a client that keeps its end open.
	theirs, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	e.stdin, e.theirs = ours, append(e.theirs, theirs)
	e.command.Stdin = theirs
	return nil
}

func (e *execution) connectTerminal() error {
	ours, err := os.OpenFile("/dev/pts/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	e.terminal = ours
	var number int
	err = control(ours, func(fd int) (err error) {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err != nil {
		return fmt.Errorf("unlock terminal: %w", err)
	}
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	e.theirs = append(e.theirs, theirs)
	e.command.Stdin, e.command.Stdout, e.command.Stderr = theirs, theirs, theirs
	e.command.SysProcAttr.Setctty = true
	return nil
}

// release closes what is left open, also after a failed start.
func (e *execution) release() {
	for _, file := range append(e.theirs, e.stdin, e.terminal) {
		if file != nil {
			_ = file.Close()
		}
	}
}

func (e *execution) wait(ctx context.Context) Exit {
	for _, file := range e.theirs {
		_ = file.Close()
	}
	e.theirs = nil
	stop := context.AfterFunc(ctx, e.kill)
	defer stop()
	output := make(chan struct{})
	switch {
	case e.terminal != nil:
		go e.serveTerminal(output)
	default:
		close(output)
		if e.stdin != nil {
			go pour(e.stdin, e.options.Stdin)
		}
	}
	ended := make(chan struct{})
	defer close(ended)
	go e.resize(ended)
	_ = e.command.Wait() // ProcessState says more than the error
	if e.terminal != nil {
		// A process left in the background may keep the terminal open for ever.
		_ = e.terminal.SetReadDeadline(time.Now().Add(drainTime))
	}
	<-output
	return exitOf(e.command.ProcessState)
}

// control calls fn with the file's descriptor. Unlike Fd it leaves the file in
// non-blocking mode, without which deadlines have no effect.
func control(file *os.File, fn func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// pour copies until either side ends, and passes the end on.
func pour(to *os.File, from io.Reader) {
	_, _ = io.Copy(to, from) // a command need not read all of its input
	_ = to.Close()
}

// serveTerminal returns when the last process that has the terminal open is gone:
// reading from it then fails.
func (e *execution) serveTerminal(done chan<- struct{}) {
	defer close(done)
	if e.options.Stdin != nil {
		go func() { _, _ = io.Copy(e.terminal, e.options.Stdin) }()
	}
	out := e.options.Stdout
	if out == nil {
		out = io.Discard
	}
	_, _ = io.Copy(out, e.terminal)
}

func (e *execution) resize(ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case size, open := <-e.options.Resize:
			if !open || e.terminal == nil {
				return
			}
			// A terminal that keeps its size is no reason to fail.
			_ = control(e.terminal, func(fd int) error {
				return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: size.Width, Row: size.Height})
			})
		}
	}
}

// kill ends the process group that the command leads since setsid(2).
func (e *execution) kill() {
	_ = syscall.Kill(-e.command.Process.Pid, syscall.SIGKILL)
}
