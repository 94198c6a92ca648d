package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/berth-lb/berth/internal/lab/agent"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/ociimage"
)

// DefaultName is that of a lab whose user did not choose one.
const DefaultName = "lab"

// Options say what a lab consists of.
type Options struct {
	// Name tells labs apart: up to 20 lower-case letters and digits.
	Name string `json:"name"`
	// Nodes is how many nodes there are: 0 to network.MaxNodes.
	Nodes int `json:"nodes"`
	// Routers is how many routers join the nodes' network to the client behind them:
	// 1 or 2. Zero means 1.
	Routers int `json:"routers,omitempty"`
	// IPFamily of nodes, Pods and Services.
	IPFamily network.Family `json:"ipFamily"`
	// Berth says whether Manifest is applied and waited for.
	Berth bool `json:"berth"`
	// Manifest is the file that installs Berth; by default deploy/berth.yaml of
	// the source tree that BinDir is in.
	Manifest string `json:"manifest"`
	// Images maps more image names, or the same to something else, to the binaries that
	// are their entrypoints, or to OCI image archives, whose names end in .tar.
	// Registry and tag of a name do not matter.
	Images map[string]string `json:"images,omitempty"`
	// BinDir has the binaries lab, kube, agnhost, controller and speaker; by
	// default where the running program is or the bin folder of a folder above
	// the working folder.
	BinDir string `json:"binDir"`
	// Progress, if not nil, is told each step that has been completed.
	Progress func(step string) `json:"-"`
}

// DefaultOptions are those of `lab up` without flags.
func DefaultOptions() Options {
	return Options{Name: DefaultName, Nodes: 3, IPFamily: network.Dual, Berth: true}
}

// validName is strict because names become parts of namespaces' names: with a
// dash allowed, lab "a" could not be told from a part of lab "a-b".
var validName = regexp.MustCompile(`^[a-z0-9]{1,20}$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name: %q is not made of 1 to 20 lower-case letters and digits", name)
	}
	return nil
}

// complete checks the options and fills in what was left to defaults.
func (o Options) complete() (Options, error) {
	errs := []error{checkName(o.Name)}
	if _, err := o.plan(); err != nil {
		errs = append(errs, err)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.BinDir == "" {
		var err error
		if o.BinDir, err = findBinDir(); err != nil {
			return o, errors.Join(append(errs, err)...)
		}
	}
	if o.Manifest == "" {
		o.Manifest = filepath.Join(filepath.Dir(o.BinDir), "deploy", "berth.yaml")
	}
	images := map[string]string{}
	for image, binary := range o.Images {
		absolute, err := filepath.Abs(binary)
		if err != nil {
			errs = append(errs, fmt.Errorf("image %s: %w", image, err))
		}
		images[imageBaseName(image)] = absolute
	}
	o.Images = images
	if o.Berth && o.Nodes == 0 {
		errs = append(errs, errors.New("berth: needs at least one node to run on; use --berth=false for a lab without nodes"))
	}
	return o, errors.Join(append(errs, o.checkFiles())...)
}

// plan lays out the lab's network.
func (o Options) plan() (network.Plan, error) {
	plan, err := network.NewPlan(o.Nodes, o.IPFamily)
	if err != nil {
		return network.Plan{}, err
	}
	switch o.Routers {
	case 0, 1:
		return plan, nil
	case 2:
		return plan.WithSecondRouter(), nil
	default:
		return network.Plan{}, fmt.Errorf("routers: %d is not 1 or 2", o.Routers)
	}
}

// checkFiles reports every file that the lab needs and does not find.
func (o Options) checkFiles() error {
	binaries := []string{o.bin("lab"), o.bin("kube")}
	if o.Nodes > 0 {
		binaries = append(binaries, o.bin("agnhost"))
	}
	for _, image := range []string{"controller", "speaker"} {
		if _, replaced := o.Images[image]; o.Berth && !replaced {
			binaries = append(binaries, o.bin(image))
		}
	}
	var errs []error
	if o.Nodes > 0 {
		// kube-proxy would only say that the kernel lacks nftables.
		if _, err := exec.LookPath("nft"); err != nil {
			errs = append(errs, errors.New("nft is not installed; install the package nftables"))
		}
	}
	for _, binary := range binaries {
		if err := checkFile(binary); err != nil {
			errs = append(errs, fmt.Errorf("%w; build it with `make build`", err))
		}
	}
	for _, image := range slices.Sorted(maps.Keys(o.Images)) {
		if err := checkFile(o.Images[image]); err != nil {
			errs = append(errs, fmt.Errorf("image %s: %w", image, err))
		}
	}
	if o.Berth {
		if err := checkFile(o.Manifest); err != nil {
			errs = append(errs, fmt.Errorf("manifest: %w; make it with `make generate`", err))
		}
	}
	return errors.Join(errs...)
}

func checkFile(name string) error {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s does not exist", name)
	}
	if err == nil && info.IsDir() {
		return fmt.Errorf("%s is a folder", name)
	}
	return err
}

func (o Options) bin(name string) string { return filepath.Join(o.BinDir, name) }

// findBinDir looks for the lab's binaries beside the running program, then in the
// bin folder of the working folder and of those above it, where tests run.
func findBinDir() (string, error) {
	executable, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find binaries: %w", err)
	}
	if folder := filepath.Dir(executable); checkFile(filepath.Join(folder, "kube")) == nil {
		return folder, nil
	}
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find binaries: %w", err)
	}
	for folder := start; ; folder = filepath.Dir(folder) {
		bin := filepath.Join(folder, "bin")
		if checkFile(filepath.Join(bin, "kube")) == nil && checkFile(filepath.Join(bin, "lab")) == nil {
			return bin, nil
		}
		if folder == filepath.Dir(folder) {
			return "", fmt.Errorf("binaries lab and kube are neither beside %s nor in bin/ of %s or a folder above; build them with `make build`", executable, start)
		}
	}
}

// imageBaseName is what is left of an image's name without registry, tag and
// digest: controller for ghcr.io/berth-lb/controller:v1.
func imageBaseName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	base, _, _ := strings.Cut(path.Base(image), ":")
	return base
}

// images maps the base name of every known image to what it consists of. Archives are
// unpacked into the folder.
func (o Options) images(folder string) (map[string]agent.Image, error) {
	all := map[string]agent.Image{
		"agnhost":    {Entrypoint: []string{o.bin("agnhost")}},
		"pause":      {Entrypoint: []string{o.bin("lab"), "pause"}},
		"streamer":   {Entrypoint: []string{o.bin("lab"), "streamer"}},
		"controller": {Entrypoint: []string{o.bin("controller")}},
		"speaker":    {Entrypoint: []string{o.bin("speaker")}},
	}
	for name, file := range o.Images {
		if filepath.Ext(file) != ".tar" {
			all[name] = agent.Image{Entrypoint: []string{file}}
			continue
		}
		root := filepath.Join(folder, name)
		if err := os.MkdirAll(root, 0o755); err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		c, err := ociimage.Unpack(file, runtime.GOARCH, root)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		all[name] = agent.Image{Root: root, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, Dir: c.WorkingDir}
	}
	return all, nil
}

// Family re-exports network.Family for callers that need no more of it.
type Family = network.Family
