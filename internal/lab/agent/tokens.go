package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

// renewAfter is the part of its life after which a token is replaced, as by a
// kubelet.
const renewAfter = 0.8

// retryToken is how soon a token that could not be replaced is tried again. The
// old one still serves for a fifth of its life.
const retryToken = 10 * time.Second

// tokenKey distinguishes the tokens of a Pod.
type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
}

type storedToken struct {
	value   string
	renew   time.Time
	expires time.Time
}

// tokens requests the tokens that Pods find in their volumes, bound to the Pod, and
// remembers them until it is time for new ones.
type tokens struct {
	client kubernetes.Interface
	clock  clock.Clock

	mu     sync.Mutex
	stored map[tokenKey]storedToken
}

func newTokens(client kubernetes.Interface, c clock.Clock) *tokens {
	return &tokens{client: client, clock: c, stored: map[tokenKey]storedToken{}}
}

// Token implements volume.Source. A token that cannot be replaced is used until it
// expires.
func (t *tokens) Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	key := tokenKey{pod: pod.UID, audience: p.Audience, seconds: 3600}
	if p.ExpirationSeconds != nil {
		key.seconds = *p.ExpirationSeconds
	}
	now := t.clock.Now()
	t.mu.Lock()
	stored, found := t.stored[key]
	t.mu.Unlock()
	if found && now.Before(stored.renew) {
		return stored.value, stored.renew, nil
	}
	fresh, err := t.request(ctx, pod, key)
	if err != nil {
		if found && now.Before(stored.expires) {
			return stored.value, now.Add(retryToken), nil
		}
		return "", time.Time{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stored[key] = fresh
	return fresh.value, fresh.renew, nil
}

func (t *tokens) request(ctx context.Context, pod *corev1.Pod, key tokenKey) (storedToken, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: &key.seconds,
		BoundObjectRef:    &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if key.audience != "" {
		request.Spec.Audiences = []string{key.audience}
	}
	account := pod.Spec.ServiceAccountName
	answer, err := t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return storedToken{}, fmt.Errorf("token of service account %s: %w", account, err)
	}
	now, expires := t.clock.Now(), answer.Status.ExpirationTimestamp.Time
	return storedToken{
		value:   answer.Status.Token,
		renew:   now.Add(time.Duration(renewAfter * float64(expires.Sub(now)))),
		expires: expires,
	}, nil
}

// forget drops the tokens of a Pod that is gone.
func (t *tokens) forget(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.stored {
		if key.pod == pod {
			delete(t.stored, key)
		}
	}
}
