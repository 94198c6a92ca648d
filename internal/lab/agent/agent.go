package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/internal/lab/agent/podnet"
	"github.com/berth-lb/berth/internal/lab/netns"
)

// agent is what the parts of the node agent share.
type agent struct {
	config  Config
	logger  log.Logger
	clock   clock.Clock
	client  kubernetes.Interface
	events  record.EventRecorder
	network *podnet.Network
	objects *objects
	tokens  *tokens
	records records
	reach   *reach
	pods    *pods

	servicesMu sync.Mutex
	services   map[string]string // see serviceVariables; nil until known
}

// Run is the node agent: it runs until ctx ends, and then ends all containers and
// removes their network. It must be started inside the node's network namespace.
// What an agent that was killed left behind is cleaned up first.
func Run(ctx context.Context, config Config) error {
	if err := config.validate(); err != nil {
		return fmt.Errorf("agent configuration: %w", err)
	}
	// client-go reports every failed attempt of every watch; reach does it once.
	klog.SetLogger(logr.Discard())
	client, err := newClient(config.Kubeconfig)
	if err != nil {
		return err
	}
	logger := log.With(log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr)), "ts", log.DefaultTimestampUTC, "node", config.Node)
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	a := &agent{
		config:  config,
		logger:  logger,
		clock:   clock.RealClock{},
		client:  client,
		events:  broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: config.Node}),
		network: podnet.New(config.PodCIDRs),
		objects: newObjects(client),
		tokens:  newTokens(client, clock.RealClock{}),
		records: records{folder: filepath.Join(config.StateDir, "pods")},
		reach:   &reach{logger: logger},
	}
	a.pods = newPods(a)
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	if err := a.cleanUp(); err != nil {
		return fmt.Errorf("clean up after an earlier agent: %w", err)
	}
	if err := a.network.Up(); err != nil {
		return err
	}
	return errors.Join(a.serve(ctx), a.network.Down())
}

// serve runs the agent's tasks until ctx ends or one of them fails.
func (a *agent) serve(ctx context.Context) error {
	level.Info(a.logger).Log("msg", "node agent started")
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.keepNode(ctx) })
	group.Go(func() error { return a.keepLease(ctx) })
	group.Go(func() error { return a.serveKubeletAPI(ctx) })
	group.Go(func() error { return a.pods.run(ctx) })
	err := group.Wait()
	level.Info(a.logger).Log("msg", "node agent stopped", "err", err)
	return err
}

// Folders in StateDir beside that of the records.
func (a *agent) podFolder() string { return filepath.Join(a.config.StateDir, "data") }
func (a *agent) logFolder() string { return filepath.Join(a.config.StateDir, "logs") }

// cleanUp ends what an earlier agent left running. Logs stay, for Pods that will
// run again.
func (a *agent) cleanUp() error {
	errs := []error{a.records.killLeftovers()}
	names, err := netns.List(a.config.NetnsPrefix)
	errs = append(errs, err)
	if pids, err := netns.Processes(names...); err == nil {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
	for _, name := range names {
		errs = append(errs, a.network.Remove(name))
	}
	return errors.Join(append(errs, os.RemoveAll(a.podFolder()))...)
}

// sleep waits, or returns early when ctx ends.
func (a *agent) sleep(ctx context.Context, d time.Duration) {
	timer := a.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C():
	}
}

// serviceVariables returns the variables that describe Services. A cluster whose
// API server has no Service, yet, has none.
func (a *agent) serviceVariables(ctx context.Context) (map[string]string, error) {
	a.servicesMu.Lock()
	defer a.servicesMu.Unlock()
	if a.services != nil {
		return a.services, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	service, err := a.client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("service default/kubernetes: %w", err)
	}
	a.services = serviceVariables(service)
	return a.services, nil
}
