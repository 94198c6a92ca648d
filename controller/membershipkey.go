package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/internal/k8s"
)

const (
	membershipRetry = 2 * time.Second
	membershipCheck = 30 * time.Second
)

// keepMembershipKey makes the Secret whenever there is none, until ctx is done.
func keepMembershipKey(ctx context.Context, client kubernetes.Interface, namespace string, logger log.Logger) error {
	failing := false
	for {
		created, err := ensureMembershipKey(ctx, client, namespace)
		next := membershipCheck
		if err != nil {
			next = membershipRetry
			if !failing && ctx.Err() == nil {
				level.Warn(logger).Log("msg", "cannot make the key of the speakers' membership, retrying", "secret", namespace+"/"+k8s.MembershipSecret, "err", err)
			}
		}
		failing = err != nil
		if created {
			level.Info(logger).Log("msg", "made the key of the speakers' membership", "secret", namespace+"/"+k8s.MembershipSecret)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

func ensureMembershipKey(ctx context.Context, client kubernetes.Interface, namespace string) (created bool, err error) {
	secrets := client.CoreV1().Secrets(namespace)
	_, err = secrets.Get(ctx, k8s.MembershipSecret, metav1.GetOptions{})
	if err == nil || !apierrors.IsNotFound(err) {
		return false, err
	}
	key := make([]byte, k8s.MembershipBytes)
	if _, err := rand.Read(key); err != nil {
		return false, fmt.Errorf("reading random bytes: %w", err)
	}
	owners, err := ownServiceAccount(ctx, client)
	if err != nil {
		return false, fmt.Errorf("finding out whose token this is: %w", err)
	}
	_, err = secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name:            k8s.MembershipSecret,
			Labels:          map[string]string{"app.kubernetes.io/name": "berth"},
			OwnerReferences: owners,
		},
		Data: map[string][]byte{k8s.MembershipField: key},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	return err == nil, err
}

// ownServiceAccount refers to the ServiceAccount that this process runs as, which
// whoever uninstalls Berth deletes: what it owns then goes as well. There is none
// outside of a cluster, nor if the API server is configured not to tell.
func ownServiceAccount(ctx context.Context, client kubernetes.Interface) ([]metav1.OwnerReference, error) {
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if apierrors.IsForbidden(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	user := review.Status.UserInfo
	account, found := strings.CutPrefix(user.Username, "system:serviceaccount:")
	if !found || user.UID == "" {
		return nil, nil
	}
	_, name, _ := strings.Cut(account, ":") // after the namespace
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: name, UID: types.UID(user.UID)}}, nil
}
