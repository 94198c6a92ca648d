package main

import (
	"bytes"
	"reflect"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/berth-lb/berth/internal/k8s"
)

// The key goes with the ServiceAccount that made it, and stays as it is for as long
// as it is there.
func TestMembershipKey(t *testing.T) {
	t.Parallel()
	account := metav1.OwnerReference{APIVersion: "v1", Kind: "ServiceAccount", Name: "controller", UID: "u1"}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "selfsubjectreviews"}, "", nil)
	for name, test := range map[string]struct {
		user  authenticationv1.UserInfo
		err   error
		owner []metav1.OwnerReference
	}{
		"in a cluster":    {user: authenticationv1.UserInfo{Username: "system:serviceaccount:berth-system:controller", UID: "u1"}, owner: []metav1.OwnerReference{account}},
		"by certificate":  {user: authenticationv1.UserInfo{Username: "admin"}},
		"must not review": {err: forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := fake.NewClientset()
			client.PrependReactor("create", "selfsubjectreviews", func(ktesting.Action) (bool, runtime.Object, error) {
				return true, &authenticationv1.SelfSubjectReview{Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: test.user}}, test.err
			})
			var keys [][]byte
			for attempt, want := range []bool{true, false} {
				created, err := ensureMembershipKey(t.Context(), client, "berth-system")
				if err != nil || created != want {
					t.Fatalf("attempt %d: created %v, %v", attempt, created, err)
				}
				secret, err := client.CoreV1().Secrets("berth-system").Get(t.Context(), k8s.MembershipSecret, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(secret.OwnerReferences, test.owner) {
					t.Errorf("owned by %+v, want %+v", secret.OwnerReferences, test.owner)
				}
				keys = append(keys, secret.Data[k8s.MembershipField])
			}
			if len(keys[0]) != k8s.MembershipBytes || !bytes.Equal(keys[0], keys[1]) {
				t.Errorf("keys %x", keys)
			}
		})
	}
}

func TestMembershipKeyWaitsForItsOwner(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	client.PrependReactor("create", "selfsubjectreviews", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("starting")
	})
	if created, err := ensureMembershipKey(t.Context(), client, "berth-system"); created || err == nil {
		t.Errorf("created %v, %v", created, err)
	}
}
