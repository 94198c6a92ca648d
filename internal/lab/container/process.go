package container

import (
	"encoding/json"
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

// drainTime is how long output may still arrive after the last process that the
// container is known to have had is gone.
const drainTime = 2 * time.Second

// Options say what Start runs, and where.
type Options struct {
	Spec Spec
	// Network is the name of a network namespace; that of the caller if empty.
	Network string
	// Stdout and Stderr receive the output. Neither is closed. If writing blocks,
	// the container's processes block as well.
	Stdout, Stderr io.Writer
}

// Exit is how a process ended.
type Exit struct {
	// Code is the exit status, or 128 plus the signal's number.
	Code int
	// Signal that ended it, or 0.
	Signal syscall.Signal
	At     time.Time
}

// Process is a running container.
type Process struct {
	spec    Spec
	command *exec.Cmd
	done    chan struct{}
	exit    Exit // valid once done is closed
}

// Start runs a container. When it returns without error, the program has been
// executed; if the program could not be, the error says why.
func Start(options Options) (*Process, error) {
	if err := options.Spec.validate(); err != nil {
		return nil, fmt.Errorf("container spec: %w", err)
	}
	spec, err := json.Marshal(options.Spec)
	if err != nil {
		return nil, fmt.Errorf("container spec: %w", err)
	}
	specIn, specOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = specOut.Close() }()
	reportIn, reportOut, err := os.Pipe()
	if err != nil {
		_ = specIn.Close()
		return nil, err
	}
	defer func() { _ = reportIn.Close() }()
	command := initCommand(options, []*os.File{specIn, reportOut})
	err = startIn(options.Network, command)
	_ = specIn.Close()
	_ = reportOut.Close()
	if err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	p := &Process{spec: options.Spec, command: command, done: make(chan struct{})}
	return p, p.handOver(spec, specOut, reportIn)
}

// initCommand re-executes this program as the container's first process.
func initCommand(options Options, inherited []*os.File) *exec.Cmd {
	return &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{"container", InitCommand},
		Env:        []string{},
		Dir:        "/",
		Stdout:     options.Stdout,
		Stderr:     options.Stderr,
		ExtraFiles: inherited,
		WaitDelay:  drainTime,
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			Setsid:     true,
		},
	}
}

func startIn(network string, command *exec.Cmd) error {
	if network == "" {
		return command.Start()
	}
	return netns.Target{Name: network}.Start(command)
}

// handOver sends the spec, waits until the program runs, and watches it from then.
func (p *Process) handOver(spec []byte, out io.WriteCloser, report io.Reader) error {
	_, writeErr := out.Write(spec)
	closeErr := out.Close()
	problem, readErr := io.ReadAll(report)
	go p.wait()
	if err := errors.Join(writeErr, closeErr, readErr); err != nil && len(problem) == 0 {
		problem = []byte(err.Error())
	}
	if len(problem) == 0 {
		return nil
	}
	p.Kill()
	<-p.done
	return fmt.Errorf("start container: %s", problem)
}

// wait reaps the first process. It needs no context: the kernel ends the process
// at the latest when Kill is called.
func (p *Process) wait() {
	_ = p.command.Wait() // ProcessState says more than the error
	p.exit = exitOf(p.command.ProcessState)
	close(p.done)
}

func exitOf(state *os.ProcessState) Exit {
	exit := Exit{At: time.Now()}
	status, ok := state.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		exit.Signal = status.Signal()
		exit.Code = 128 + int(exit.Signal)
		return exit
	}
	exit.Code = state.ExitCode()
	return exit
}

// PID is the host's number of the container's first process.
func (p *Process) PID() int { return p.command.Process.Pid }

// Done is closed when the container has ended and all its output was written.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how it ended; valid once Done is closed.
func (p *Process) Exit() Exit { return p.exit }

// Signal sends a signal to the first process. As the first of its namespace, it
// only gets those that it handles (pid_namespaces(7)).
func (p *Process) Signal(signal syscall.Signal) error {
	err := p.command.Process.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Kill ends the container: when the first process of a PID namespace dies, the
// kernel kills all others (pid_namespaces(7)).
func (p *Process) Kill() {
	// The only possible failure is that it has ended already.
	_ = p.command.Process.Kill()
}
