package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// nodeNotes reports on a node and tells what was written.
type nodeNotes struct {
	t        *testing.T
	reporter *nodeReporter
	writer   *fakeWriter
}

func newNodeNotes(t *testing.T) *nodeNotes {
	writer := &fakeWriter{pending: map[k8s.Key][]byte{}}
	return &nodeNotes{t: t, writer: writer, reporter: &nodeReporter{writer: writer, logger: log.NewNopLogger()}}
}

// report returns the status that is written, nil if none is.
func (n *nodeNotes) report(l nodeLayer2) *v1beta1.NodeStateStatus {
	n.t.Helper()
	clear(n.writer.pending)
	n.reporter.layer2 = &l
	n.reporter.report(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, v1beta1.NodeStateStatus{BGPUp: "1/1"})
	patch, written := n.writer.pending[k8s.Key{Kind: k8s.KindNodeState, Name: "a"}]
	if !written {
		return nil
	}
	var object v1beta1.NodeState
	if err := json.Unmarshal(patch, &object); err != nil {
		n.t.Fatal(err)
	}
	return &object.Status
}

func conflictOf(addr, mac string, since, seen time.Time) v1beta1.AddressConflict {
	return v1beta1.AddressConflict{Address: addr, MAC: mac, Interface: "eth0", Since: metav1.NewTime(since), LastSeen: metav1.NewTime(seen)}
}

func TestNodeStateLayer2(t *testing.T) {
	t.Parallel()
	n, now := newNodeNotes(t), time.Date(2026, 1, 1, 0, 0, 0, 5e8, time.UTC)
	status := n.report(nodeLayer2{ownedIPv4: 3, ownedIPv6: 1, standingInFor: []string{"c", "b", "c"}, conflicts: []v1beta1.AddressConflict{
		conflictOf("192.0.2.10", "02:00:00:00:00:01", now, now), conflictOf("192.0.2.9", "02:00:00:00:00:02", now, now),
		conflictOf("192.0.2.9", "02:00:00:00:00:03", now, now), conflictOf("2001:db8::1", "02:00:00:00:00:01", now, now),
	}})
	if status == nil {
		t.Fatal("nothing is written")
	}
	if status.BGPUp != "1/1" {
		t.Errorf("BGP is %q, want what was reported", status.BGPUp)
	}
	want := &v1beta1.L2Status{Owned: "3 IPv4, 1 IPv6", OwnedIPv4: 3, OwnedIPv6: 1, StandingInFor: []string{"b", "c"}}
	if diff := cmp.Diff(want, status.L2); diff != "" {
		t.Errorf("layer 2 (-want +got):\n%s", diff)
	}
	var got []string
	for _, c := range status.AddressConflicts {
		got = append(got, c.Address+" "+c.MAC[15:])
		if !c.Since.Time.Equal(now.Truncate(time.Second)) || !c.LastSeen.Equal(&c.Since) {
			t.Errorf("%s is since %s, last seen %s", c.Address, c.Since, c.LastSeen)
		}
	}
	if text := strings.Join(got, ", "); text != "192.0.2.9 02, 192.0.2.10 01, 2001:db8::1 01" {
		t.Errorf("conflicts are %s", text)
	}
	for counts, want := range map[[2]int]string{{0, 0}: "0", {2, 0}: "2", {0, 2}: "2"} {
		if got := ownedColumn(counts[0], counts[1]); got != want {
			t.Errorf("%v is %q, want %q", counts, got, want)
		}
	}
}

// TestNodeStateHeardAgain: a host that goes on speaking costs a write now and then.
func TestNodeStateHeardAgain(t *testing.T) {
	t.Parallel()
	n, began := newNodeNotes(t), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	writes := 0
	for passed := time.Duration(0); passed < time.Hour; passed += time.Second {
		seen := conflictOf("192.0.2.9", "02:00:00:00:00:01", began, began.Add(passed))
		if status := n.report(nodeLayer2{conflicts: []v1beta1.AddressConflict{seen}}); status != nil {
			writes++
		}
	}
	if writes != 6 {
		t.Errorf("%d writes in an hour, want 6", writes)
	}
	other := conflictOf("192.0.2.9", "02:00:00:00:00:02", began.Add(time.Hour), began.Add(time.Hour))
	if status := n.report(nodeLayer2{conflicts: []v1beta1.AddressConflict{other}}); status == nil || status.AddressConflicts[0].MAC != other.MAC {
		t.Errorf("another host: %+v", status)
	}
	if status := n.report(nodeLayer2{}); status == nil || len(status.AddressConflicts) != 0 {
		t.Errorf("no host any more: %+v", status)
	}
}

// TestNodeStateManyConflicts: of too many, those are left out that nobody acts on.
func TestNodeStateManyConflicts(t *testing.T) {
	t.Parallel()
	n, now := newNodeNotes(t), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var l nodeLayer2
	for i := range 600 {
		c := conflictOf(fmt.Sprintf("192.0.%d.%d", i/256, i%256), "02:00:00:00:00:01", now, now)
		c.BeforeUse = i >= 500
		l.conflicts = append(l.conflicts, c)
	}
	status := n.report(l)
	if len(status.AddressConflicts) != maxConflicts {
		t.Fatalf("%d are listed, want %d", len(status.AddressConflicts), maxConflicts)
	}
	early := 0
	for i, c := range status.AddressConflicts {
		if c.BeforeUse {
			early++
		}
		if i > 0 && compareConflicts(status.AddressConflicts[i-1], c) >= 0 {
			t.Fatalf("%s comes before %s", status.AddressConflicts[i-1].Address, c.Address)
		}
	}
	if early != 100 {
		t.Errorf("%d of those before use are listed, want all 100", early)
	}
}
