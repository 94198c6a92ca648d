package k8s

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

const (
	// allowedFor and refusedFor are for how long the API server is not asked again.
	allowedFor = time.Minute
	refusedFor = 10 * time.Second
	// allowedWithout is for how long one who was allowed stays so while the API
	// server does not answer: that is when metrics are wanted most.
	allowedWithout = time.Hour
	// reviewsKept and reviewsAtOnce bound what one who makes up tokens can cost.
	reviewsKept   = 256
	reviewsAtOnce = 4
	// reviewTimeout bounds a question. Prometheus waits for ten seconds by default.
	reviewTimeout = 4 * time.Second
)

// Reviewer asks the API server who has a token and whether they may get a
// non-resource URL, and remembers what it said for a while.
type Reviewer struct {
	kube  kubernetes.Interface
	clock clock.PassiveClock
	slots chan struct{}

	mu      sync.Mutex
	reviews map[reviewKey]review
}

// reviewKey has a digest in place of the token, which is nothing to keep.
type reviewKey struct {
	token [sha256.Size]byte
	path  string
}

type review struct {
	status int
	reason string
	// asked is when the API server said so, and until when it is not asked again.
	asked, until time.Time
}

// NewReviewer returns a Reviewer that remembers nothing.
func NewReviewer(kube kubernetes.Interface, c clock.PassiveClock) *Reviewer {
	return &Reviewer{kube: kube, clock: c, slots: make(chan struct{}, reviewsAtOnce), reviews: map[reviewKey]review{}}
}

// Review returns http.StatusOK if whoever has the token may get the page at path,
// and otherwise the status to refuse with and why.
func (r *Reviewer) Review(ctx context.Context, token, path string) (status int, reason string) {
	key := reviewKey{token: sha256.Sum256([]byte(token)), path: path}
	known, found := r.known(key)
	if found && r.clock.Now().Before(known.until) {
		return known.status, known.reason
	}
	asking, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	now := r.clock.Now()
	fresh, err := r.askInTurn(asking, token, path)
	switch {
	case err == nil:
		fresh.asked, fresh.until = now, now.Add(refusedFor)
		if fresh.status == http.StatusOK {
			fresh.until = now.Add(allowedFor)
		}
	case found && known.status == http.StatusOK && now.Sub(known.asked) < allowedWithout:
		fresh = known
		fresh.until = now.Add(refusedFor)
	default:
		return http.StatusServiceUnavailable, "the API server does not answer who this is: " + err.Error()
	}
	r.keep(key, fresh)
	return fresh.status, fresh.reason
}

func (r *Reviewer) known(key reviewKey) (review, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, found := r.reviews[key]
	return known, found
}

// keep remembers a review. Where there are too many, those go that are worth
// least: refusals first, then what was asked longest ago.
func (r *Reviewer) keep(key reviewKey, fresh review) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, found := r.reviews[key]; !found && len(r.reviews) >= reviewsKept {
		var worst reviewKey
		var has *review
		for k, v := range r.reviews {
			if has == nil || v.before(*has) {
				worst, has = k, &v
			}
		}
		delete(r.reviews, worst)
	}
	r.reviews[key] = fresh
}

func (v review) before(other review) bool {
	if allowed := v.status == http.StatusOK; allowed != (other.status == http.StatusOK) {
		return !allowed
	}
	return v.asked.Before(other.asked)
}

// askInTurn is ask, with few at a time: tokens that somebody makes up must not
// flood the API server.
func (r *Reviewer) askInTurn(ctx context.Context, token, path string) (review, error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
		return r.ask(ctx, token, path)
	case <-ctx.Done():
		return review{}, errors.New("too many tokens are being reviewed")
	}
}

func (r *Reviewer) ask(ctx context.Context, token, path string) (review, error) {
	who, err := r.kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return review{}, fmt.Errorf("reviewing a token: %w", err)
	}
	if !who.Status.Authenticated {
		return review{status: http.StatusUnauthorized, reason: "the API server does not know this token"}, nil
	}
	user := who.Status.User
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for name, values := range user.Extra {
		extra[name] = authorizationv1.ExtraValue(values)
	}
	may, err := r.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return review{}, fmt.Errorf("reviewing the access of %s: %w", user.Username, err)
	}
	if !may.Status.Allowed {
		return review{status: http.StatusForbidden, reason: fmt.Sprintf("%s may not get %s: the ClusterRole berth-metrics-reader allows it", user.Username, path)}, nil
	}
	return review{status: http.StatusOK}, nil
}
