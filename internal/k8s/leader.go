package k8s

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Leader runs something in one process at a time, by means of a Lease.
type Leader struct {
	Client kubernetes.Interface
	Logger log.Logger
	// Namespace and Name of the Lease.
	Namespace, Name string
	// Identity of this process among the candidates, unique: the Pod's name.
	Identity string
	// LeaseDuration is how long a leader that has stopped answering blocks the
	// others; RenewDeadline, how long it goes on without a renewal;
	// RetryPeriod, how often each tries.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

// Run waits for the lead, then calls lead, again and again until ctx is done.
// The context of lead ends when the lead is lost or ctx is done. The Lease is
// given back only after lead has returned, so a successor never finds its
// predecessor still at work.
func (l *Leader) Run(ctx context.Context, lead func(ctx context.Context) error) error {
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, l.Namespace, l.Name,
		l.Client.CoreV1(), l.Client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: l.Identity})
	if err != nil {
		return fmt.Errorf("preparing Lease %s/%s: %w", l.Namespace, l.Name, err)
	}
	for ctx.Err() == nil {
		if err := l.term(ctx, lock, lead); err != nil {
			return err
		}
	}
	return nil
}

// ErrLeaseLost is the cause of the end of a leader's context when it could not
// renew its Lease in time. Another may be leading by then: write nothing more.
var ErrLeaseLost = errors.New("the Lease was not renewed in time")

// term is one candidacy: it ends when the lead was had and lost, or ctx is done.
func (l *Leader) term(ctx context.Context, lock resourcelock.Interface, lead func(context.Context) error) error {
	// The elector gives the Lease back when its context ends, so that context
	// must outlive the work: it ends only after lead has returned.
	electorCtx, endTerm := context.WithCancel(context.WithoutCancel(ctx))
	defer endTerm()
	leadCtx, stopLead := context.WithCancelCause(ctx)
	defer stopLead(nil)

	// The callback runs in a goroutine of the elector's: once the term is given
	// up it must not begin any more.
	var began, givenUp bool
	var mu sync.Mutex
	begin := func() bool {
		mu.Lock()
		defer mu.Unlock()
		began = !givenUp
		return began
	}
	giveUp := func() bool {
		mu.Lock()
		defer mu.Unlock()
		givenUp = !began
		return givenUp
	}
	finished := make(chan struct{})
	var leadErr error
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            &expiringLock{Interface: lock, after: l.RenewDeadline, expire: func() { stopLead(ErrLeaseLost) }},
		LeaseDuration:   l.LeaseDuration,
		RenewDeadline:   l.RenewDeadline,
		RetryPeriod:     l.RetryPeriod,
		ReleaseOnCancel: true,
		Name:            l.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				if !begin() {
					return
				}
				defer close(finished)
				level.Info(l.Logger).Log("msg", "leading", "lease", l.Name, "identity", l.Identity)
				leadErr = lead(leadCtx)
				endTerm()
			},
			OnStoppedLeading: func() { stopLead(ErrLeaseLost) },
		},
	})
	if err != nil {
		return fmt.Errorf("preparing the election of Lease %s/%s: %w", l.Namespace, l.Name, err)
	}
	// Without the lead there is no work to wait for.
	stop := context.AfterFunc(ctx, func() {
		if giveUp() {
			endTerm()
		}
	})
	defer stop()
	elector.Run(electorCtx)
	if giveUp() {
		return nil
	}
	<-finished
	level.Info(l.Logger).Log("msg", "no longer leading", "lease", l.Name, "identity", l.Identity, "cause", context.Cause(leadCtx))
	if errors.Is(leadErr, context.Canceled) || errors.Is(leadErr, ErrLeaseLost) {
		return nil
	}
	return leadErr
}

// expiringLock calls expire when its last renewal is longer ago than after. The
// elector notices the same, but tries to give the Lease back before it says so,
// and an API server that does not answer holds it up.
type expiringLock struct {
	resourcelock.Interface
	after  time.Duration
	expire func()

	timer *time.Timer // the elector calls from one goroutine
}

func (l *expiringLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.renewed(r, l.Interface.Create(ctx, r))
}

// Update renews the Lease or, with no holder in r, gives it back. The elector
// gives back what it believes to hold, and after a long pause it believes wrong:
// it would take the Lease from its successor. Reading it first makes sure; the
// update then fails should it change hands in between.
func (l *expiringLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if r.HolderIdentity == "" {
		held, _, err := l.Get(ctx)
		if err != nil {
			return err
		}
		if held.HolderIdentity != l.Identity() {
			return fmt.Errorf("the Lease is %s's by now", held.HolderIdentity)
		}
	}
	return l.renewed(r, l.Interface.Update(ctx, r))
}

func (l *expiringLock) renewed(r resourcelock.LeaderElectionRecord, err error) error {
	if err != nil || r.HolderIdentity != l.Identity() {
		return err
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(l.after, l.expire)
	}
	l.timer.Reset(l.after)
	return nil
}
