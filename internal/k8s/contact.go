package k8s

import (
	"io"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
)

// Contact knows when the API server was last heard of: when it answered, or sent
// something over a watch, which it does about once a minute if only to say that
// nothing has changed.
type Contact struct {
	clock clock.PassiveClock
	last  atomic.Int64 // Unix time in nanoseconds
}

// NewContact returns a Contact whose metric is registered on reg.
func NewContact(c clock.PassiveClock, reg prometheus.Registerer) *Contact {
	contact := &Contact{clock: c}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "berth_api_last_contact_timestamp_seconds",
		Help: "When the API server last answered or sent an event; 0 if it never has.",
	}, func() float64 { return float64(contact.last.Load()) / 1e9 }))
	return contact
}

func (c *Contact) heard() { c.last.Store(c.clock.Now().UnixNano()) }

// Wrap returns a transport that notes what next receives.
func (c *Contact) Wrap(next http.RoundTripper) http.RoundTripper {
	return listening{contact: c, next: next}
}

type listening struct {
	contact *Contact
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper. A server that answers with an error of
// its own (status 500 and above) is not one that could be worked with.
func (l listening) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.next.RoundTrip(request)
	if err != nil || response.StatusCode >= http.StatusInternalServerError {
		return response, err
	}
	l.contact.heard()
	response.Body = heardBody{ReadCloser: response.Body, contact: l.contact}
	return response, nil
}

// WrappedRoundTripper lets client-go find the transport below.
func (l listening) WrappedRoundTripper() http.RoundTripper { return l.next }

type heardBody struct {
	io.ReadCloser
	contact *Contact
}

func (b heardBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.contact.heard()
	}
	return n, err
}
