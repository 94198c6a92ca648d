package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// InitCommand is the hidden first argument by which a program that uses Start
// recognises that it must call Init.
const InitCommand = "container-init"

// Files that the first process inherits: where its spec comes from, and where it
// says why it could not start. The latter closes when the program is executed.
const (
	specFD   = 3
	reportFD = 4
)

// startFailed is the exit status of a container whose program never ran, as
// container runtimes report it.
const startFailed = 128

// Init is the first process of a container: it sets up what Start described and
// becomes the program. It never returns. A program that calls Start must call it
// when its first argument is InitCommand.
func Init() {
	// Credentials belong to the thread that makes the final execve(2).
	runtime.LockOSThread()
	err := run()
	report := os.NewFile(reportFD, "report")
	_, _ = fmt.Fprint(report, err) // there is nobody else to tell
	os.Exit(startFailed)
}

func run() error {
	unix.CloseOnExec(reportFD)
	spec, err := readSpec()
	if err != nil {
		return fmt.Errorf("read spec: %w", err)
	}
	unix.Umask(0)
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set hostname %q: %w", spec.Hostname, err)
	}
	if err := spec.enterRoot(); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := unix.Chdir(spec.dir()); err != nil {
		return fmt.Errorf("enter working folder %s: %w", spec.Dir, err)
	}
	path, err := lookPath(spec.Args[0], spec.Env)
	if err != nil {
		return err
	}
	if err := spec.Credentials.assume(); err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", path, unix.Exec(path, spec.Args, spec.Env))
}

func readSpec() (Spec, error) {
	in := os.NewFile(specFD, "spec")
	if in == nil {
		return Spec{}, errors.New("file 3 is not open; this command is not for people")
	}
	defer func() { _ = in.Close() }()
	data, err := io.ReadAll(in)
	if err != nil {
		return Spec{}, err
	}
	var spec Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return Spec{}, err
	}
	return spec, spec.validate()
}

func (s Spec) dir() string {
	if s.Dir == "" {
		return "/"
	}
	return s.Dir
}

// defaultPath is what container runtimes search if an image sets no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds a command as execvp(3) would, in the PATH of env.
func lookPath(command string, env []string) (string, error) {
	if strings.Contains(command, "/") {
		return command, nil
	}
	path := defaultPath
	for _, variable := range env {
		if value, found := strings.CutPrefix(variable, "PATH="); found {
			path = value
		}
	}
	for _, dir := range filepath.SplitList(path) {
		candidate := filepath.Join(dir, command)
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("execute %s: not found in PATH %s", command, path)
}
