package daemon

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/utils/clock"
)

// Options are the flags that every daemon has.
type Options struct {
	metricsAddr, logFormat, logLevel string
}

// AddFlags makes o be set by flags. The HTTP server is on metricsAddr unless a
// flag says otherwise.
func (o *Options) AddFlags(f *pflag.FlagSet, metricsAddr string) {
	f.StringVar(&o.metricsAddr, "metrics-addr", metricsAddr, "address of the HTTP server of /metrics, /healthz and /readyz")
	f.StringVar(&o.logFormat, "log-format", "logfmt", "logfmt or json")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
}

// Base is what every daemon stands on.
type Base struct {
	Logger   log.Logger
	Registry *prometheus.Registry
	Health   *Health
	// Serving serves metrics and health.
	Serving Task
}

// Setup returns what the options say. Work that waits for longer than patience
// makes the daemon unhealthy. It is for main, once: see CaptureClientGo.
func (o Options) Setup(patience time.Duration) (Base, error) {
	logger, err := NewLogger(os.Stderr, o.logFormat, o.logLevel)
	if err != nil {
		return Base{}, err
	}
	CaptureClientGo(logger)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	health := NewHealth(clock.RealClock{}, patience)
	server := &Server{Addr: o.metricsAddr, Gatherer: registry, Health: health}
	return Base{Logger: logger, Registry: registry, Health: health, Serving: Task{Name: "metrics and health", Run: server.Run}}, nil
}

// Main runs a command until it ends or the process is asked to. It returns the
// exit status.
func Main(cmd *cobra.Command) int {
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	ctx, stop := UntilSignalled(context.Background())
	defer stop()
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", cmd.Name(), err)
		return 1
	}
	return 0
}
