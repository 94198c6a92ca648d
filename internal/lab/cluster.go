package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/berth-lb/berth/internal/lab/agent"
	"github.com/berth-lb/berth/internal/lab/network"
)

// Cluster is a lab that runs, or is being started. All of its state is in files
// and in the kernel, so that any number of processes can hold the same one.
type Cluster struct {
	state state
	plan  network.Plan
	net   network.Network
	dir   folder
	// children are waited for by this process, which is the one that started them.
	children *sync.WaitGroup
}

// stateFile is the file in a lab's folder that makes it a lab.
const stateFile = "lab.json"

// state is what lab.json holds: what cannot be found out from the kernel.
type state struct {
	Options Options `json:"options"`
	// Images are those that containers can be started from.
	Images map[string]agent.Image `json:"images"`
	// APIPort is the TCP port on 127.0.0.1 that leads to the API server.
	APIPort uint16 `json:"apiPort"`
	// Ready is set once Up has succeeded.
	Ready bool `json:"ready"`
}

// namespacePrefix starts the names of all network namespaces of a lab.
func namespacePrefix(name string) string { return "berth-" + name + "-" }

// ErrNotUp is returned for a lab that does not exist.
var ErrNotUp = errors.New("not up")

// Open returns the running lab called name.
func Open(name string) (*Cluster, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	content, err := os.ReadFile(stateFolder(name).join(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notUp(name)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	var state state
	if err := json.Unmarshal(content, &state); err != nil {
		return nil, fmt.Errorf("lab %s: lab.json: %w; remove the lab with `%s`", name, err, commandFor("down", name))
	}
	return newCluster(state)
}

// notUp says that a lab does not exist, and which do: most often it is the name
// that is wrong.
func notUp(name string) error {
	command := commandFor("up", name)
	others, err := upNames()
	switch {
	case err != nil:
		return errors.Join(fmt.Errorf("lab %s: %w; start it with `%s`", name, ErrNotUp, command), err)
	case len(others) == 0:
		return fmt.Errorf("lab %s: %w, nor is any other; start it with `%s`", name, ErrNotUp, command)
	}
	return fmt.Errorf("lab %s: %w; those that are: %s; choose one by --name or BERTH_LAB, or start this one with `%s`",
		name, ErrNotUp, strings.Join(others, ", "), command)
}

// commandFor is what to type to have a command of the lab's own run on it.
func commandFor(command, name string) string {
	if name == DefaultName {
		return "lab " + command
	}
	return "lab " + command + " --name " + name
}

// upNames returns the names of the labs that Open finds, in alphabetical order.
func upNames() ([]string, error) {
	files, err := filepath.Glob(stateFolder("*").join(stateFile))
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var names []string
	for _, file := range files {
		names = append(names, filepath.Base(filepath.Dir(file)))
	}
	return names, nil
}

func newCluster(state state) (*Cluster, error) {
	plan, err := state.Options.plan()
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", state.Options.Name, err)
	}
	return &Cluster{
		state:    state,
		plan:     plan,
		net:      network.New(plan, namespacePrefix(state.Options.Name)),
		dir:      stateFolder(state.Options.Name),
		children: &sync.WaitGroup{},
	}, nil
}

// errNotRoot says what everything but help needs.
var errNotRoot = errors.New("network namespaces need root; use sudo")

// Name of the lab.
func (c *Cluster) Name() string { return c.state.Options.Name }

// Plan says which hosts there are and their addresses.
func (c *Cluster) Plan() network.Plan { return c.plan }

// Log is the file with the output of a background process, such as
// kube-apiserver or kube-proxy@node-1.
func (c *Cluster) Log(process string) string { return c.dir.processes().Log(process) }

// save writes lab.json.
func (c *Cluster) save() error {
	content, err := json.MarshalIndent(c.state, "", "  ")
	if err != nil {
		return fmt.Errorf("lab.json: %w", err)
	}
	return writeFile(c.dir.join(stateFile), content)
}

// writeFile replaces a file in one step, so that no reader sees half of it.
func writeFile(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
