package routers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berth-lb/berth/internal/lab/proc"
)

// Kind is a routing daemon.
type Kind string

// The kinds.
const (
	FRR  Kind = "frr"
	BIRD Kind = "bird"
)

// Kinds returns both.
func Kinds() []Kind { return []Kind{FRR, BIRD} }

// Site is where a router runs.
type Site struct {
	// Host names it in records of processes; Namespace is its network.
	Host, Namespace string
	// Folder is the router's own: configuration, sockets, state. Its path must be
	// short enough for sockets: 80 bytes.
	Folder string
	// Processes are where records and logs go.
	Processes proc.Folders
}

// Router is a routing daemon on one host. All of its state is in files and
// processes, so that any number of programs can hold the same one; two must not
// change it at the same time.
type Router struct {
	site Site
	kind Kind
	// config that it has, or will have once it runs.
	config Config
	flavor flavor
}

// flavor is what differs between the kinds.
type flavor interface {
	// daemons in the order in which they have to be started.
	daemons(config Config) []daemon
	// prepare writes what daemons read when they start.
	prepare(config Config) error
	// started is called when daemons have been started, which may have lost
	// whatever they were told.
	started(ctx context.Context, config Config) error
	// change turns the configuration of running daemons into another.
	change(ctx context.Context, before, after Config) error
	// console is the command that hands others to the daemons.
	console(commands []string) []string
	// scripts are the programs that people talk to the daemons with, by name.
	scripts() map[string]string

	routes(ctx context.Context, family Family) (Table, error)
	route(ctx context.Context, prefix netip.Prefix) ([]Path, error)
	sessions(ctx context.Context) ([]Session, error)
	bfdSessions(ctx context.Context) ([]BFDSession, error)
}

// daemon is a program of a router.
type daemon struct {
	name string
	// program is its file, args the command that becomes it.
	program string
	args    []string
	// socket is where it answers once it is ready.
	socket string
}

// saved is what router.json holds.
type saved struct {
	Kind   Kind   `json:"kind"`
	Config Config `json:"config"`
}

// ErrNone is returned when a site has no router.
var ErrNone = errors.New("no router has been set up")

// New returns a router for a site that has none, or one that does not run: what
// was there before is forgotten.
func New(kind Kind, site Site) (*Router, error) {
	if old, err := Open(site); err == nil && old.Running() {
		return nil, fmt.Errorf("router on %s: %s runs; stop it first", site.Host, old.kind)
	}
	r := &Router{site: site, kind: kind}
	if err := r.complete(); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(site.Folder); err != nil {
		return nil, fmt.Errorf("router on %s: %w", site.Host, err)
	}
	for _, folder := range []string{site.Folder, r.file("bin")} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("router on %s: %w", site.Host, err)
		}
	}
	for name, script := range r.flavor.scripts() {
		if err := os.WriteFile(r.file("bin", name), []byte(script), 0o700); err != nil {
			return nil, fmt.Errorf("router on %s: %w", site.Host, err)
		}
	}
	return r, r.save()
}

// Open returns the router that a site has.
func Open(site Site) (*Router, error) {
	content, err := os.ReadFile(filepath.Join(site.Folder, "router.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("router on %s: %w", site.Host, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("router on %s: %w", site.Host, err)
	}
	var state saved
	if err := json.Unmarshal(content, &state); err != nil {
		return nil, fmt.Errorf("router on %s: router.json: %w", site.Host, err)
	}
	r := &Router{site: site, kind: state.Kind, config: state.Config}
	return r, r.complete()
}

func (r *Router) complete() error {
	switch r.kind {
	case FRR:
		r.flavor = frr{r}
	case BIRD:
		r.flavor = bird{r}
	default:
		return fmt.Errorf("router on %s: kind %q is unknown; use frr or bird", r.site.Host, r.kind)
	}
	// 107 bytes fit into the address of a socket (unix(7)).
	if longest := r.file("bgpd.vty.longest"); len(longest) > 107 {
		return fmt.Errorf("router on %s: %s is too long a path for sockets", r.site.Host, r.site.Folder)
	}
	for _, d := range r.flavor.daemons(r.config) {
		if _, err := os.Stat(d.program); err != nil {
			return fmt.Errorf("router on %s: %s is not installed; run `make packages`", r.site.Host, d.program)
		}
	}
	return nil
}

// file returns a path in the router's folder.
func (r *Router) file(elements ...string) string {
	return filepath.Join(append([]string{r.site.Folder}, elements...)...)
}

// answers reports whether somebody accepts connections on a socket.
func answers(ctx context.Context, socket string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func (r *Router) save() error {
	content, err := json.Marshal(saved{Kind: r.kind, Config: r.config})
	if err != nil {
		return fmt.Errorf("router on %s: %w", r.site.Host, err)
	}
	return writeFile(r.file("router.json"), content)
}

// writeFile replaces a file in one step, so that no reader sees half of it.
func writeFile(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Kind returns which daemon it is.
func (r *Router) Kind() Kind { return r.kind }

// Host returns where it runs.
func (r *Router) Host() string { return r.site.Host }

// Config returns what the router was told last.
func (r *Router) Config() Config { return r.config.clone() }

// Configure makes the router have a configuration, at once if it runs and else
// from its start on. Sessions that are the same in the old one are not touched.
func (r *Router) Configure(ctx context.Context, config Config) error {
	if err := config.Validate(); err != nil {
		return fmt.Errorf("router on %s: %w", r.site.Host, err)
	}
	config = config.clone()
	if r.Running() {
		if err := r.flavor.change(ctx, r.config, config); err != nil {
			return fmt.Errorf("router on %s: configure %s: %w", r.site.Host, r.kind, err)
		}
	}
	r.config = config
	return r.save()
}

// startTimeout is how long a daemon may take until it answers.
const startTimeout = 20 * time.Second

// Start starts the daemons that do not run, and returns when they answer and
// have their configuration.
func (r *Router) Start(ctx context.Context) error {
	if r.config.ASN == 0 {
		return fmt.Errorf("router on %s: is not configured", r.site.Host)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := r.start(ctx); err != nil {
		return fmt.Errorf("router on %s: start %s: %w", r.site.Host, r.kind, err)
	}
	return nil
}

func (r *Router) start(ctx context.Context) error {
	if !r.Running() {
		if err := r.flushRoutes(); err != nil {
			return err
		}
	}
	if err := r.flavor.prepare(r.config); err != nil {
		return err
	}
	any := false
	for _, d := range r.flavor.daemons(r.config) {
		if r.record(d.name).Alive() {
			continue
		}
		any = true
		if err := r.startDaemon(ctx, d); err != nil {
			return err
		}
	}
	if !any {
		return nil
	}
	return r.flavor.started(ctx, r.config)
}

func (r *Router) startDaemon(ctx context.Context, d daemon) error {
	if err := os.Remove(d.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cmd, err := r.site.Processes.Start(proc.Spec{
		Name: r.process(d.name), Host: r.site.Host, Namespace: r.site.Namespace, Args: d.args,
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"},
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !answers(ctx, d.socket) {
		select {
		case err := <-ended:
			return fmt.Errorf("%s ended at once: %w: %s", d.name, err, r.lastLines(d.name))
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w: %s", d.name, ctx.Err(), r.lastLines(d.name))
		case <-ticker.C:
		}
	}
	return nil
}

// process is the name of a daemon's process, such as bgpd@router.
func (r *Router) process(daemon string) string { return daemon + "@" + r.site.Host }

// Log is the file with what a daemon writes: zebra, bfdd, bgpd or bird.
func (r *Router) Log(daemon string) string { return r.site.Processes.Log(r.process(daemon)) }

func (r *Router) lastLines(daemon string) string {
	const n = 5
	content, err := os.ReadFile(r.Log(daemon))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-n):], "; ")
}

// record of a daemon's process; one that never ran is not alive.
func (r *Router) record(daemon string) proc.Record {
	record, err := proc.Load(r.site.Processes.Records, r.process(daemon))
	if err != nil {
		return proc.Record{}
	}
	return record
}

// Running reports whether any daemon of the router runs.
func (r *Router) Running() bool {
	return slices.ContainsFunc(r.flavor.daemons(r.config), func(d daemon) bool { return r.record(d.name).Alive() })
}

// Stop ends the router in order: it says goodbye to its neighbors and takes its
// routes out of the kernel.
func (r *Router) Stop(ctx context.Context) error {
	// The last one first: bgpd tells zebra what to take back.
	for _, d := range slices.Backward(r.flavor.daemons(r.config)) {
		if err := r.end(ctx, d.name, syscall.SIGTERM); err != nil {
			return err
		}
	}
	return nil
}

// Kill ends daemons as a crash does, all if none is named: neighbors hear
// nothing but their closed connections, and the kernel keeps its routes.
func (r *Router) Kill(ctx context.Context, names ...string) error {
	// zebra comes first, and so has no time to clean up after bgpd.
	for _, d := range r.flavor.daemons(r.config) {
		if len(names) > 0 && !slices.Contains(names, d.name) {
			continue
		}
		if err := r.end(ctx, d.name, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

// Freeze stops all daemons in their tracks: connections stay open, but nobody
// answers. Thaw lets them go on.
func (r *Router) Freeze() error { return r.signalAll(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (r *Router) Thaw() error { return r.signalAll(syscall.SIGCONT) }

func (r *Router) signalAll(signal syscall.Signal) error {
	var errs []error
	for _, d := range r.flavor.daemons(r.config) {
		if record := r.record(d.name); record.Alive() {
			errs = append(errs, record.Signal(signal))
		}
	}
	return errors.Join(errs...)
}

// end returns when a daemon that was sent a signal has ended.
func (r *Router) end(ctx context.Context, name string, signal syscall.Signal) error {
	record := r.record(name)
	if !record.Alive() {
		return nil
	}
	if err := record.Signal(signal); err != nil && !errors.Is(err, proc.ErrNotRunning) {
		return err
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for record.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not end: %w", record.Name, ctx.Err())
		case <-ticker.C:
		}
	}
	return nil
}

// Restart is Stop and Start.
func (r *Router) Restart(ctx context.Context) error {
	if err := r.Stop(ctx); err != nil {
		return err
	}
	return r.Start(ctx)
}

// run executes a command whose output matters only if it fails.
func (r *Router) run(ctx context.Context, argv []string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, shortened(strings.TrimSpace(string(out))))
	}
	return nil
}

// Console hands commands to the daemons as vtysh and birdc do and returns what
// they answer. One that is refused is an error.
func (r *Router) Console(ctx context.Context, commands ...string) ([]byte, error) {
	argv := r.flavor.console(commands)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(stdout.String() + "\n" + stderr.String())
		return nil, fmt.Errorf("router on %s: %s: %w: %s", r.site.Host, shortened(strings.Join(commands, "; ")), err, shortened(text))
	}
	return stdout.Bytes(), nil
}

// shortened keeps a message readable that quotes what may be long.
func shortened(text string) string {
	const most = 500
	if len(text) <= most {
		return text
	}
	return text[:most] + "…"
}

// Routes returns all that the router knows of a family.
func (r *Router) Routes(ctx context.Context, family Family) (Table, error) {
	return r.flavor.routes(ctx, family)
}

// Route returns the paths to exactly one prefix, none if there is no route.
func (r *Router) Route(ctx context.Context, prefix netip.Prefix) ([]Path, error) {
	return r.flavor.route(ctx, prefix)
}

// Sessions returns all BGP sessions, in the order of the neighbors' addresses.
func (r *Router) Sessions(ctx context.Context) ([]Session, error) { return r.flavor.sessions(ctx) }

// Session returns that with one neighbor; one that is unknown is Idle.
func (r *Router) Session(ctx context.Context, neighbor netip.Addr) (Session, error) {
	sessions, err := r.Sessions(ctx)
	if err != nil {
		return Session{}, err
	}
	for _, session := range sessions {
		if session.Neighbor.WithZone("") == neighbor.WithZone("") {
			return session, nil
		}
	}
	return Session{Neighbor: neighbor, State: "Idle"}, nil
}

// BFDSessions returns all BFD sessions, in the order of the neighbors' addresses.
func (r *Router) BFDSessions(ctx context.Context) ([]BFDSession, error) {
	return r.flavor.bfdSessions(ctx)
}
