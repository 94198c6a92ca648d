package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// A node whose kube-proxy has not written its rules yet drops what routers send
// to it. So a speaker tells routers nothing before kube-proxy says that it is
// healthy. What kube-proxy says later does not matter: its rules stay in the
// kernel when it restarts, and a withdrawn route would lose what they serve.
const (
	proxyInterval = 500 * time.Millisecond
	proxyTimeout  = time.Second
	// proxySettle is how long to wait after that, for kube-proxy gathers changes
	// before it writes them.
	proxySettle = time.Second
	// proxyPatience is how long it may take before that is worth a warning.
	proxyPatience = 30 * time.Second
)

// proxyHealth waits for kube-proxy.
type proxyHealth struct {
	// url of kube-proxy's health; "" does not wait.
	url    string
	logger log.Logger
	// ready is closed once routers may be told.
	ready chan struct{}
}

func newProxyHealth(url string, logger log.Logger) *proxyHealth {
	return &proxyHealth{url: url, logger: logger, ready: make(chan struct{})}
}

// run waits until kube-proxy is ready, or ctx is done.
func (p *proxyHealth) run(ctx context.Context) error {
	client := &http.Client{Timeout: proxyTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	began, said, warned := time.Now(), false, false
	for p.url != "" {
		err := p.ask(ctx, client)
		if err == nil {
			if !sleep(ctx, proxySettle) {
				return nil
			}
			break
		}
		if !said && ctx.Err() == nil {
			level.Info(p.logger).Log("msg", "waiting for kube-proxy before anything is announced to routers", "err", err)
			said = true
		}
		if !warned && time.Since(began) > proxyPatience {
			level.Warn(p.logger).Log("msg", "kube-proxy is not ready, so routers are told nothing; if there is none, start the speaker with --kube-proxy-health-url=", "err", err)
			warned = true
		}
		if !sleep(ctx, proxyInterval) {
			return nil
		}
	}
	close(p.ready)
	return nil
}

func (p *proxyHealth) ask(ctx context.Context, client *http.Client) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
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
		return fmt.Errorf("kube-proxy at %s says %s", p.url, response.Status)
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
