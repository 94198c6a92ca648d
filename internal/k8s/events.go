package k8s

import (
	"context"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// Events tells users of transitions, as Kubernetes Events on Services. Sending
// is in the background and gives up on events that the API server does not
// take: they are news, not state.
type Events struct {
	client      kubernetes.Interface
	logger      log.Logger
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

// NewEvents returns a sender of events in the name of component.
func NewEvents(client kubernetes.Interface, component string, logger log.Logger) *Events {
	broadcaster := record.NewBroadcasterWithCorrelatorOptions(record.CorrelatorOptions{})
	return &Events{
		client:      client,
		logger:      logger,
		broadcaster: broadcaster,
		recorder:    broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component}),
	}
}

// Run sends until ctx is done.
func (e *Events) Run(ctx context.Context) error {
	watching := e.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: e.client.CoreV1().Events("")})
	<-ctx.Done()
	watching.Stop()
	e.broadcaster.Shutdown()
	return nil
}

// Normal tells that something went as it should.
func (e *Events) Normal(svc *corev1.Service, reason, message string) {
	e.send(svc, corev1.EventTypeNormal, reason, message)
}

// Warning tells that something needs a person's attention.
func (e *Events) Warning(svc *corev1.Service, reason, message string) {
	e.send(svc, corev1.EventTypeWarning, reason, message)
}

func (e *Events) send(svc *corev1.Service, eventType, reason, message string) {
	level.Info(e.logger).Log("msg", message, "service", svc.Namespace+"/"+svc.Name, "event", reason)
	e.recorder.Event(svc, eventType, reason, message)
}
