package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/internal/k8s"
)

// keyPatience is how long the key may be missing before that is reported: at
// the installation the controller may just not be up yet.
const keyPatience = 2 * time.Second

// keyWatch follows the key in the Secret. That the Secret is gone means nothing:
// the last key stays in force until there is another.
type keyWatch struct {
	client    kubernetes.Interface
	namespace string
	logger    log.Logger
	// keys holds the newest valid key that nobody has taken yet.
	keys chan []byte
}

func newKeyWatch(client kubernetes.Interface, namespace string, logger log.Logger) *keyWatch {
	return &keyWatch{client: client, namespace: namespace, logger: logger, keys: make(chan []byte, 1)}
}

// run watches until ctx ends.
func (w *keyWatch) run(ctx context.Context) error {
	secrets := w.client.CoreV1().Secrets(w.namespace)
	narrow := func(o metav1.ListOptions) metav1.ListOptions {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, k8s.MembershipSecret).String()
		return o
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return secrets.List(ctx, narrow(o))
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return secrets.Watch(ctx, narrow(o))
			},
		}, w.client),
		ObjectType: &corev1.Secret{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    w.take,
			UpdateFunc: func(_, now any) { w.take(now) },
		},
	})
	controller.RunWithContext(ctx)
	return nil
}

// take takes the key out of the Secret; one that nobody has taken before is
// outdated.
func (w *keyWatch) take(object any) {
	secret, ok := object.(*corev1.Secret)
	if !ok || secret.Name != k8s.MembershipSecret {
		return
	}
	key := secret.Data[k8s.MembershipField]
	if len(key) != k8s.MembershipBytes {
		level.Error(w.logger).Log("msg", "the key of the speakers' membership is not usable; delete the secret to have it made anew",
			"secret", w.namespace+"/"+k8s.MembershipSecret, "field", k8s.MembershipField, "bytes", len(key), "want", k8s.MembershipBytes)
		return
	}
	select {
	case <-w.keys:
	default:
	}
	w.keys <- key
}

// first returns the key as soon as there is one, or nil if ctx ends before.
func (w *keyWatch) first(ctx context.Context) []byte {
	patience := time.NewTimer(keyPatience)
	defer patience.Stop()
	for {
		select {
		case key := <-w.keys:
			return key
		case <-patience.C:
			level.Warn(w.logger).Log("msg", w.waiting())
		case <-ctx.Done():
			return nil
		}
	}
}

// waiting says what a speaker without a key waits for.
func (w *keyWatch) waiting() string {
	return fmt.Sprintf("waiting for the key of the speakers' membership in secret %s/%s, which the controller makes",
		w.namespace, k8s.MembershipSecret)
}

// keyTaker is where changed keys go; *membership.Membership is one.
type keyTaker interface{ SetKey(key []byte) error }

// follow hands changed keys on until ctx ends.
func (w *keyWatch) follow(ctx context.Context, to keyTaker) error {
	for {
		select {
		case key := <-w.keys:
			if err := to.SetKey(key); err != nil {
				return fmt.Errorf("changing the key: %w", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
