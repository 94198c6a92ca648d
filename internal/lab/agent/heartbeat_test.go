package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/google/go-cmp/cmp"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"
)

// count is a logger that only counts.
type count struct{ lines int }

func (c *count) Log(...any) error {
	c.lines++
	return nil
}

// TestKeepLease runs the heartbeat for a minute and a half, of which the API server
// is out of reach for 30 s.
func TestKeepLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-1"}})
		var attempts, writes []string
		client.PrependReactor("*", "leases", func(action clienttesting.Action) (bool, runtime.Object, error) {
			at := time.Since(began)
			if at >= 35*time.Second && at < 65*time.Second {
				attempts = append(attempts, at.String())
				return true, nil, errors.New("out of reach")
			}
			if verb := action.GetVerb(); verb != "get" {
				writes = append(writes, verb+" "+at.String())
			}
			return false, nil, nil
		})
		said := &count{}
		a := &agent{config: Config{Node: "node-1"}, client: client, clock: clock.RealClock{}, logger: log.NewNopLogger(), reach: &reach{logger: said}}
		ctx, cancel := context.WithTimeout(t.Context(), 86*time.Second)
		defer cancel()
		if err := a.keepLease(ctx); err != nil {
			t.Fatal(err)
		}
		want := []string{"create 0s", "update 10s", "update 20s", "update 30s", "update 1m5s", "update 1m15s", "update 1m25s"}
		if diff := cmp.Diff(want, writes); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
		if first, tries := attempts[0], len(attempts); first != "40s" || tries != 125 { // every 200 ms of 25 s
			t.Errorf("%d attempts in vain, the first after %s", tries, first)
		}
		if said.lines != 2 {
			t.Errorf("%d lines about it, want one when it began and one when it was over", said.lines)
		}
		lease, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), "node-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if *lease.Spec.LeaseDurationSeconds != 40 || *lease.Spec.HolderIdentity != "node-1" || !lease.Spec.RenewTime.Time.Equal(began.Add(85*time.Second)) {
			t.Errorf("lease %+v", lease.Spec)
		}
		if owners := lease.OwnerReferences; len(owners) != 1 || owners[0].UID != "uid-1" {
			t.Errorf("owners %+v", owners)
		}
	})
}

// TestTokens checks when tokens are requested, for tokens that last an hour.
func TestTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var requests []*authv1.TokenRequest
		var problem error
		client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if problem != nil {
				return true, nil, problem
			}
			request := action.(clienttesting.CreateAction).GetObject().(*authv1.TokenRequest)
			requests = append(requests, request)
			answer := request.DeepCopy()
			answer.Status.Token = "token " + string(rune('0'+len(requests)))
			answer.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Hour))
			return true, answer, nil
		})
		tokens := newTokens(client, clock.RealClock{})
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: "default", UID: "uid-1"}, Spec: corev1.PodSpec{ServiceAccountName: "robot"}}
		check := func(audience, want string, renewIn time.Duration) {
			t.Helper()
			got, renew, err := tokens.Token(t.Context(), pod, &corev1.ServiceAccountTokenProjection{Audience: audience})
			if want == "" {
				if err == nil {
					t.Errorf("got %q, want an error", got)
				}
				return
			}
			if err != nil || got != want || time.Until(renew) != renewIn {
				t.Errorf("got %q, to be renewed in %s, %v; want %q, %s", got, time.Until(renew), err, want, renewIn)
			}
		}
		check("", "token 1", 48*time.Minute)
		time.Sleep(47 * time.Minute)
		check("", "token 1", time.Minute)
		check("else", "token 2", 48*time.Minute) // another audience, another token
		time.Sleep(2 * time.Minute)
		problem = errors.New("out of reach")
		check("", "token 1", retryToken) // the old one still serves
		time.Sleep(12 * time.Minute)
		check("", "", 0) // it has expired
		problem = nil
		check("", "token 3", 48*time.Minute)
		tokens.forget("uid-1")
		check("", "token 4", 48*time.Minute)
		first := requests[0].Spec
		if first.BoundObjectRef == nil || first.BoundObjectRef.UID != "uid-1" || *first.ExpirationSeconds != 3600 || len(first.Audiences) != 0 {
			t.Errorf("request %+v", first)
		}
		if diff := cmp.Diff([]string{"else"}, requests[1].Spec.Audiences); diff != "" {
			t.Errorf("audiences (-want +got):\n%s", diff)
		}
	})
}
