package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// A node whose kube-proxy has not written its rules yet drops what is sent to it.
// So a speaker tells routers nothing before kube-proxy says that it is healthy, and
// tells the other speakers that the node should own no address that another can
// own. Later that is said only when kube-proxy has been unwell for long: its rules
// stay in the kernel when it restarts, and get out of date only slowly. Routes are
// not withdrawn for it.
const (
	proxyInterval = 500 * time.Millisecond
	proxyTimeout  = time.Second
	// proxySettle is how long to wait before routers are told, for kube-proxy gathers
	// changes before it writes them.
	proxySettle = time.Second
	// proxySync is how long kube-proxy may take to write its rules for an address that
	// a Service has just got, unless users know better: a second (its minSyncPeriod)
	// after those that it wrote when the Service came, and some time to write.
	proxySync = 1500 * time.Millisecond
	// maxProxySync bounds what they may say.
	maxProxySync = time.Minute
	// proxyPatience is how long it may take before that is worth a warning.
	proxyPatience = 30 * time.Second
	// proxyStartGrace is how long after the start of the speaker kube-proxy may be
	// unwell: what this node owned before is not to move for a hiccup.
	proxyStartGrace = 3 * time.Second
	// proxyGrace is how long a kube-proxy that has been healthy may be unwell.
	proxyGrace = 10 * time.Second
)

// proxyState is how this node's kube-proxy is; *proxyHealth tells.
type proxyState interface {
	// down says that the node should own no address that another can own.
	down() bool
	// changes receives a value after that has changed.
	changes() <-chan struct{}
}

// proxyHealth watches kube-proxy.
type proxyHealth struct {
	// ask returns an error if kube-proxy is not well; nil does not ask.
	ask    func(ctx context.Context) error
	logger log.Logger
	// ready is closed once routers may be told.
	ready   chan struct{}
	unwell  atomic.Bool
	changed chan struct{}
}

// newProxyHealth returns one that asks at the URL; at "" it does not.
func newProxyHealth(url string, logger log.Logger) *proxyHealth {
	p := &proxyHealth{logger: logger, ready: make(chan struct{}), changed: make(chan struct{}, 1)}
	if url != "" {
		client := &http.Client{Timeout: proxyTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
		p.ask = func(ctx context.Context) error { return askProxy(ctx, client, url) }
	}
	return p
}

func (p *proxyHealth) down() bool { return p.unwell.Load() }

func (p *proxyHealth) changes() <-chan struct{} { return p.changed }

// run watches kube-proxy until ctx is done.
func (p *proxyHealth) run(ctx context.Context) error {
	if p.ask == nil {
		close(p.ready)
		return nil
	}
	if !p.await(ctx) || !sleep(ctx, proxySettle) {
		return nil
	}
	close(p.ready)
	healthy := time.Now()
	for sleep(ctx, proxyInterval) {
		err := p.ask(ctx)
		if err == nil {
			healthy = time.Now()
		}
		p.say(time.Since(healthy) > proxyGrace, err)
	}
	return nil
}

// await returns when kube-proxy is healthy for the first time, or false if ctx is
// done before.
func (p *proxyHealth) await(ctx context.Context) bool {
	began, warned := time.Now(), false
	for {
		err := p.ask(ctx)
		if ctx.Err() != nil {
			return false
		}
		p.say(err != nil && time.Since(began) >= proxyStartGrace, err)
		if err == nil {
			return true
		}
		if !warned && time.Since(began) > proxyPatience {
			level.Warn(p.logger).Log("msg", "kube-proxy is not ready, so routers are told nothing; if there is none, start the speaker with --kube-proxy-health-url=", "err", err)
			warned = true
		}
		if !sleep(ctx, proxyInterval) {
			return false
		}
	}
}

// say takes note of whether kube-proxy is unwell, for the reason given.
func (p *proxyHealth) say(unwell bool, err error) {
	if p.unwell.Swap(unwell) == unwell {
		return
	}
	if unwell {
		level.Warn(p.logger).Log("msg", "kube-proxy is not well; addresses that other nodes can own go there", "err", err)
	} else {
		level.Info(p.logger).Log("msg", "kube-proxy is well")
	}
	signal(p.changed)
}

// proxyCondition is what the NodeState says of kube-proxy.
func proxyCondition(p proxyState, now time.Time) metav1.Condition {
	c := metav1.Condition{
		Type: v1beta1.ConditionKubeProxyReady, Status: metav1.ConditionTrue, Reason: "Ready",
		Message: "kube-proxy is well, or the speaker is not to ask it", LastTransitionTime: *second(now),
	}
	if p.down() {
		c.Status, c.Reason = metav1.ConditionFalse, "NotReady"
		c.Message = "kube-proxy does not say that its rules are up to date; addresses that other nodes can own go there"
	}
	return c
}

func askProxy(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("asking kube-proxy: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("asking kube-proxy: %w", err)
	}
	if err := response.Body.Close(); err != nil {
		return fmt.Errorf("asking kube-proxy: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("kube-proxy at %s says %s", url, response.Status)
	}
	return nil
}

// sleep returns false if ctx is done before the time is over.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
