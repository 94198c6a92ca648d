package daemon

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"k8s.io/utils/clock"
)

// certificateAge is for how long the files of a certificate are not read again.
const certificateAge = 10 * time.Second

// certificate is a TLS certificate that is kept in files, whoever renews them.
type certificate struct {
	certFile, keyFile string
	clock             clock.PassiveClock
	logger            log.Logger

	mu        sync.Mutex
	read      time.Time
	cert, key []byte // what the files had
	parsed    *tls.Certificate
	failing   bool
}

// get returns the certificate that the files have now, or had when they were
// last in order: while they are replaced one by one, they may not match.
func (c *certificate) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parsed != nil && c.clock.Since(c.read) < certificateAge {
		return c.parsed, nil
	}
	err := c.load()
	switch {
	case err != nil && c.parsed == nil:
		return nil, err
	case err != nil && !c.failing:
		level.Warn(c.logger).Log("msg", "the certificate for metrics cannot be read any more; the last one goes on", "err", err)
	}
	c.failing = err != nil
	return c.parsed, nil
}

func (c *certificate) load() error {
	c.read = c.clock.Now()
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return fmt.Errorf("--metrics-tls-cert-file: %w", err)
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return fmt.Errorf("--metrics-tls-private-key-file: %w", err)
	}
	if c.parsed != nil && bytes.Equal(cert, c.cert) && bytes.Equal(key, c.key) {
		return nil
	}
	parsed, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("--metrics-tls-cert-file %s with --metrics-tls-private-key-file %s: %w", c.certFile, c.keyFile, err)
	}
	if c.parsed != nil {
		level.Info(c.logger).Log("msg", "the certificate for metrics was renewed", "until", parsed.Leaf.NotAfter)
	}
	c.cert, c.key, c.parsed = cert, key, &parsed
	return nil
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get() },
	}
}
