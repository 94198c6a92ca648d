package streamer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/net/websocket"
	"golang.org/x/sync/errgroup"
)

// What a download consists of: 200 KiB a second, in so many pieces that a stall is
// seen at once.
const (
	Piece = 4 << 10 // bytes
	Every = 20 * time.Millisecond
)

// headerTimeout is how long a client may take to say what it wants.
const headerTimeout = 10 * time.Second

// Run serves until ctx ends and for delay after that, as a server does that lets
// its clients find another one first. Then it breaks what is still open.
func Run(ctx context.Context, listener net.Listener, delay time.Duration) error {
	server := &http.Server{Handler: Handler(), ReadHeaderTimeout: headerTimeout}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("streamer: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		time.Sleep(delay)
		return server.Close()
	})
	return group.Wait()
}

// Handler returns all pages. Those that agnhost's netexec has too answer the same.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { write(w, "ok") })
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) {
		name, err := os.Hostname()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		write(w, name)
	})
	mux.HandleFunc("/clientip", func(w http.ResponseWriter, r *http.Request) { write(w, r.RemoteAddr) })
	mux.HandleFunc("/download", download)
	mux.Handle("/echo", websocket.Server{Handler: echo}) // a Handler alone would want to know the origin
	return mux
}

func write(w io.Writer, text string) { _, _ = io.WriteString(w, text) } // a client may be gone

// download sends a piece at every tick until the client goes.
func download(w http.ResponseWriter, r *http.Request) {
	ticker := time.NewTicker(Every)
	defer ticker.Stop()
	flusher := http.NewResponseController(w)
	piece := make([]byte, Piece)
	for {
		if _, err := w.Write(piece); err != nil {
			return
		}
		if err := flusher.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

// echo returns every message as it is.
func echo(conn *websocket.Conn) {
	for {
		var message []byte
		if err := websocket.Message.Receive(conn, &message); err != nil {
			return
		}
		if err := websocket.Message.Send(conn, message); err != nil {
			return
		}
	}
}
