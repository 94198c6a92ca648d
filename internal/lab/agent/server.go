package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/errdefs"
	"github.com/virtual-kubelet/virtual-kubelet/node/api"
	corev1 "k8s.io/api/core/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/berth-lb/berth/internal/lab/container"
	"github.com/berth-lb/berth/internal/lab/netns"
)

// Limits of the kubelet's API, as a kubelet has them.
const (
	streamIdleTime     = 4 * time.Hour
	streamCreationTime = 30 * time.Second
	listenRetry        = 200 * time.Millisecond
)

// serveKubeletAPI answers the API server's requests for logs and commands until ctx
// ends. Clients are not authenticated: only the lab itself reaches the port.
func (a *agent) serveKubeletAPI(ctx context.Context) error {
	certificate, err := selfSigned(a.config)
	if err != nil {
		return fmt.Errorf("kubelet API: %w", err)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	routes.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	routes.Handle("/", api.PodHandler(api.PodHandlerConfig{
		RunInContainer:        a.runInContainer,
		PortForward:           a.forwardPort,
		GetPods:               a.pods.list,
		GetPodsFromKubernetes: a.pods.list,
		StreamIdleTimeout:     streamIdleTime,
		StreamCreationTimeout: streamCreationTime,
	}, true))
	server := &http.Server{
		Handler:     routes,
		BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig:   &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ErrorLog:    stdlog.New(io.Discard, "", 0), // of clients that went away
		// HTTP/2 cannot be upgraded to the streams of exec.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	listener := a.listen(ctx)
	if listener == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("kubelet API: %w", err)
	}
	return nil
}

// listen takes the port on all the node's addresses, as soon as an earlier agent
// has let go of it. It returns nil if ctx ends first.
func (a *agent) listen(ctx context.Context) net.Listener {
	for ctx.Err() == nil {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+strconv.Itoa(kubeletPort))
		if err == nil {
			return listener
		}
		a.sleep(ctx, listenRetry)
	}
	return nil
}

// selfSigned makes a certificate for the node's names. The API server does not
// verify it.
func selfSigned(config Config) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: config.Node},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(10, 0, 0),
		DNSNames:     []string{config.Node},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range config.NodeIPs {
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// list returns all Pods of the node.
func (s *pods) list(context.Context) ([]*corev1.Pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*corev1.Pod
	for _, p := range s.byUID {
		all = append(all, p.current())
	}
	return all, nil
}

// runner finds a container of a Pod.
func (s *pods) runner(namespace, name, containerName string) (*runner, error) {
	p := s.find(namespace, name)
	if p == nil {
		return nil, errdefs.NotFoundf("pod %s/%s is not on this node", namespace, name)
	}
	for _, r := range append(append([]*runner{}, p.init...), p.main...) {
		if r.spec.Name == containerName {
			return r, nil
		}
	}
	return nil, errdefs.NotFoundf("pod %s/%s has no container %q", namespace, name, containerName)
}

// runInContainer serves kubectl exec.
func (a *agent) runInContainer(ctx context.Context, namespace, name, containerName string, command []string, streams api.AttachIO) error {
	r, err := a.pods.runner(namespace, name, containerName)
	if err != nil {
		return err
	}
	r.pod.mu.Lock()
	process := r.process
	r.pod.mu.Unlock()
	if process == nil {
		return fmt.Errorf("container %s does not run", containerName)
	}
	options := container.ExecOptions{Args: command, Stdin: streams.Stdin(), Terminal: streams.TTY()}
	if out := streams.Stdout(); out != nil {
		options.Stdout = out
	}
	if out := streams.Stderr(); out != nil {
		options.Stderr = out
	}
	if streams.TTY() {
		options.Resize = resizes(ctx, streams.Resize())
	}
	exit, err := process.Exec(ctx, options)
	if err != nil {
		return err
	}
	if exit.Code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", exit.Code), Code: exit.Code}
	}
	return nil
}

// forwardPort serves one connection of kubectl port-forward, until either side ends
// it.
func (a *agent) forwardPort(ctx context.Context, namespace, name string, port int32, stream io.ReadWriteCloser) error {
	defer func() { _ = stream.Close() }()
	p := a.pods.find(namespace, name)
	if p == nil {
		return errdefs.NotFoundf("pod %s/%s is not on this node", namespace, name)
	}
	connection, err := p.dial(ctx, port)
	if err != nil {
		return fmt.Errorf("forward port %d to pod %s/%s: %w", port, namespace, name, err)
	}
	defer func() { _ = connection.Close() }()
	ended := make(chan error, 2)
	go func() { _, err := io.Copy(connection, stream); ended <- err }()
	go func() { _, err := io.Copy(stream, connection); ended <- err }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return err
	}
}

// dial connects to a port on the Pod's loopback interface.
func (p *pod) dial(ctx context.Context, port int32) (connection net.Conn, err error) {
	connect := func() error {
		// An address rather than a name: only then does the calling thread connect.
		var err error
		connection, err = (&net.Dialer{}).DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		return err
	}
	if p.netns == "" {
		err = connect()
	} else {
		err = netns.Target{Name: p.netns}.Do(connect)
	}
	return connection, err
}

// resizes translates a terminal's sizes until ctx ends.
func resizes(ctx context.Context, in <-chan api.TermSize) <-chan container.TerminalSize {
	out := make(chan container.TerminalSize)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case size, open := <-in:
				if !open {
					return
				}
				select {
				case out <- container.TerminalSize{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}
