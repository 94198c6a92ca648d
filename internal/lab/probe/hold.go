package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/net/websocket"
)

// DefaultHoldEvery is the time between two messages on a WebSocket that is held.
const DefaultHoldEvery = 50 * time.Millisecond

// connectTimeout is how long a connection that is to be held may take to be there.
const connectTimeout = 5 * time.Second

// HoldSettings say which connection to hold and how.
type HoldSettings struct {
	// URL is http://ADDRESS[:PORT]/PATH of a download that does not end, or
	// ws://ADDRESS[:PORT]/PATH of a WebSocket that echoes.
	URL string
	// From is the name of the host that connects, for the report.
	From string
	// Every is the time between two messages that a WebSocket is sent. Zero means
	// the default.
	Every time.Duration
	// Dial makes connections on that host.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Connected, if not nil, is called once there is a connection.
	Connected func()
}

// Holder holds one connection.
type Holder struct {
	settings HoldSettings
	target   *url.URL
	open     func(context.Context) (held, error)
	now      func() time.Time
}

// held is a connection: read waits for more and says how much came.
type held struct {
	conn net.Conn
	read func() (int, error)
	// send, if not nil, is called at every tick.
	send func() error
}

// NewHolder checks the settings and returns a holder that has not connected yet.
func NewHolder(settings HoldSettings) (*Holder, error) {
	if settings.Every == 0 {
		settings.Every = DefaultHoldEvery
	}
	if settings.Every < 0 {
		return nil, errors.New("hold: interval must be positive")
	}
	target, err := url.Parse(settings.URL)
	if err != nil {
		return nil, fmt.Errorf("hold: %w", err)
	}
	if _, err := netip.ParseAddr(target.Hostname()); err != nil {
		return nil, fmt.Errorf("hold: url %q: needs an address, as there is no DNS in the lab: %w", settings.URL, err)
	}
	holder := &Holder{settings: settings, target: target, now: time.Now}
	switch target.Scheme {
	case "http":
		holder.open = holder.openDownload
	case "ws":
		holder.open = holder.openSocket
	default:
		return nil, fmt.Errorf("hold: url %q: must start with http:// or ws://", settings.URL)
	}
	return holder, nil
}

// Run connects and holds the connection until ctx ends or it breaks.
func (h *Holder) Run(ctx context.Context) HoldReport {
	began := h.now()
	report := HoldReport{URL: h.settings.URL, From: h.settings.From, Began: began, StallBegan: began}
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	connection, err := h.open(connecting)
	if err == nil {
		report.Connected = true
		if h.settings.Connected != nil {
			h.settings.Connected()
		}
		err = h.hold(ctx, connection, &report)
	}
	end := h.now()
	report.Lasted = Seconds(end.Sub(began))
	if err != nil && ctx.Err() == nil {
		report.Broken = cause(err)
		report.BrokeAt = end
	}
	return report
}

// hold reads until the connection breaks, or ctx ends, which closes it.
func (h *Holder) hold(ctx context.Context, connection held, report *HoldReport) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { _ = connection.conn.Close() })
	defer stop()
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		if err := h.send(ctx, connection); err != nil {
			cancel(err)
		}
	}()
	last := h.now()
	for {
		n, err := connection.read()
		now := h.now()
		report.stall(last, now)
		if err != nil {
			cancel(err)
			<-sending
			return context.Cause(ctx) // the first of the two errors
		}
		last = now
		report.Received += n
	}
}

// send sends at every tick until ctx ends.
func (h *Holder) send(ctx context.Context, connection held) error {
	if connection.send == nil {
		return nil
	}
	ticker := time.NewTicker(h.settings.Every)
	defer ticker.Stop()
	for {
		if err := connection.send(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// connect dials and has greet agree with the server on what follows.
func (h *Holder) connect(ctx context.Context, greet func(net.Conn) error) (net.Conn, error) {
	address := h.target.Host
	if h.target.Port() == "" {
		address = net.JoinHostPort(h.target.Hostname(), "80")
	}
	conn, err := h.settings.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err := greet(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if !stop() {
		return nil, ctx.Err() // and the connection is closed
	}
	return conn, nil
}

// openDownload asks for a page without an end. What is counted are bytes.
func (h *Holder) openDownload(ctx context.Context) (held, error) {
	var body io.Reader
	conn, err := h.connect(ctx, func(conn net.Conn) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.settings.URL, nil)
		if err != nil {
			return err
		}
		if err := request.Write(conn); err != nil {
			return err
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), request) //nolint:bodyclose // it ends with the connection
		if err != nil {
			return err
		}
		body = response.Body
		if response.StatusCode != http.StatusOK {
			return statusError(response.StatusCode)
		}
		return nil
	})
	buffer := make([]byte, 64<<10)
	return held{conn: conn, read: func() (int, error) {
		n, err := body.Read(buffer)
		if n > 0 {
			return n, nil // an error comes again with the next call
		}
		return 0, err
	}}, err
}

// openSocket makes a WebSocket. What is counted are messages that come back.
func (h *Holder) openSocket(ctx context.Context) (held, error) {
	var socket *websocket.Conn
	conn, err := h.connect(ctx, func(conn net.Conn) error {
		config, err := websocket.NewConfig(h.settings.URL, "http://lab/")
		if err != nil {
			return err
		}
		socket, err = websocket.NewClient(config, conn)
		return err
	})
	return held{
		conn: conn,
		read: func() (int, error) {
			var message string
			return 1, websocket.Message.Receive(socket, &message)
		},
		send: func() error { return websocket.Message.Send(socket, "still there?") },
	}, err
}

// HoldReport sums up what became of a connection. Durations are written as seconds
// in JSON.
type HoldReport struct {
	URL  string `json:"url"`
	From string `json:"from"`
	// Connected is false if there never was a connection.
	Connected bool `json:"connected"`
	// Began is when it was asked for; Lasted is the time until it was given up or
	// broke.
	Began  time.Time `json:"began"`
	Lasted Seconds   `json:"lasted"`
	// Broken says why it broke; empty if it did not. BrokeAt is when.
	Broken  string    `json:"broken,omitempty"`
	BrokeAt time.Time `json:"brokeAt,omitzero"`
	// Received counts the bytes of a download or the messages of a WebSocket.
	Received int `json:"received"`
	// LongestStall is the longest time in which nothing was received; StallBegan is
	// when that began.
	LongestStall Seconds   `json:"longestStall"`
	StallBegan   time.Time `json:"stallBegan"`
}

func (r *HoldReport) stall(from, to time.Time) {
	if stall := Seconds(to.Sub(from)); stall > r.LongestStall {
		r.LongestStall, r.StallBegan = stall, from
	}
}

// WriteText writes the report for people.
func (r HoldReport) WriteText(w io.Writer) error {
	state := "held for " + r.Lasted.String()
	switch {
	case !r.Connected:
		state = "no connection: " + r.Broken
	case r.Broken != "":
		state = fmt.Sprintf("broke after %s (%s): %s", r.Lasted, r.BrokeAt.Format("15:04:05.000"), r.Broken)
	}
	_, err := fmt.Fprintf(w, "%s from %s: %s\n%d bytes or messages received; longest stall %s, from %s on\n",
		r.URL, r.From, state, r.Received, r.LongestStall, r.StallBegan.Format("15:04:05.000"))
	return err
}
