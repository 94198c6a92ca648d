package watch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// proxyLimit bounds a check, proxyTry each of its attempts: a lost SYN would be sent again after a second only (RFC
	// 6298 section 2), a new attempt does that earlier.
	proxyLimit = time.Second
	proxyTry   = 350 * time.Millisecond
	// proxyChecks bounds how many checks are under way.
	proxyChecks = 16
)

// proxyChecker asks the kube-proxies of other nodes whether they are healthy.
type proxyChecker struct {
	url     *url.URL
	client  *http.Client
	limit   chan struct{}
	timeout time.Duration
}

// newProxyChecker takes the URL of this node's kube-proxy, nil if none is to be asked.
func newProxyChecker(own *url.URL) *proxyChecker {
	return &proxyChecker{
		url: own, limit: make(chan struct{}, proxyChecks), timeout: proxyLimit,
		client: &http.Client{
			// A kube-proxy that sends elsewhere is not one.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
		},
	}
}

// check asks the kube-proxy at addr. That nobody listens, or that it says it is unhealthy, is a result at once; that it
// does not answer in time, after a second. proxyUnknown means that this process itself was late, or is ending.
func (p *proxyChecker) check(ctx context.Context, addr netip.Addr) proxyState {
	select {
	case p.limit <- struct{}{}:
		defer func() { <-p.limit }()
	case <-ctx.Done():
		return proxyUnknown
	}
	if !addr.IsValid() {
		return proxySilent
	}
	start := time.Now()
	for {
		state := p.try(ctx, addr)
		took := time.Since(start)
		switch {
		case ctx.Err() != nil, state == proxyUnknown && took > 2*p.timeout:
			return proxyUnknown
		case state != proxyUnknown:
			return state
		case took >= p.timeout:
			return proxySilent
		}
	}
}

// try returns proxyUnknown if there was no answer in time, or at least none that says anything about kube-proxy.
func (p *proxyChecker) try(ctx context.Context, addr netip.Addr) proxyState {
	ctx, cancel := context.WithTimeout(ctx, proxyTry)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.urlOf(addr), nil)
	if err != nil {
		return proxyUnhealthy // no URL can be made: New has checked it
	}
	response, err := p.client.Do(request)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return proxyUnhealthy
	case err != nil:
		<-ctx.Done() // whatever it was, not more often than this
		return proxyUnknown
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return proxyUnhealthy
	}
	return proxyHealthy
}

// urlOf returns the URL with the host replaced by addr.
func (p *proxyChecker) urlOf(addr netip.Addr) string {
	u := *p.url
	port := u.Port()
	switch {
	case port != "":
		u.Host = net.JoinHostPort(addr.String(), port)
	case addr.Is6():
		u.Host = "[" + addr.String() + "]"
	default:
		u.Host = addr.String()
	}
	return u.String()
}
