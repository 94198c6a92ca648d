package cli

import (
	"testing"
	"time"

	"github.com/berth-lb/berth/api/v1beta1"
)

func TestDraining(t *testing.T) {
	c := healthy()
	for _, step := range []struct {
		name   string
		change func(*v1beta1.NodeStateStatus)
		done   bool
	}{
		{"before", func(*v1beta1.NodeStateStatus) {}, false},
		{"routes-left", func(s *v1beta1.NodeStateStatus) { s.L2.OwnedIPv4 = 0 }, false},
		{"done", func(s *v1beta1.NodeStateStatus) { s.BGPSessions[0].AnnouncedPrefixes = 0 }, true},
	} {
		step.change(&c.NodeStates[0].Status)
		p, err := Draining(c, "node-1")
		if err != nil || p.Done != step.done {
			t.Errorf("%s: %v, %v", step.name, p, err)
		}
		for _, format := range Formats() {
			golden(t, "drain/"+step.name+"."+format, render(t, p, Format(format)))
		}
	}
	if _, err := Draining(c, "node-9"); err == nil {
		t.Error("a node that reports nothing was judged")
	}
	golden(t, "drain/undrained.table", render(t, Undrained{Node: "node-1"}, FormatTable))
}

func TestInService(t *testing.T) {
	c := healthy()
	if !InService(c, "node-1") || InService(c, "node-9") {
		t.Error("node-1 is in service and node-9 does not exist")
	}
	set(&c.NodeStates[0].Status.Conditions, v1beta1.ConditionBGPReady, false, reasonDraining, "the node is drained")
	if InService(c, "node-1") {
		t.Error("node-1 is drained")
	}
}

func TestSettling(t *testing.T) {
	s := Settling{Patience: 5 * time.Second}
	for _, step := range []struct {
		after time.Duration
		owned Owned
		want  bool
	}{
		{0, Owned{"a": 3}, false},
		{4 * time.Second, Owned{"a": 3}, false},
		{5 * time.Second, Owned{"a": 2, "b": 1}, false},
		{9 * time.Second, Owned{"a": 2, "b": 1}, false},
		{10 * time.Second, Owned{"a": 2, "b": 1}, true},
	} {
		if got := s.Settled(step.owned, now.Add(step.after)); got != step.want {
			t.Errorf("after %s: %t", step.after, got)
		}
	}
}

func TestRebalanced(t *testing.T) {
	before := OwnedBy(healthy())
	r := ReportRebalanced([]string{"ethernet"}, Owned{"node-1": 3}, before)
	for _, format := range Formats() {
		golden(t, "rebalance."+format, render(t, r, Format(format)))
	}
}
