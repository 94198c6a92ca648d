package daemon

import (
	"context"
	"errors"
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
	metricsAddr, certFile, keyFile string
	metricsAuth                    bool
	logFormat, logLevel            string
}

// AddFlags makes o be set by flags. The HTTP server is on metricsAddr unless a
// flag says otherwise.
func (o *Options) AddFlags(f *pflag.FlagSet, metricsAddr string) {
	f.StringVar(&o.metricsAddr, "metrics-addr", metricsAddr, "address of the HTTP server of /metrics, /healthz and /readyz")
	f.StringVar(&o.certFile, "metrics-tls-cert-file", "", "PEM file with a certificate and its chain, with which that server speaks HTTPS; read again when it changes")
	f.StringVar(&o.keyFile, "metrics-tls-private-key-file", "", "PEM file with the private key of --metrics-tls-cert-file")
	f.BoolVar(&o.metricsAuth, "metrics-auth", false, "let read /metrics only who has a bearer token that the API server knows and the right to get that non-resource URL; needs --metrics-tls-cert-file")
	f.StringVar(&o.logFormat, "log-format", "logfmt", "logfmt or json")
	f.StringVarP(&o.logLevel, "log-level", "v", "info", "debug, info, warn or error")
}

// Base is what every daemon stands on.
type Base struct {
	Logger   log.Logger
	Registry *prometheus.Registry
	Health   *Health
	// Serving serves metrics and health.
	Serving Task

	server *Server
	guards bool
}

// Guard puts the metrics behind the gate, if the flags ask for that. It is for
// before Serving runs.
func (b *Base) Guard(gate Gate) {
	if b.guards {
		b.server.Gate = gate
	}
}

// Setup returns what the options say. Work that waits for longer than patience
// makes the daemon unhealthy. It is for main, once: see CaptureClientGo.
func (o Options) Setup(patience time.Duration) (Base, error) {
	logger, err := NewLogger(os.Stderr, o.logFormat, o.logLevel)
	if err != nil {
		return Base{}, err
	}
	server := &Server{Addr: o.metricsAddr}
	if err := o.secure(server, logger); err != nil {
		return Base{}, err
	}
	CaptureClientGo(logger)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	health := NewHealth(clock.RealClock{}, patience)
	health.Register(registry)
	server.Gatherer, server.Health = registry, health
	return Base{
		Logger: logger, Registry: registry, Health: health,
		Serving: Task{Name: "metrics and health", Run: server.Run}, server: server, guards: o.metricsAuth,
	}, nil
}

// secure makes the server speak HTTPS if there is a certificate.
func (o Options) secure(server *Server, logger log.Logger) error {
	switch {
	case o.certFile == "" && o.keyFile == "" && !o.metricsAuth:
		return nil
	case o.certFile == "" && o.keyFile == "":
		return errors.New("--metrics-auth needs --metrics-tls-cert-file and --metrics-tls-private-key-file: tokens must not travel in the clear")
	case o.certFile == "" || o.keyFile == "":
		return errors.New("--metrics-tls-cert-file and --metrics-tls-private-key-file go together")
	}
	c := &certificate{certFile: o.certFile, keyFile: o.keyFile, clock: clock.RealClock{}, logger: logger}
	if _, err := c.get(); err != nil {
		return err
	}
	server.TLS = c.config()
	return nil
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
