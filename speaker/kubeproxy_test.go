package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// proxyScript is a kube-proxy that is as the test says.
type proxyScript struct {
	*proxyHealth
	t *testing.T

	mu     sync.Mutex
	unwell error
}

func (p *proxyScript) set(unwell error) {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwell = unwell
}

// watchProxy starts to watch a kube-proxy, in a bubble of synctest.
func watchProxy(t *testing.T, unwell error) *proxyScript {
	p := &proxyScript{proxyHealth: newProxyHealth("", log.NewNopLogger()), t: t, unwell: unwell}
	p.ask = func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.unwell
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return p
}

// expect says whether kube-proxy counts as down and routers may be told, and
// whether there is news.
func (p *proxyScript) expect(down, ready, news bool) {
	p.t.Helper()
	synctest.Wait()
	isReady, isNews := false, false
	select {
	case <-p.ready:
		isReady = true
	default:
	}
	select {
	case <-p.changes():
		isNews = true
	default:
	}
	if p.down() != down || isReady != ready || isNews != news {
		p.t.Errorf("down: %v, ready: %v, news: %v; want %v, %v, %v", p.down(), isReady, isNews, down, ready, news)
	}
}

func TestProxyHealth(t *testing.T) {
	t.Parallel()
	refused := errors.New("connection refused")
	t.Run("well", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := watchProxy(t, nil)
			p.expect(false, false, false)
			time.Sleep(proxySettle)
			p.expect(false, true, false)
		})
	})
	t.Run("starts late", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := watchProxy(t, refused)
			p.expect(false, false, false)
			time.Sleep(proxyStartGrace + proxyInterval)
			p.expect(true, false, true)
			time.Sleep(time.Hour)
			p.expect(true, false, false)
			p.set(nil)
			time.Sleep(proxyInterval)
			p.expect(false, false, true)
			time.Sleep(proxySettle)
			p.expect(false, true, false)
		})
	})
	t.Run("restarts", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := watchProxy(t, nil)
			time.Sleep(time.Minute)
			p.set(refused)
			time.Sleep(proxyGrace - proxyInterval)
			p.expect(false, true, false)
			p.set(nil)
			time.Sleep(time.Minute)
			p.expect(false, true, false)
		})
	})
	t.Run("fails", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := watchProxy(t, nil)
			time.Sleep(time.Minute)
			p.set(refused)
			time.Sleep(proxyGrace - proxyInterval)
			p.expect(false, true, false)
			time.Sleep(2 * proxyInterval)
			p.expect(true, true, true)
			time.Sleep(time.Hour)
			p.expect(true, true, false)
			p.set(nil)
			time.Sleep(proxyInterval)
			p.expect(false, true, true)
		})
	})
	t.Run("not asked", func(t *testing.T) {
		t.Parallel()
		p := newProxyHealth("", log.NewNopLogger())
		if err := p.run(t.Context()); err != nil || p.down() {
			t.Errorf("down: %v, %v", p.down(), err)
		}
		<-p.ready
	})
}

func TestAskProxy(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	if err := newProxyHealth(server.URL+"/healthz", log.NewNopLogger()).ask(t.Context()); err != nil {
		t.Error(err)
	}
	if err := newProxyHealth(server.URL, log.NewNopLogger()).ask(t.Context()); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("unwell: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newProxyHealth(server.URL, log.NewNopLogger()).ask(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestProxyCondition(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	p := newProxyHealth("", log.NewNopLogger())
	if c := proxyCondition(p, now); c.Type != v1beta1.ConditionKubeProxyReady || c.Status != metav1.ConditionTrue || c.LastTransitionTime.Nanosecond() != 0 {
		t.Errorf("a kube-proxy that nothing is known against has %+v", c)
	}
	p.say(true, errors.New("connection refused"))
	if c := proxyCondition(p, now); c.Status != metav1.ConditionFalse || c.Reason != "NotReady" {
		t.Errorf("one that does not answer has %+v", c)
	}
}
