package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// build makes a network of one node that is removed when the test ends.
func build(t *testing.T) Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	plan, err := NewPlan(1, Dual)
	if err != nil {
		t.Fatal(err)
	}
	plan = plan.WithSecondRouter()
	prefix := "net" + strconv.Itoa(os.Getpid()) + strings.ToLower(t.Name()) + "-"
	built := New(plan, prefix)
	t.Cleanup(func() {
		names, err := netns.List(prefix)
		if err != nil {
			t.Error(err)
		}
		for _, name := range names {
			if err := netns.Delete(name); err != nil {
				t.Error(err)
			}
		}
	})
	if err := built.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	return built
}

// reaches reports whether a host gets a TCP answer from an address, be it a
// refusal, within the limit.
func reaches(t *testing.T, n Network, host string, address netip.Addr, limit time.Duration) bool {
	t.Helper()
	var refused bool
	err := netns.Target{Name: n.Namespace(host)}.Do(func() error {
		dialer := net.Dialer{Timeout: limit}
		conn, err := dialer.Dial("tcp", netip.AddrPortFrom(address, 9).String())
		if err == nil {
			return conn.Close()
		}
		refused = errors.Is(err, syscall.ECONNREFUSED)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return refused
}

// patience is for answers that are to come: a neighbour that did not answer is
// asked again only after seconds. Haste is for those that are not to come.
const (
	patience = 10 * time.Second
	haste    = 200 * time.Millisecond
)

func TestEveryHostReachesEveryOther(t *testing.T) {
	t.Parallel()
	n := build(t)
	for _, from := range n.plan.Hosts {
		for _, to := range n.plan.Hosts {
			for _, address := range to.IPs() {
				if !reaches(t, n, from.Name, address, patience) {
					t.Errorf("%s does not reach %s of %s", from.Name, address, to.Name)
				}
			}
		}
	}
}

// hasCarrier waits for the host's interface to have carrier, or to have lost it.
func hasCarrier(t *testing.T, n Network, host string, want bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		var up bool
		err := netns.Target{Name: n.Namespace(host)}.Do(func() error {
			link, err := netlink.LinkByName("eth0")
			if err == nil {
				up = link.Attrs().OperState == netlink.OperUp
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if up == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: carrier is %t, want %t", host, up, want)
		}
		time.Sleep(5 * time.Millisecond) // between two looks, not for luck
	}
}

func TestCablesBreakAndMend(t *testing.T) {
	t.Parallel()
	n := build(t)
	node, err := n.plan.Host("node-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name    string
		do      func(string) error
		state   LinkState
		carrier bool
	}{
		{"cut", n.Cut, Cut, false},
		{"cut again", n.Cut, Cut, false},
		{"silence after cut", n.CutSilently, Silent, true},
		{"heal", n.Heal, Connected, true},
		{"heal again", n.Heal, Connected, true},
		{"silence", n.CutSilently, Silent, true},
		{"cut after silence", n.Cut, Cut, false},
		{"heal at last", n.Heal, Connected, true},
	} {
		if err := step.do(node.Name); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		state, err := n.State(node)
		if err != nil || state != step.state {
			t.Errorf("%s: state %s (error %v), want %s", step.name, state, err, step.state)
		}
		hasCarrier(t, n, node.Name, step.carrier)
		works, limit := step.state == Connected, haste
		if works {
			limit = patience
		}
		for _, address := range node.IPs() {
			if reaches(t, n, Client, address, limit) != works {
				t.Errorf("%s: client reaches %s = %t, want %t", step.name, address, !works, works)
			}
		}
	}
	if err := n.Cut("node-2"); err == nil {
		t.Error("cut a cable that does not exist")
	}
}
