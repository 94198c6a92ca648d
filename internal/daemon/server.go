package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Gate says whether whoever has a bearer token may read the page at path:
// http.StatusOK, or the status to refuse with and why.
type Gate func(ctx context.Context, token, path string) (status int, reason string)

// Server serves /metrics, /healthz and /readyz.
type Server struct {
	// Addr is the TCP address to listen on, such as ":7957".
	Addr     string
	Gatherer prometheus.Gatherer
	Health   *Health
	// TLS makes the server speak HTTPS.
	TLS *tls.Config
	// Gate, if any, is what /metrics is behind. Health is for everybody: the kubelet
	// has no token.
	Gate Gate
}

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Addr)
	if err != nil {
		return fmt.Errorf("listening for metrics and health on %s: %w", s.Addr, err)
	}
	return s.serve(ctx, listener)
}

func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	if s.TLS != nil {
		listener = tls.NewListener(listener, s.TLS)
	}
	server := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		// What scanners do wrong is no news, and would be written past the logger.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics and health on %s: %w", s.Addr, err)
	}
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.behindGate(promhttp.HandlerFor(s.Gatherer, promhttp.HandlerOpts{})))
	mux.HandleFunc("GET /healthz", probe(s.Health.Healthy))
	mux.HandleFunc("GET /readyz", probe(s.Health.Ready))
	return mux
}

// behindGate lets requests through to next whose bearer token (RFC 6750 section
// 2.1) the gate accepts.
func (s *Server) behindGate(next http.Handler) http.Handler {
	if s.Gate == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		status, reason := http.StatusUnauthorized, "a bearer token is needed"
		if token = strings.TrimSpace(token); strings.EqualFold(scheme, "Bearer") && token != "" {
			status, reason = s.Gate(r.Context(), token, r.URL.Path)
		}
		if status == http.StatusOK {
			next.ServeHTTP(w, r)
			return
		}
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		http.Error(w, reason, status)
	})
}

func probe(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok") // a prober that has gone needs no answer
	}
}
