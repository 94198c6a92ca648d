package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/internal/allocation"
	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/metricspage"
)

// version is set by the linker.
var version = "dev"

// options are the controller's flags.
type options struct {
	daemon                       daemon.Options
	k8s                          k8s.Options
	namespace, identity          string
	leaseDuration, renewDeadline time.Duration
}

func main() {
	var o options
	cmd := &cobra.Command{
		Use:     "controller",
		Short:   "Gives Services of type LoadBalancer their external addresses",
		Version: version,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.daemon.AddFlags(f, ":7958")
	o.k8s.AddFlags(f)
	f.StringVar(&o.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace of Berth itself ($POD_NAMESPACE)")
	f.StringVar(&o.identity, "identity", os.Getenv("POD_NAME"), "name of this replica among the candidates for the lead ($POD_NAME)")
	f.DurationVar(&o.leaseDuration, "lease-duration", 6*time.Second, "how long a dead leader keeps its successor waiting")
	f.DurationVar(&o.renewDeadline, "renew-deadline", 4*time.Second, "how long a leader goes on when it cannot renew its Lease; less than --lease-duration")
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(metricspage.Command(registerAll))
	os.Exit(daemon.Main(cmd))
}

// registerAll registers all metrics of a controller.
func registerAll(reg prometheus.Registerer) {
	allocation.NewMetrics(reg)
	k8s.NewWriterMetrics(reg)
	k8s.NewContact(clock.RealClock{}, reg)
	daemon.NewHealth(clock.RealClock{}, patience).Register(reg)
}

// patience is how long work may wait in a healthy controller.
const patience = 30 * time.Second

func run(ctx context.Context, o options) error {
	if o.namespace == "" || o.identity == "" {
		return errors.New("--namespace and --identity (or $POD_NAMESPACE and $POD_NAME) must be set")
	}
	base, err := o.daemon.Setup(patience)
	if err != nil {
		return err
	}
	base.Health.SetReady(true) // a standby is ready to lead
	clients, err := o.k8s.Connect("berth-controller/"+version, k8s.NewContact(clock.RealClock{}, base.Registry))
	if err != nil {
		return err
	}
	base.Guard(k8s.NewReviewer(clients.Kube, clock.RealClock{}).Review)
	l := leadership{
		clients: clients, logger: base.Logger, health: base.Health, options: o,
		metrics: allocation.NewMetrics(base.Registry), writerMetrics: k8s.NewWriterMetrics(base.Registry),
	}
	return daemon.Run(ctx, base.Serving, daemon.Task{Name: "leadership", Run: l.run})
}

// leadership does the controller's work whenever this replica has the lead.
type leadership struct {
	clients       *k8s.Clients
	logger        log.Logger
	health        *daemon.Health
	metrics       *allocation.Metrics
	writerMetrics *k8s.WriterMetrics
	options       options
}

func (l *leadership) run(ctx context.Context) error {
	leader := &k8s.Leader{
		Client: l.clients.Kube, Logger: l.logger,
		Namespace: l.options.namespace, Name: "berth-controller", Identity: l.options.identity,
		LeaseDuration: l.options.leaseDuration, RenewDeadline: l.options.renewDeadline, RetryPeriod: time.Second,
	}
	return leader.Run(ctx, l.lead)
}

// flushTimeout is how long a leader that steps down of its own accord takes to
// write what it has decided.
const flushTimeout = 3 * time.Second

// lead is one term: it reads everything anew, restores and works until ctx is
// done. A leader that steps down writes what it has decided; one that lost its
// Lease writes nothing more.
func (l *leadership) lead(ctx context.Context) error {
	defer l.health.Applied() // a standby has no work waiting
	l.metrics.Lead()
	defer l.metrics.StepDown()
	kinds, err := l.kinds()
	if err != nil {
		return err
	}
	cache, err := k8s.NewCache(k8s.CacheConfig{Clients: l.clients, Kinds: kinds, SecretNamespace: l.options.namespace})
	if err != nil {
		return err
	}
	writer := k8s.NewWriter(k8s.PatchStatus(l.clients), l.logger, l.writerMetrics)
	reservations := k8s.NewWriter(k8s.ApplyReservation(l.clients, "berth-controller"), l.logger, l.writerMetrics)
	events := k8s.NewEvents(l.clients.Kube, "berth-controller", l.logger)
	c := allocation.New(allocation.Config{
		Cache: cache, Writer: writer, Reservations: reservations, Events: events, Class: l.options.k8s.Class,
		Clock: clock.RealClock{}, Logger: l.logger, Health: l.health, Metrics: l.metrics,
	})

	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	work := func(ctx context.Context) error {
		err := daemon.Run(ctx,
			daemon.Task{Name: "cache", Run: cache.Run},
			daemon.Task{Name: "controller", Run: c.Run},
			daemon.Task{Name: "reminder", Run: func(ctx context.Context) error { return allocation.Tick(ctx, cache) }},
			daemon.Task{Name: "membership key", Run: func(ctx context.Context) error {
				return keepMembershipKey(ctx, l.clients.Kube, l.options.namespace, l.logger)
			}},
		)
		if !errors.Is(context.Cause(ctx), k8s.ErrLeaseLost) {
			flushing, cancel := context.WithTimeout(writing, flushTimeout)
			defer cancel()
			err = errors.Join(err, c.Finish(), writer.Flush(flushing), reservations.Flush(flushing))
		}
		stopWriting()
		return err
	}
	return daemon.Run(writing,
		daemon.Task{Name: "writer", Run: writer.Run},
		daemon.Task{Name: "reservations", Run: reservations.Run},
		daemon.Task{Name: "events", Run: events.Run},
		daemon.Task{Name: "work", Run: func(context.Context) error { return work(ctx) }},
	)
}

// kinds returns what the controller watches. ServiceCIDRs are there since
// Kubernetes 1.33; on older clusters a pool that covers the Service CIDR is not
// noticed.
func (l *leadership) kinds() ([]k8s.Kind, error) {
	kinds := allocation.Kinds()
	served, err := l.clients.Serves("networking.k8s.io/v1", "servicecidrs")
	if err != nil {
		return nil, err
	}
	if served {
		kinds = append(kinds, k8s.KindServiceCIDR)
	}
	return kinds, nil
}
