package lab

import (
	"context"
	"time"

	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/probe"
)

// ProbeOptions say what to probe. See package probe for what is measured.
type ProbeOptions struct {
	// URL is http://ADDRESS[:PORT]/PATH.
	URL string
	// From is the host or Pod that connects; the client if empty.
	From string
	// Every is the time between two attempts, Timeout the limit for each. Zero
	// means probe.DefaultEvery and probe.DefaultTimeout.
	Every, Timeout time.Duration
}

// Probe opens a new connection at every tick until ctx ends and reports.
func (c *Cluster) Probe(ctx context.Context, options ProbeOptions) (probe.Report, error) {
	prober, err := c.prober(options)
	if err != nil {
		return probe.Report{}, err
	}
	return prober.Run(ctx), nil
}

func (c *Cluster) prober(options ProbeOptions) (*probe.Prober, error) {
	if options.From == "" {
		options.From = network.Client
	}
	target, err := c.networkOf(options.From)
	if err != nil {
		return nil, err
	}
	return probe.New(probe.Settings{
		URL:     options.URL,
		From:    options.From,
		Every:   options.Every,
		Timeout: options.Timeout,
		Dial:    target.DialContext,
	})
}

// RunningProbe is a probe in the background.
type RunningProbe struct {
	cancel context.CancelFunc
	report chan probe.Report
}

// StartProbe probes in the background until ctx ends or Stop is called.
func (c *Cluster) StartProbe(ctx context.Context, options ProbeOptions) (*RunningProbe, error) {
	prober, err := c.prober(options)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	running := &RunningProbe{cancel: cancel, report: make(chan probe.Report, 1)}
	go func() { running.report <- prober.Run(ctx) }()
	return running, nil
}

// Stop ends the probe and returns its report. It may be called once.
func (p *RunningProbe) Stop() probe.Report {
	p.cancel()
	return <-p.report
}

// HoldOptions say which connection to hold. See package probe for what is measured.
type HoldOptions struct {
	// URL is http://ADDRESS[:PORT]/PATH of a download without an end, or
	// ws://ADDRESS[:PORT]/PATH of a WebSocket that echoes; the image streamer serves
	// /download and /echo.
	URL string
	// From is the host or Pod that connects; the client if empty.
	From string
	// Every is the time between two messages on a WebSocket. Zero means
	// probe.DefaultHoldEvery.
	Every time.Duration
	// Connected, if not nil, is called once there is a connection.
	Connected func()
}

// Hold keeps a connection until ctx ends or it breaks, and reports.
func (c *Cluster) Hold(ctx context.Context, options HoldOptions) (probe.HoldReport, error) {
	if options.From == "" {
		options.From = network.Client
	}
	target, err := c.networkOf(options.From)
	if err != nil {
		return probe.HoldReport{}, err
	}
	holder, err := probe.NewHolder(probe.HoldSettings{
		URL: options.URL, From: options.From, Every: options.Every, Dial: target.DialContext, Connected: options.Connected,
	})
	if err != nil {
		return probe.HoldReport{}, err
	}
	return holder.Run(ctx), nil
}
