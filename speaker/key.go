package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// The Secret with the key that encrypts what the speakers tell each other. The
// controller makes it.
const (
	membershipSecret = "berth-membership"
	membershipField  = "key"
	membershipBytes  = 32 // AES-256
	membershipRetry  = time.Second
)

// awaitMembershipKey reads the key, trying until it is there. It returns nil if
// ctx ends before.
func awaitMembershipKey(ctx context.Context, client kubernetes.Interface, namespace string, logger log.Logger) []byte {
	for said := ""; ; {
		key, err := readMembershipKey(ctx, client, namespace)
		if err == nil {
			return key
		}
		if err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			level.Warn(logger).Log("msg", "waiting for the key of the speakers' membership, which the controller makes", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(membershipRetry):
		}
	}
}

func readMembershipKey(ctx context.Context, client kubernetes.Interface, namespace string) ([]byte, error) {
	secret, err := client.CoreV1().Secrets(namespace).Get(ctx, membershipSecret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading secret %s/%s: %w", namespace, membershipSecret, err)
	}
	key := secret.Data[membershipField]
	if len(key) != membershipBytes {
		return nil, fmt.Errorf("secret %s/%s: field %s has %d bytes, want %d; delete the secret to have it made anew",
			namespace, membershipSecret, membershipField, len(key), membershipBytes)
	}
	return key, nil
}
