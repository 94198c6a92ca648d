package k8s

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"
)

// reviewing is an API server that knows the tokens "reader" and "stranger".
type reviewing struct {
	*Reviewer
	clock *clocktesting.FakePassiveClock
	asked atomic.Int64
	down  atomic.Bool
	// revoked takes the reader's right away.
	revoked atomic.Bool
}

func newReviewing() *reviewing {
	r := &reviewing{clock: clocktesting.NewFakePassiveClock(time.Unix(1000, 0))}
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		r.asked.Add(1)
		if r.down.Load() {
			return true, nil, errors.New("connection refused")
		}
		tr := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		known := tr.Spec.Token == "reader" || tr.Spec.Token == "stranger"
		tr.Status.Authenticated = known
		if known {
			tr.Status.User = authenticationv1.UserInfo{
				Username: "system:serviceaccount:monitoring:" + tr.Spec.Token, UID: "1", Groups: []string{"system:authenticated"},
				Extra: map[string]authenticationv1.ExtraValue{"pod": {"prometheus-0"}},
			}
		}
		return true, tr, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		sar := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		s := sar.Spec
		sar.Status.Allowed = s.User == "system:serviceaccount:monitoring:reader" && s.UID == "1" && len(s.Groups) == 1 && s.Extra["pod"][0] == "prometheus-0" &&
			s.NonResourceAttributes.Path == "/metrics" && s.NonResourceAttributes.Verb == "get" && s.ResourceAttributes == nil && !r.revoked.Load()
		return true, sar, nil
	})
	r.Reviewer = NewReviewer(client, r.clock)
	return r
}

func (r *reviewing) expect(t *testing.T, token string, status int, asked int64) {
	t.Helper()
	got, reason := r.Review(t.Context(), token, "/metrics")
	if got != status || (reason == "") != (status == http.StatusOK) {
		t.Errorf("%s: %d %q, want %d", token, got, reason, status)
	}
	if n := r.asked.Load(); n != asked {
		t.Errorf("%s: the API server was asked %d times by now, want %d", token, n, asked)
	}
}

func TestReviewer(t *testing.T) {
	t.Parallel()
	r := newReviewing()
	r.expect(t, "reader", http.StatusOK, 1)
	r.expect(t, "stranger", http.StatusForbidden, 2)
	r.expect(t, "forged", http.StatusUnauthorized, 3)
	for token, status := range map[string]int{"reader": http.StatusOK, "stranger": http.StatusForbidden, "forged": http.StatusUnauthorized} {
		r.expect(t, token, status, 3) // remembered
	}
	if status, _ := r.Review(t.Context(), "reader", "/debug"); status != http.StatusForbidden {
		t.Errorf("another page: %d", status)
	}
	r.clock.SetTime(r.clock.Now().Add(refusedFor))
	r.expect(t, "reader", http.StatusOK, 4)
	r.expect(t, "stranger", http.StatusForbidden, 5) // asked again: the right may be new
	r.revoked.Store(true)
	r.clock.SetTime(r.clock.Now().Add(allowedFor))
	r.expect(t, "reader", http.StatusForbidden, 6)
}

func TestReviewerWithoutAPIServer(t *testing.T) {
	t.Parallel()
	r := newReviewing()
	r.expect(t, "reader", http.StatusOK, 1)
	r.expect(t, "stranger", http.StatusForbidden, 2)
	r.down.Store(true)
	r.clock.SetTime(r.clock.Now().Add(allowedFor))
	r.expect(t, "reader", http.StatusOK, 3)
	r.expect(t, "reader", http.StatusOK, 3) // it is not kept waiting each time
	r.expect(t, "stranger", http.StatusServiceUnavailable, 4)
	r.expect(t, "forged", http.StatusServiceUnavailable, 5)
	r.clock.SetTime(r.clock.Now().Add(allowedWithout))
	r.expect(t, "reader", http.StatusServiceUnavailable, 6)
	r.down.Store(false)
	r.expect(t, "reader", http.StatusOK, 7)
}

// Whoever makes up tokens fills no memory, nor drives out those who may read.
func TestReviewerIsBounded(t *testing.T) {
	t.Parallel()
	r := newReviewing()
	r.expect(t, "reader", http.StatusOK, 1)
	for i := range 2 * reviewsKept {
		r.clock.SetTime(r.clock.Now().Add(time.Millisecond))
		r.Review(t.Context(), fmt.Sprint("forged ", i), "/metrics")
	}
	if n := len(r.reviews); n != reviewsKept {
		t.Errorf("%d reviews are kept, want %d", n, reviewsKept)
	}
	r.expect(t, "reader", http.StatusOK, 1+2*reviewsKept)
	for range reviewsAtOnce {
		r.slots <- struct{}{}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if status, _ := r.Review(gone, "another", "/metrics"); status != http.StatusServiceUnavailable {
		t.Errorf("with all slots taken: %d", status)
	}
}

// Whoever makes up tokens while the API server is slow keeps nobody out who was let
// in before, and keeps nobody waiting for ever.
func TestReviewerIsBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReviewing()
		r.expect(t, "reader", http.StatusOK, 1)
		r.clock.SetTime(r.clock.Now().Add(allowedFor))
		for range reviewsAtOnce {
			r.slots <- struct{}{}
		}
		r.expect(t, "reader", http.StatusOK, 1)
		r.expect(t, "stranger", http.StatusServiceUnavailable, 1)
		<-r.slots
		r.expect(t, "stranger", http.StatusForbidden, 2)
	})
}
