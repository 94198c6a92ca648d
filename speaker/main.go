package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/internal/bfd"
	"github.com/berth-lb/berth/internal/bgp/gobgp"
	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/metricspage"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/watch"
)

// version is set by the linker.
var version = "dev"

// options are the speaker's flags.
type options struct {
	daemon          daemon.Options
	k8s             k8s.Options
	node, namespace string
	bindAddr        string
	port            uint16
	podSelector     string
	kubeProxyHealth string
	kubeProxySync   time.Duration
	layer2          layer2Options
}

// layer2Options are the flags that concern ARP and NDP.
type layer2Options struct {
	watchPort     uint16
	standIn       bool
	standInLimit  time.Duration
	conflictProbe bool
	refresh       time.Duration
}

func (o *layer2Options) addFlags(f *pflag.FlagSet) {
	f.Uint16Var(&o.watchPort, "watch-port", 7955, "TCP port on which speakers hold connections to each other, whose end tells at once that one is gone")
	f.BoolVar(&o.standIn, "stand-in", true, "while a speaker is away and its node goes on, others answer with that node's MAC and nothing moves; switch it off where the fabric inspects ARP")
	f.DurationVar(&o.standInLimit, "stand-in-limit", watch.DefaultStandInLimit, "how long a speaker may be away before other nodes take the addresses over")
	f.BoolVar(&o.conflictProbe, "conflict-probe", true, "before an address is announced for the first time, find out whether another host has it")
	f.DurationVar(&o.refresh, "announce-refresh", l2.DefaultRefresh, "how often each address is announced again, against switches that forget; 0 for never")
}

func main() {
	var o options
	cmd := &cobra.Command{
		Use:     "speaker",
		Short:   "Answers on this node for the external addresses of Services",
		Version: version,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.daemon.AddFlags(f, ":7957")
	o.k8s.AddFlags(f)
	f.StringVar(&o.node, "node-name", os.Getenv("NODE_NAME"), "name of this node ($NODE_NAME)")
	f.StringVar(&o.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace of Berth itself ($POD_NAMESPACE)")
	f.StringVar(&o.bindAddr, "membership-bind-addr", cmp.Or(os.Getenv("POD_IP"), os.Getenv("HOST_IP")), "address of this node to which the other speakers connect ($POD_IP or $HOST_IP)")
	f.Uint16Var(&o.port, "membership-port", 7956, "TCP and UDP port of all speakers' membership")
	f.StringVar(&o.podSelector, "speaker-selector", "app.kubernetes.io/component=speaker", "label selector of the speakers' Pods")
	f.StringVar(&o.kubeProxyHealth, "kube-proxy-health-url", "http://127.0.0.1:10256/healthz", "where kube-proxy says that it is healthy, before which routers are told nothing; on other nodes it is asked at their address; empty does not ask, for clusters without it")
	f.DurationVar(&o.kubeProxySync, "kube-proxy-sync", proxySync, "how long kube-proxy may take to write its rules for an address that a Service has just got, which is not announced before; 0 does not wait")
	o.layer2.addFlags(f)
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(metricspage.Command(registerAll))
	os.Exit(daemon.Main(cmd))
}

// registerAll registers all metrics of a speaker.
func registerAll(reg prometheus.Registerer) {
	newPartMetrics(reg)
	gobgp.New(gobgp.Config{Registerer: reg})
	daemon.NewHealth(clock.RealClock{}, patience).Register(reg)
}

// patience is how long work may wait in a healthy speaker.
const patience = 10 * time.Second

func (o *layer2Options) check() error {
	if o.standIn && (o.standInLimit <= 0 || o.standInLimit > membership.RememberGone) {
		return fmt.Errorf("--stand-in-limit is %s and must be above 0 and at most %s; to have nobody stand in set --stand-in=false", o.standInLimit, membership.RememberGone)
	}
	return nil
}

func run(ctx context.Context, o options) error {
	if err := o.layer2.check(); err != nil {
		return err
	}
	if o.kubeProxySync < 0 || o.kubeProxySync > maxProxySync {
		return fmt.Errorf("--kube-proxy-sync is %s and must be from 0 to %s", o.kubeProxySync, maxProxySync)
	}
	if o.node == "" || o.namespace == "" {
		return errors.New("--node-name and --namespace (or $NODE_NAME and $POD_NAMESPACE) must be set")
	}
	bind, err := netip.ParseAddr(o.bindAddr)
	if err != nil {
		return fmt.Errorf("--membership-bind-addr (or $POD_IP) must be an address of this node: %w", err)
	}
	base, err := o.daemon.Setup(patience)
	if err != nil {
		return err
	}
	metrics := newPartMetrics(base.Registry)
	clients, err := o.k8s.Connect("berth-speaker/"+version, metrics.contact)
	if err != nil {
		return err
	}
	base.Guard(k8s.NewReviewer(clients.Kube, clock.RealClock{}).Review)
	keys := newKeyWatch(clients.Kube, o.namespace, base.Logger)

	// A signal asks the speaker to hand over; its parts go on until it has.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	return daemon.Run(working,
		base.Serving,
		daemon.Task{Name: "membership key", Run: keys.run},
		daemon.Task{Name: "speaker", Run: func(working context.Context) error {
			defer stop()
			base.Health.NotReady(keys.waiting())
			key := keys.first(ctx)
			if key == nil {
				return nil // asked to stop before there was anything to announce
			}
			base.Health.NotReady("finding out who the other speakers are")
			return speak(ctx, working, deps{
				options: o, bind: netip.AddrPortFrom(bind, o.port), key: key, keys: keys, clients: clients,
				logger: base.Logger, registry: base.Registry, metrics: metrics, health: base.Health,
			})
		}},
	)
}

// deps are what the parts of a speaker are made of.
type deps struct {
	options  options
	bind     netip.AddrPort
	key      []byte
	keys     *keyWatch
	clients  *k8s.Clients
	logger   log.Logger
	registry *prometheus.Registry
	metrics  partMetrics
	health   *daemon.Health
}

// handover is how long a speaker that was asked to stop goes on answering once
// it has told the others: long enough for them to plan and to announce, so that
// nobody asks for an address while no one answers.
const handover = 100 * time.Millisecond

// speak announces until asked ends, hands over and returns; or returns when
// working ends.
func speak(asked, working context.Context, d deps) error {
	group, err := membership.New(membership.Config{
		Node: d.options.node, Bind: d.bind, Key: d.key, Logger: d.logger, Metrics: d.metrics.membership,
	})
	if err != nil {
		return err
	}
	selector, err := labels.Parse(d.options.podSelector)
	if err != nil {
		return fmt.Errorf("--speaker-selector: %w", err)
	}
	cache, err := k8s.NewCache(k8s.CacheConfig{
		Clients: d.clients,
		Kinds: []k8s.Kind{
			k8s.KindService, k8s.KindEndpointSlice, k8s.KindNode, k8s.KindPod, k8s.KindIPAddressPool, k8s.KindL2Advertisement,
			k8s.KindBGPPeer, k8s.KindBGPAdvertisement, k8s.KindCommunity, k8s.KindBFDProfile, k8s.KindSecret,
		},
		PodNamespace: d.options.namespace, PodSelector: selector, SecretNamespace: d.options.namespace,
	})
	if err != nil {
		return err
	}
	network, err := newLayer2(d, group)
	if err != nil {
		return err
	}
	writer := k8s.NewWriter(k8s.PatchStatus(d.clients), d.logger, d.metrics.writer)
	nodeStates := k8s.NewWriter(k8s.ApplyNodeState(d.clients, "berth-speaker"), d.logger, d.metrics.writer)
	proxy := newProxyHealth(d.options.kubeProxyHealth, d.logger)
	peers := gobgp.New(gobgp.Config{Logger: d.logger, Registerer: d.registry})
	bfdSessions := bfd.New(bfd.Options{Logger: d.logger, Metrics: d.metrics.bfd})
	events := k8s.NewEvents(d.clients.Kube, "berth-speaker", d.logger)
	w := newWorld(cache, d.options.k8s.Class, d.options.port, clock.RealClock{})
	w.fresh.wait = d.options.kubeProxySync
	s := newSpeaker(speaker{
		self: d.options.node, addr: d.bind.Addr(), changes: cache, world: w,
		links: network.links, members: network.members, others: network.others, announcer: network.announcer,
		conflicts: network.conflicts, recallsFrom: formerConflicts(d.clients, d.options.node), audits: network.audits, proxy: proxy, standIns: d.options.layer2.standIn, watchPort: d.options.layer2.watchPort,
		reporter: newReporter(reporter{
			self: d.options.node, services: cache.Services, writer: writer, events: events, clock: clock.RealClock{},
		}),
		routers: newRouters(routers{
			node: d.options.node, sessions: peers, bfd: bfdSessions, gateways: netif.Gateways, ready: proxy.ready,
			clock: clock.RealClock{}, logger: d.logger,
		}),
		nodeState: &nodeReporter{writer: nodeStates, logger: d.logger},
		clock:     clock.RealClock{}, logger: d.logger, health: d.health, metrics: d.metrics.loop,
	})

	working, stop := context.WithCancel(working)
	defer stop()
	return daemon.Run(working, append(network.tasks, []daemon.Task{
		{Name: "membership", Run: func(ctx context.Context) error { return network.join(ctx, group, d.options.layer2.watchPort) }},
		{Name: "membership key", Run: func(ctx context.Context) error { return d.keys.follow(ctx, group) }},
		{Name: "cache", Run: cache.Run},
		{Name: "writer", Run: writer.Run},
		{Name: "node state", Run: nodeStates.Run},
		{Name: "kube-proxy", Run: proxy.run},
		{Name: "routers", Run: func(ctx context.Context) error { return s.routers.run(ctx, bfdSessions.Run) }},
		{Name: "events", Run: events.Run},
		{Name: "changes", Run: s.pump},
		{Name: "loop", Run: func(working context.Context) error {
			defer stop()
			return s.serve(asked, working, cache.WaitForSync, group.Leave)
		}},
	}...)...)
}

// serve runs the loop once the cache is synced, until asked is done; then the
// others are told, who take over or stand in while this speaker still answers.
func (s *speaker) serve(asked, working context.Context, synced func(context.Context) error, leave func(returns bool, standIn string)) error {
	until, cancel := context.WithCancel(working)
	defer cancel()
	defer context.AfterFunc(asked, cancel)()
	if err := synced(until); err != nil {
		return nil // asked to stop before there was anything to announce
	}
	if err := s.run(until); err != nil || working.Err() != nil {
		return err
	}
	leave(s.returns())
	s.routers.leave(working)
	sleep(working, handover)
	return nil
}
