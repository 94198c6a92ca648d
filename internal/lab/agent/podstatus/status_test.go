package podstatus

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	earlier = metav1.NewTime(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	now     = metav1.NewTime(earlier.Add(time.Minute))
)

func running(ready bool) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "c", Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func ended(code int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}
}

func creating() corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}
}

func restarting(code int32) corev1.ContainerStatus {
	status := creating()
	status.LastTerminationState = ended(code).State
	return status
}

func initDone() corev1.ContainerStatus {
	status := ended(0)
	status.Name, status.Ready = "i", true
	return status
}

func states(all ...corev1.ContainerStatus) []corev1.ContainerStatus { return all }

// summary shows what matters: the phase and the conditions that are true.
func summary(status corev1.PodStatus) string {
	text := string(status.Phase)
	for _, c := range status.Conditions {
		if c.Status == corev1.ConditionTrue {
			text += " " + string(c.Type)
		}
	}
	return text
}

func TestCompute(t *testing.T) {
	t.Parallel()
	const (
		always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever

		waiting  = "Pending PodReadyToStartContainers PodScheduled"
		starting = "Pending PodReadyToStartContainers Initialized PodScheduled"
		unready  = "Running PodReadyToStartContainers Initialized PodScheduled"
		ready    = "Running PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled"
		good     = "Succeeded Initialized PodScheduled"
		bad      = "Failed Initialized PodScheduled"
	)
	tests := map[string]struct {
		policy     corev1.RestartPolicy
		init, main []corev1.ContainerStatus
		deleted    bool
		failure    *Failure
		want       string
	}{
		"creating":                        {policy: always, main: states(creating()), want: starting},
		"init container waits":            {policy: always, init: states(creating()), main: states(creating()), want: waiting},
		"init container runs":             {policy: always, init: states(running(false)), main: states(creating()), want: waiting},
		"init container is done":          {policy: always, init: states(initDone()), main: states(creating()), want: starting},
		"init container failed, retried":  {policy: always, init: states(ended(1)), main: states(creating()), want: waiting},
		"init container failed for good":  {policy: never, init: states(ended(1)), main: states(creating()), want: "Failed PodScheduled"},
		"running, not ready":              {policy: always, main: states(running(false)), want: unready},
		"ready":                           {policy: always, init: states(initDone()), main: states(running(true)), want: ready},
		"one of two is ready":             {policy: always, main: states(running(true), running(false)), want: unready},
		"one of two waits":                {policy: always, main: states(running(true), creating()), want: starting},
		"one of two is being restarted":   {policy: always, main: states(running(true), restarting(1)), want: unready},
		"ended, will be restarted":        {policy: always, main: states(ended(0)), want: unready},
		"crash loop":                      {policy: always, main: states(restarting(1)), want: unready},
		"succeeded":                       {policy: onFailure, main: states(ended(0)), want: good},
		"failed, will be restarted":       {policy: onFailure, main: states(ended(1)), want: unready},
		"failed for good":                 {policy: never, main: states(ended(1)), want: bad},
		"one of two failed":               {policy: never, main: states(ended(0), ended(1)), want: bad},
		"one of two still runs":           {policy: never, main: states(ended(1), running(true)), want: unready},
		"deleted, still ready":            {policy: always, main: states(running(true)), deleted: true, want: ready},
		"deleted, ended well":             {policy: always, main: states(ended(0)), deleted: true, want: good},
		"deleted, killed":                 {policy: always, main: states(ended(137)), deleted: true, want: bad},
		"failed from outside, still runs": {policy: always, main: states(running(true)), failure: &Failure{Reason: "DeadlineExceeded"}, want: bad},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: test.policy}}
			if test.deleted {
				pod.DeletionTimestamp = &now
			}
			got := Compute(Input{
				Pod: pod, Init: test.init, Main: test.main, Failure: test.failure, Now: now,
				PodIPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")},
			})
			if diff := cmp.Diff(test.want, summary(got)); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func TestComputeAddresses(t *testing.T) {
	t.Parallel()
	both := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}
	got := Compute(Input{Pod: &corev1.Pod{}, NodeIPs: both, PodIPs: both, Now: now})
	if got.HostIP != "10.0.0.2" || got.PodIP != "10.0.0.2" {
		t.Errorf("hostIP %s, podIP %s", got.HostIP, got.PodIP)
	}
	if diff := cmp.Diff([]corev1.PodIP{{IP: "10.0.0.2"}, {IP: "fd00::2"}}, got.PodIPs); diff != "" {
		t.Errorf("podIPs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]corev1.HostIP{{IP: "10.0.0.2"}, {IP: "fd00::2"}}, got.HostIPs); diff != "" {
		t.Errorf("hostIPs (-want +got):\n%s", diff)
	}
	if before := Compute(Input{Pod: &corev1.Pod{}, Now: now}); strings.Contains(summary(before), "PodReadyToStartContainers") {
		t.Error("a pod without a network is ready to start containers")
	}
}

func TestComputeRefused(t *testing.T) {
	t.Parallel()
	got := Compute(Input{Pod: &corev1.Pod{}, Main: states(creating()), Failure: &Failure{Reason: "R", Message: "M"}, Now: now})
	if got.Phase != corev1.PodFailed || got.Reason != "R" || got.Message != "M" || len(got.ContainerStatuses) > 0 {
		t.Errorf("got %s %s %s with %d containers", got.Phase, got.Reason, got.Message, len(got.ContainerStatuses))
	}
}

func conditionOf(t *testing.T, status corev1.PodStatus, kind corev1.PodConditionType) corev1.PodCondition {
	t.Helper()
	for _, c := range status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	t.Fatalf("there is no condition %s", kind)
	return corev1.PodCondition{}
}

func TestConditionsKeepTheirTime(t *testing.T) {
	t.Parallel()
	in := Input{Pod: &corev1.Pod{}, Main: states(running(false)), Now: earlier}
	in.Previous = Compute(in)
	in.Main, in.Now = states(running(true)), now
	got := Compute(in)
	if at := conditionOf(t, got, corev1.PodInitialized).LastTransitionTime; !at.Equal(&earlier) {
		t.Errorf("Initialized did not change but is dated %s", at)
	}
	if at := conditionOf(t, got, corev1.PodReady).LastTransitionTime; !at.Equal(&now) {
		t.Errorf("Ready changed but is dated %s", at)
	}
}

func TestReadinessGates(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{Spec: corev1.PodSpec{ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "x/gate"}}}}
	in := Input{Pod: pod, Main: states(running(true)), Now: now}
	if c := conditionOf(t, Compute(in), corev1.PodReady); c.Status != corev1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" {
		t.Errorf("gate not set: %s %s", c.Status, c.Reason)
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: "x/gate", Status: corev1.ConditionTrue}}
	if c := conditionOf(t, Compute(in), corev1.PodReady); c.Status != corev1.ConditionTrue {
		t.Errorf("gate set: %s %s", c.Status, c.Reason)
	}
}

func TestMergeKeepsWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	present := corev1.PodStatus{
		QOSClass: corev1.PodQOSBurstable,
		Conditions: []corev1.PodCondition{
			{Type: "DisruptionTarget", Status: corev1.ConditionTrue},
			{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "NodeNotReady"},
		},
	}
	computed := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	got := Merge(computed, present)
	want := []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: "DisruptionTarget", Status: corev1.ConditionTrue},
	}
	if diff := cmp.Diff(want, got.Conditions); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	if got.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("qosClass %q", got.QOSClass)
	}
}
