package probe

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubeprobe "k8s.io/kubernetes/pkg/probe"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

// maxMessage is how much of a command's output goes into an event, in bytes.
const maxMessage = 1024

// Exec runs a command inside the probed container and returns its output and exit
// status.
type Exec func(ctx context.Context, command []string) (output string, status int, err error)

// Target is the container that a handler is about.
type Target struct {
	Container *corev1.Container
	// PodIP is where requests go unless the handler names a host.
	PodIP string
	Exec  Exec
}

// Checker returns the function that makes one attempt of the probe.
func Checker(handler corev1.ProbeHandler, target Target) func(context.Context) Outcome {
	switch {
	case handler.HTTPGet != nil:
		return func(ctx context.Context) Outcome { return target.get(ctx, handler.HTTPGet) }
	case handler.TCPSocket != nil:
		return func(ctx context.Context) Outcome { return target.connect(ctx, handler.TCPSocket) }
	case handler.Exec != nil:
		return func(ctx context.Context) Outcome { return target.run(ctx, handler.Exec.Command) }
	case handler.GRPC != nil:
		return failing("grpc probes are not supported here; use httpGet, tcpSocket or exec")
	default:
		return failing("the probe has no handler; set httpGet, tcpSocket or exec")
	}
}

func failing(message string) func(context.Context) Outcome {
	return func(context.Context) Outcome { return Outcome{Message: message} }
}

func (t Target) get(ctx context.Context, action *corev1.HTTPGetAction) Outcome {
	request, err := httpprobe.NewRequestForHTTPGetAction(action, t.Container, t.PodIP, "probe")
	if err != nil {
		return Outcome{Message: err.Error()}
	}
	return outcome(httpprobe.New(false).Probe(request, remaining(ctx)))
}

func (t Target) connect(ctx context.Context, action *corev1.TCPSocketAction) Outcome {
	port, err := kubeprobe.ResolveContainerPort(action.Port, t.Container)
	if err != nil {
		return Outcome{Message: err.Error()}
	}
	host := action.Host
	if host == "" {
		host = t.PodIP
	}
	return outcome(tcpprobe.New().Probe(host, port, remaining(ctx)))
}

func (t Target) run(ctx context.Context, command []string) Outcome {
	output, status, err := t.Exec(ctx, command)
	switch {
	case ctx.Err() != nil:
		return Outcome{Message: fmt.Sprintf("command %q timed out", strings.Join(command, " "))}
	case err != nil:
		return Outcome{Message: err.Error()}
	case status != 0:
		return Outcome{Message: fmt.Sprintf("command ended with status %d: %.*s", status, maxMessage, output)}
	}
	return Outcome{OK: true}
}

// outcome translates the result of the kubelet's own probes.
func outcome(result kubeprobe.Result, message string, err error) Outcome {
	if err != nil {
		return Outcome{Message: err.Error()}
	}
	return Outcome{OK: result == kubeprobe.Success || result == kubeprobe.Warning, Message: message}
}

// remaining is what a context leaves a function that only takes a timeout.
func remaining(ctx context.Context) time.Duration {
	if deadline, limited := ctx.Deadline(); limited {
		return time.Until(deadline)
	}
	return time.Second
}

// RunHook runs a handler of a container's life cycle (postStart, preStop) once.
func RunHook(ctx context.Context, hook *corev1.LifecycleHandler, target Target) error {
	switch {
	case hook.Exec != nil:
		if o := target.run(ctx, hook.Exec.Command); !o.OK {
			return fmt.Errorf("exec hook: %s", o.Message)
		}
		return nil
	case hook.HTTPGet != nil:
		return target.request(ctx, hook.HTTPGet)
	case hook.Sleep != nil:
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
		}
		return nil
	default:
		return fmt.Errorf("the hook has no supported handler; set exec, httpGet or sleep")
	}
}

// request makes the request of a hook. Unlike a probe's it may take as long as ctx
// lasts, and any answer will do.
func (t Target) request(ctx context.Context, action *corev1.HTTPGetAction) error {
	request, err := httpprobe.NewRequestForHTTPGetAction(action, t.Container, t.PodIP, "lifecycle")
	if err != nil {
		return fmt.Errorf("http hook: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("http hook: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxMessage))
	return err
}
