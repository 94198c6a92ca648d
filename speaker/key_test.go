package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/berth-lb/berth/internal/k8s"
)

func keySecret(name string, key []byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: name}, Data: map[string][]byte{k8s.MembershipField: key},
	}
}

func keyOf(fill byte) []byte { return bytes.Repeat([]byte{fill}, k8s.MembershipBytes) }

// keyRing notes the keys that it is given.
type keyRing chan []byte

func (r keyRing) SetKey(key []byte) error {
	r <- key
	return nil
}

func (r keyRing) want(t *testing.T, fill byte) {
	t.Helper()
	select {
	case key := <-r:
		if !bytes.Equal(key, keyOf(fill)) {
			t.Fatalf("key %x, want %x", key, keyOf(fill))
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no key %x", keyOf(fill))
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A speaker without a key waits; one that runs follows the Secret through
// deletion and change.
func TestKeyIsFollowed(t *testing.T) {
	t.Parallel()
	logs := &syncBuffer{}
	client := fake.NewClientset(keySecret("another", keyOf(9)))
	secrets := client.CoreV1().Secrets("berth-system")
	w := newKeyWatch(client, "berth-system", log.NewLogfmtLogger(logs))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = w.run(ctx) })

	must := func(_ *corev1.Secret, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(secrets.Create(ctx, keySecret(k8s.MembershipSecret, keyOf(1)[:16]), metav1.CreateOptions{}))
	for !strings.Contains(logs.String(), "bytes=16") {
		time.Sleep(time.Millisecond)
	}
	must(secrets.Update(ctx, keySecret(k8s.MembershipSecret, keyOf(1)), metav1.UpdateOptions{}))
	if key := w.first(ctx); !bytes.Equal(key, keyOf(1)) {
		t.Fatalf("first key %x", key)
	}

	ring := make(keyRing)
	wg.Go(func() { _ = w.follow(ctx, ring) })
	if err := secrets.Delete(ctx, k8s.MembershipSecret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	must(secrets.Create(ctx, keySecret(k8s.MembershipSecret, keyOf(2)), metav1.CreateOptions{}))
	ring.want(t, 2)
	must(secrets.Update(ctx, keySecret(k8s.MembershipSecret, keyOf(3)), metav1.UpdateOptions{}))
	ring.want(t, 3)
}

func TestStopWhileWaitingForTheKey(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if key := newKeyWatch(fake.NewClientset(), "berth-system", log.NewNopLogger()).first(ctx); key != nil {
		t.Errorf("key %x out of nothing", key)
	}
}
