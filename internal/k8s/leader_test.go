package k8s

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// candidate is one replica in an election.
type candidate struct {
	leads   chan context.Context // receives the context of each term
	release chan struct{}        // lets the work of a term return after its context is done
	stop    context.CancelFunc
	stopped chan error
}

func newCandidate(t *testing.T, client *fake.Clientset, identity string) *candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &candidate{leads: make(chan context.Context), release: make(chan struct{}), stop: cancel, stopped: make(chan error, 1)}
	leader := &Leader{
		Client: client, Logger: log.NewNopLogger(), Namespace: "berth-system", Name: "berth-controller", Identity: identity,
		LeaseDuration: time.Second, RenewDeadline: 600 * time.Millisecond, RetryPeriod: 50 * time.Millisecond,
	}
	go func() {
		c.stopped <- leader.Run(ctx, func(ctx context.Context) error {
			c.leads <- ctx
			<-ctx.Done()
			<-c.release
			return ctx.Err()
		})
	}()
	t.Cleanup(cancel)
	return c
}

// TestHandover: a leader that stops has finished its work before the next
// begins, and the next need not wait for the Lease to expire.
func TestHandover(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	first := newCandidate(t, client, "first")
	<-first.leads
	second := newCandidate(t, client, "second")
	first.stop()
	select {
	case <-second.leads:
		t.Fatal("the second leads while the first is still at work")
	case err := <-first.stopped:
		t.Fatalf("the first stopped before its work was done: %v", err)
	case first.release <- struct{}{}:
	}
	if err := <-first.stopped; err != nil {
		t.Errorf("the first stopped with %v", err)
	}
	<-second.leads
	close(second.release)
	second.stop()
	if err := <-second.stopped; err != nil {
		t.Errorf("the second stopped with %v", err)
	}
}

// TestLeaseLost: a leader whose API server does not answer any more stops, is
// told why, and leads again when it answers again.
func TestLeaseLost(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	var frozen atomic.Bool
	client.PrependReactor("*", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		if frozen.Load() {
			return true, nil, errors.New("the server does not answer")
		}
		return false, nil, nil
	})
	c := newCandidate(t, client, "only")
	ctx := <-c.leads
	frozen.Store(true)
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, ErrLeaseLost) {
		t.Errorf("the term ended by %v, want ErrLeaseLost", cause)
	}
	frozen.Store(false)
	c.release <- struct{}{}
	<-c.leads
	close(c.release)
	c.stop()
	if err := <-c.stopped; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

// TestStandbyStops: a candidate that never led stops at once.
func TestStandbyStops(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	leader := newCandidate(t, client, "leader")
	<-leader.leads
	standby := newCandidate(t, client, "standby")
	standby.stop()
	if err := <-standby.stopped; err != nil {
		t.Errorf("stopped with %v", err)
	}
	close(leader.release)
}
