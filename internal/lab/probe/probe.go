package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Defaults of a Prober's settings.
const (
	DefaultEvery   = 10 * time.Millisecond
	DefaultTimeout = 250 * time.Millisecond
)

// maxAnswer is how much of a response's body is read, in bytes; it is a key of
// Report.Backends.
const maxAnswer = 256

// Settings say what to probe and how.
type Settings struct {
	// URL is http://ADDRESS[:PORT]/PATH with a literal address.
	URL string
	// From is the name of the host the probe runs on, for the report.
	From string
	// Every is the time between two attempts, Timeout the limit for one of them
	// from connecting to the last byte of the answer. Zero means the default.
	Every, Timeout time.Duration
	// Dial makes connections on that host.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Prober probes one URL.
type Prober struct {
	settings Settings
	attempt  func(context.Context) Result
	tells    func(answer string, report *Report)
	// ticks returns a channel that receives at every tick, and a way to stop it.
	ticks func(time.Duration) (<-chan time.Time, func())
	now   func() time.Time
}

// New checks the settings and returns a prober that has not started yet.
func New(settings Settings) (*Prober, error) {
	if settings.Every == 0 {
		settings.Every = DefaultEvery
	}
	if settings.Timeout == 0 {
		settings.Timeout = DefaultTimeout
	}
	if settings.Every < 0 || settings.Timeout < 0 {
		return nil, errors.New("probe: interval and timeout must be positive")
	}
	target, err := parseURL(settings.URL)
	if err != nil {
		return nil, fmt.Errorf("probe: url %q: %w", settings.URL, err)
	}
	prober := &Prober{settings: settings, tells: backend, ticks: realTicks, now: time.Now}
	if strings.HasPrefix(target.Path, "/clientip") {
		prober.tells = source
	}
	// A client per prober, whose connections are never used twice.
	client := &http.Client{
		Transport:     &http.Transport{DialContext: settings.Dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	prober.attempt = func(ctx context.Context) Result { return prober.get(ctx, client) }
	return prober, nil
}

func realTicks(every time.Duration) (<-chan time.Time, func()) {
	ticker := time.NewTicker(every)
	return ticker.C, ticker.Stop
}

func parseURL(text string) (*url.URL, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	if parsed.Scheme != "http" {
		return nil, errors.New("must start with http://")
	}
	if _, err := netip.ParseAddr(parsed.Hostname()); err != nil {
		return nil, fmt.Errorf("needs an address, as there is no DNS in the lab: %w", err)
	}
	return parsed, nil
}

// Run probes until ctx ends, waits for the attempts under way and reports. The
// first attempt is made at once.
func (p *Prober) Run(ctx context.Context) Report {
	results := make(chan Result)
	began := p.now()
	tally := newTally(p.settings.URL, p.settings.From, began, p.tells)
	var counting errgroup.Group
	counting.Go(func() error {
		for result := range results {
			tally.add(result)
		}
		return nil
	})
	p.attempts(ctx, results)
	close(results)
	counting.Wait() //nolint:errcheck // its only task returns nil
	return tally.finish()
}

// attempts starts one per tick and returns when the last has ended. They outlive
// ctx, so that the end of the run fails none.
func (p *Prober) attempts(ctx context.Context, results chan<- Result) {
	ticks, stop := p.ticks(p.settings.Every)
	defer stop()
	var group errgroup.Group
	defer group.Wait() //nolint:errcheck // the tasks return nil
	for ctx.Err() == nil {
		group.Go(func() error {
			results <- p.attempt(context.WithoutCancel(ctx))
			return nil
		})
		select {
		case <-ctx.Done():
		case <-ticks:
		}
	}
}

func (p *Prober) get(ctx context.Context, client *http.Client) Result {
	started := p.now()
	ctx, cancel := context.WithTimeout(ctx, p.settings.Timeout)
	defer cancel()
	answer, err := fetch(ctx, client, p.settings.URL)
	return Result{Started: started, Ended: p.now(), Answer: answer, Err: err}
}

func fetch(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", statusError(response.StatusCode)
	}
	return strings.TrimSpace(string(body)), nil
}

// statusError is an HTTP response other than 200.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("http status %d", int(e)) }

// cause names the reason of a failure in few words, so that equal reasons count
// as one.
func cause(err error) string {
	var status statusError
	var timeout net.Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &status):
		return status.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	default:
		return err.Error()
	}
}

func backend(answer string, report *Report) { report.Backends[answer]++ }

// source counts an answer of agnhost's /clientip, the address and port it saw.
func source(answer string, report *Report) {
	if seen, err := netip.ParseAddrPort(answer); err == nil {
		answer = seen.Addr().Unmap().String()
	}
	report.Sources[answer]++
}
