package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// Spec says what to start and where.
type Spec struct {
	// Name and Host become those of the Record.
	Name, Host string
	// Args are the program's path and its arguments.
	Args []string
	// Env is its whole environment, as NAME=value: what the caller happens to have
	// set, such as a proxy, is none of its business.
	Env []string
	// Inherited are open files that become descriptors 3, 4, ….
	Inherited []*os.File
	// Namespace is the network namespace that it runs in.
	Namespace string
}

// Folders are where a lab keeps what belongs to its processes.
type Folders struct {
	// Records has a Record of each, Logs what each wrote.
	Records, Logs string
}

// Log is the file with the output of the process called name.
func (f Folders) Log(name string) string { return filepath.Join(f.Logs, name+".log") }

// Start starts a process in the background: in a session of its own, so that it
// outlives the caller and its terminal, with its output in a log file. The caller
// must wait for the command.
func (f Folders) Start(spec Spec) (*exec.Cmd, error) {
	if _, err := os.Stat(spec.Args[0]); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("start %s: %s does not exist; build it with `make build`", spec.Name, spec.Args[0])
	}
	log, err := os.OpenFile(f.Log(spec.Name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(spec.Args[0], spec.Args[1:]...)
	cmd.Dir = "/"
	cmd.Env = spec.Env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = spec.Inherited
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	target := netns.Target{Name: spec.Namespace, Hostname: spec.Host}
	if err := target.Start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	record, err := Identify(cmd.Process.Pid)
	if err == nil {
		record.Name, record.Host = spec.Name, spec.Host
		err = record.Save(f.Records)
	}
	if err != nil {
		err = errors.Join(err, cmd.Process.Kill(), cmd.Wait())
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return cmd, nil
}
