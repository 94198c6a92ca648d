package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/netns"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/probe"
)

// inside is the network of one of the lab's hosts.
func (l *testLab) inside(host string) netns.Target {
	return netns.Target{Name: "berth-" + l.Name() + "-" + host}
}

// get fetches a page over a new connection from one of the lab's hosts.
func (l *testLab) get(ctx context.Context, host, url string) (string, error) {
	return l.getWithin(ctx, time.Second, host, url)
}

func (l *testLab) getWithin(ctx context.Context, limit time.Duration, host, url string) (string, error) {
	client := &http.Client{
		Timeout:   limit,
		Transport: &http.Transport{DialContext: l.inside(host).DialContext, DisableKeepAlives: true},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

func urlOf(address netip.Addr, port int, path string) string {
	return "http://" + net.JoinHostPort(address.String(), strconv.Itoa(port)) + path
}

// waitServed returns an answer of a Service's page once there is one: rules of
// kube-proxy may follow the announcement by an instant.
func (e *env) waitServed(host string, address netip.Addr, port int, path string) string {
	e.Helper()
	var body string
	url := urlOf(address, port, path)
	err := e.waited(host+" to fetch "+url, 10*time.Second, func(ctx context.Context) (bool, string) {
		var err error
		body, err = e.lab.get(ctx, host, url)
		return err == nil, fmt.Sprint(err)
	})
	if err != nil {
		e.describePath(host, address)
		e.Fatal(err)
	}
	return body
}

// describePath logs what there is to know about the way to an address: who
// answers, what the host makes of it, and the owner's rules.
func (e *env) describePath(host string, address netip.Addr) {
	e.Helper()
	mac, state := e.neighbor(host, address)
	who := e.whoHas(glance, address)[address]
	e.Logf("%s is answered for by %v; the neighbor entry of %s is %s %s", address, who, host, mac, state)
	if owner, only := who.owner(); only {
		for _, command := range []string{
			"nft list ruleset | grep -n -F " + address.String(),
			"conntrack -L -f ipv6 -d " + address.String() + "; conntrack -L -f ipv4 -d " + address.String(),
		} {
			out, err := e.lab.Exec(e.ctx, owner, "sh", "-c", command)
			e.Logf("%s: %s (error %v):\n%s", owner, command, err, out)
		}
	}
}

// probes open new connections to several addresses until they are stopped.
type probes map[netip.Addr]*lab.RunningProbe

// watchService is for tests in which no connection may fail: a delay is not a
// failure, and the machine may be busy with other tests.
func watchService() lab.ProbeOptions {
	return lab.ProbeOptions{Every: 50 * time.Millisecond, Timeout: 3 * time.Second}
}

// measureGap is for tests that measure how long a service is away.
func measureGap() lab.ProbeOptions {
	return lab.ProbeOptions{Every: probe.DefaultEvery, Timeout: probe.DefaultTimeout}
}

func (e *env) startProbes(options lab.ProbeOptions, addresses ...netip.Addr) probes {
	e.Helper()
	running := probes{}
	options.From = network.Client
	for _, address := range addresses {
		options.URL = urlOf(address, servicePort, "/hostname")
		p, err := e.lab.StartProbe(e.ctx, options)
		if err != nil {
			e.Fatal(err)
		}
		running[address] = p
	}
	return running
}

func (p probes) stop() map[netip.Addr]probe.Report {
	reports := map[netip.Addr]probe.Report{}
	for address, running := range p {
		reports[address] = running.Stop()
	}
	return reports
}

// expectNoFailure fails the test if any connection of the probes failed.
func (e *env) expectNoFailure(during string, reports map[netip.Addr]probe.Report) {
	e.Helper()
	for address, r := range reports {
		if r.Failed > 0 || r.OK == 0 {
			e.Errorf("%s: %d of %d connections to %s failed: %v; longest gap %s, from %s on",
				during, r.Failed, r.Sent, address, r.Errors, r.LongestGap, r.GapBegan.Format("15:04:05.000"))
			continue
		}
		e.Logf("%s: %d connections to %s, none failed; longest gap %s; answers by %v",
			during, r.OK, address, r.LongestGap, slices.Sorted(maps.Keys(r.Backends)))
	}
}
