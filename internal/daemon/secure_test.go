package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	clocktesting "k8s.io/utils/clock/testing"
)

// certFiles are a certificate's files.
type certFiles struct{ cert, key string }

func newCertFiles(t *testing.T) certFiles {
	t.Helper()
	dir := t.TempDir()
	return certFiles{cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
}

// issue writes a new certificate with a serial number of its own.
func (f certFiles) issue(t *testing.T, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{f.cert: {Type: "CERTIFICATE", Bytes: der}, f.key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	files := newCertFiles(t)
	clock := clocktesting.NewFakePassiveClock(time.Unix(0, 0))
	c := &certificate{certFile: files.cert, keyFile: files.key, clock: clock, logger: log.NewNopLogger()}
	if _, err := c.get(); err == nil || !strings.Contains(err.Error(), "--metrics-tls-cert-file") {
		t.Errorf("without files: %v", err)
	}
	expect := func(when string, serial int64) {
		t.Helper()
		got, err := c.get()
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got.Leaf.SerialNumber.Int64() != serial {
			t.Errorf("%s: certificate %v, want %d", when, got.Leaf.SerialNumber, serial)
		}
	}
	files.issue(t, 1)
	expect("at first", 1)
	files.issue(t, 2)
	expect("at once", 1)
	clock.SetTime(clock.Now().Add(certificateAge))
	expect("when it was renewed", 2)
	if err := os.WriteFile(files.key, []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	clock.SetTime(clock.Now().Add(certificateAge))
	expect("with a key that does not match", 2)
	files.issue(t, 3)
	clock.SetTime(clock.Now().Add(certificateAge))
	expect("when it is in order again", 3)
}

// serveSecurely runs a server over TLS and returns its URL and a client.
func serveSecurely(t *testing.T, files certFiles, gate Gate) (string, *http.Client) {
	t.Helper()
	var o Options
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o.AddFlags(flags, ":0")
	if err := flags.Parse([]string{"--metrics-tls-cert-file=" + files.cert, "--metrics-tls-private-key-file=" + files.key, "--metrics-auth"}); err != nil {
		t.Fatal(err)
	}
	server := &Server{Gatherer: prometheus.NewRegistry(), Health: NewHealth(clocktesting.NewFakeClock(time.Now()), time.Second), Gate: gate}
	if err := o.secure(server, log.NewNopLogger()); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.serve(ctx, listener) }()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool()}}
	content, err := os.ReadFile(files.cert)
	if err != nil || !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(content) {
		t.Fatalf("the certificate is of no use (error %v)", err)
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "https://" + listener.Addr().String(), &http.Client{Transport: transport}
}

func TestMetricsBehindGate(t *testing.T) {
	t.Parallel()
	files := newCertFiles(t)
	files.issue(t, 1)
	url, client := serveSecurely(t, files, func(_ context.Context, token, path string) (int, string) {
		if path != "/metrics" {
			t.Errorf("asked about %s", path)
		}
		if token == "reader" {
			return http.StatusOK, ""
		}
		return http.StatusForbidden, token + " may not"
	})
	for _, test := range []struct {
		path, authorization string
		status              int
		body                string
	}{
		{path: "/metrics", status: http.StatusUnauthorized, body: "a bearer token is needed"},
		{path: "/metrics", authorization: "Basic cmVhZGVyOg==", status: http.StatusUnauthorized},
		{path: "/metrics", authorization: "Bearer", status: http.StatusUnauthorized},
		{path: "/metrics", authorization: "Bearer stranger", status: http.StatusForbidden, body: "stranger may not"},
		{path: "/metrics", authorization: "Bearer reader", status: http.StatusOK},
		{path: "/metrics", authorization: "bearer  reader ", status: http.StatusOK},
		{path: "/healthz", status: http.StatusOK, body: "ok"},
		{path: "/readyz", status: http.StatusServiceUnavailable, body: "not ready yet"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.authorization != "" {
			request.Header.Set("Authorization", test.authorization)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != test.status || !strings.Contains(string(body), test.body) {
			t.Errorf("%s with %q: %s %s (error %v)", test.path, test.authorization, response.Status, body, err)
		}
		if challenge := response.Header.Get("WWW-Authenticate"); (challenge == "Bearer") != (test.status == http.StatusUnauthorized) {
			t.Errorf("%s with %q: challenge %q", test.path, test.authorization, challenge)
		}
	}
	plain := "http" + strings.TrimPrefix(url, "https") + "/healthz"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := client.Do(request); err == nil {
		_ = response.Body.Close()
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("over plain HTTP: %s", response.Status)
		}
	}
}

func TestSecureFlags(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		o    Options
		want string
	}{
		{o: Options{metricsAuth: true}, want: "--metrics-auth needs"},
		{o: Options{certFile: "a"}, want: "go together"},
		{o: Options{keyFile: "a"}, want: "go together"},
		{o: Options{certFile: "/none", keyFile: "/none"}, want: "/none: no such file"},
		{o: Options{}},
	} {
		server := &Server{}
		err := test.o.secure(server, log.NewNopLogger())
		if test.want == "" && (err != nil || server.TLS != nil) {
			t.Errorf("%+v: %v", test.o, err)
		}
		if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%+v: %v, want %s", test.o, err, test.want)
		}
	}
}

func TestGuardOnlyIfAskedFor(t *testing.T) {
	t.Parallel()
	gate := func(context.Context, string, string) (int, string) { return http.StatusOK, "" }
	for _, guards := range []bool{false, true} {
		base := Base{server: &Server{}, guards: guards}
		base.Guard(gate)
		if (base.server.Gate != nil) != guards {
			t.Errorf("guards %v: gate %v", guards, base.server.Gate != nil)
		}
	}
}
