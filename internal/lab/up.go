package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/internal/lab/proc"
)

// Up starts a lab and returns once it can be used: its API server is ready, its
// nodes are, and so is Berth if the options ask for it. When it fails, or ctx
// ends before that, nothing of the lab is left.
func Up(ctx context.Context, options Options) (*Cluster, error) {
	options, err := options.complete()
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", options.Name, err)
	}
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	c, err := newCluster(state{Options: options})
	if err != nil {
		return nil, err
	}
	if err := c.dir.claim(); err != nil {
		return nil, fmt.Errorf("lab %s: %w", options.Name, err)
	}
	if err := c.start(ctx); err != nil {
		// The error holds what is to be known of the logs, which go now.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("lab %s: %w", options.Name, err), c.Down(cleanup))
	}
	return c, nil
}

// launcher starts the lab's processes and cuts the start short when one of them
// ends: nothing here is expected to.
type launcher struct {
	*Cluster
	abort context.CancelCauseFunc
}

func (c *Cluster) start(ctx context.Context) error {
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	l := launcher{Cluster: c, abort: abort}
	err := l.run(ctx)
	if cause := context.Cause(ctx); cause != nil {
		return cause // which says more than the errors that follow from it
	}
	return err
}

func (l launcher) run(ctx context.Context) error {
	for _, name := range []string{"etcd", "kubeconfigs", "logs", "nodes", "pki", "processes"} {
		if err := os.Mkdir(l.dir.join(name), 0o700); err != nil {
			return err
		}
	}
	var err error
	if l.state.Images, err = l.state.Options.images(l.dir.join("images")); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for the API server: %w", err)
	}
	defer func() { _ = listener.Close() }()
	if err := l.recordPort(listener.Addr()); err != nil {
		return err
	}
	if err := l.save(); err != nil {
		return err
	}
	if err := both(ctx, l.net.Build, func(context.Context) error { return l.writeSecrets() }); err != nil {
		return err
	}
	if err := l.startAPI(ctx, listener); err != nil {
		return err
	}
	if err := l.startCluster(ctx); err != nil {
		return err
	}
	l.state.Ready = true
	return l.save()
}

// recordPort notes where on the machine the API server will be.
func (l launcher) recordPort(address net.Addr) error {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("listen for the API server: unexpected address %s", address)
	}
	l.state.APIPort = uint16(tcp.Port) // a TCP port always fits
	return nil
}

// both runs two steps at the same time.
func both(ctx context.Context, a, b func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a(ctx) })
	group.Go(func() error { return b(ctx) })
	return group.Wait()
}

// startAPI returns when the API server is ready, which retries until etcd is.
func (l launcher) startAPI(ctx context.Context, listener net.Listener) error {
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("listen for the API server: unexpected listener %T", listener)
	}
	file, err := tcp.File()
	if err != nil {
		return fmt.Errorf("listen for the API server: %w", err)
	}
	defer func() { _ = file.Close() }()
	for _, spec := range []proc.Spec{l.etcd(), l.apiServer(), l.forwarder(file)} {
		if err := l.launch(spec); err != nil {
			return err
		}
	}
	if err := l.waitForAPI(ctx); err != nil {
		return err
	}
	l.state.Options.Progress("API server ready")
	return nil
}

// startCluster starts what needs the API server, all at once, and returns when it
// is ready. The agents come first: the rest waits for them.
func (l launcher) startCluster(ctx context.Context) error {
	config, err := l.RESTConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("API client: %w", err)
	}
	for _, node := range l.plan.Nodes() {
		spec, err := l.nodeAgent(node)
		if err != nil {
			return err
		}
		if err := l.launch(spec); err != nil {
			return err
		}
	}
	if err := errors.Join(l.launch(l.controllerManager()), l.launch(l.scheduler())); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.waitForDefaults(groupCtx, client) })
	group.Go(func() error { return l.startNodes(groupCtx, client) })
	if l.state.Options.Berth {
		group.Go(func() error { return l.applyManifest(groupCtx) })
	}
	if err := group.Wait(); err != nil || !l.state.Options.Berth {
		return err
	}
	if err := l.waitForBerth(ctx, client); err != nil {
		return err
	}
	l.state.Options.Progress("Berth runs")
	return nil
}

// startNodes returns when all nodes are ready. A kube-proxy that starts before its
// Node has addresses loses time by asking for them once a second.
func (l launcher) startNodes(ctx context.Context, client kubernetes.Interface) error {
	nodes, ctx := errgroup.WithContext(ctx)
	for _, node := range l.plan.Nodes() {
		nodes.Go(func() error {
			if err := l.waitForNodeAddresses(ctx, client, node.Name); err != nil {
				return err
			}
			if err := l.launch(l.kubeProxy(node)); err != nil {
				return err
			}
			if err := l.waitForNodeReady(ctx, client, node.Name); err != nil {
				return err
			}
			return l.waitForProxy(ctx, node)
		})
	}
	if err := nodes.Wait(); err != nil || l.state.Options.Nodes == 0 {
		return err
	}
	l.state.Options.Progress(fmt.Sprintf("%d nodes ready", l.state.Options.Nodes))
	return nil
}

// launch starts a process and waits for its end in the background.
func (l launcher) launch(spec proc.Spec) error {
	cmd, err := l.dir.processes().Start(spec)
	if err != nil {
		return err
	}
	l.children.Go(func() { l.abort(l.ended(spec.Name, cmd)) })
	return nil
}

// ended waits for the process and says how it ended and what it said last.
func (l launcher) ended(name string, cmd *exec.Cmd) error {
	err := cmd.Wait()
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("%s ended during the start: %w%s", name, err, tail(l.Log(name)))
}

// tail returns the last lines of a log, indented for a message.
func tail(path string) string {
	const lines = 15
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return lastLines(filepath.Base(path), string(content), lines)
}
