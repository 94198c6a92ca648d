package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// UDP ports of BFD: RFC 5881 section 4 and RFC 5883 section 5.
const (
	echoPort     = 3785
	multihopPort = 4784
)

// farFromNode moves the link's end to an address of the router that the node
// reaches by way of another router.
func (l *link) farFromNode() {
	l.Helper()
	far := netip.AddrFrom4([4]byte{172, 31, 0, l.remote.As4()[3]})
	l.run(l.router.host.Name, "ip", "address", "replace", hostPrefix(far).String(), "dev", "lo")
	l.run(network.Router, "ip", "route", "replace", hostPrefix(far).String(), "via", l.remote.String())
	l.remote = far
}

// onTheWay has a host's kernel apply a rule of nftables to what it sends, or passes
// on, to the node. What is returned ends that; so does the end of the test.
func (l *link) onTheWay(host, match, verdict string) (end func()) {
	l.Helper()
	table := "t_" + strings.ReplaceAll(l.peer, "-", "_")
	family := "ip"
	if l.nth == 1 {
		family = "ip6"
	}
	l.run(host, "nft", fmt.Sprintf(
		"add table inet %[1]s; add chain inet %[1]s out { type filter hook postrouting priority 0; }; add rule inet %[1]s out %[2]s daddr %[3]s %[4]s %[5]s",
		table, family, l.local, match, verdict))
	end = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), 20*time.Second)
		defer cancel()
		if out, err := l.lab.Exec(ctx, host, "nft", "delete table inet "+table); err != nil {
			l.Errorf("%v: %s", err, out)
		}
	})
	l.Cleanup(end)
	return end
}

// bfdMetrics are what the speaker of the link's node counts of the BFD session:
// the names of the metrics without berth_bfd_.
func (l *link) bfdMetrics() map[string]float64 {
	l.Helper()
	found := map[string]float64{}
	for name, value := range l.metrics(l.speakerOn(l.node), 7957) {
		rest, isBFD := strings.CutPrefix(name, "berth_bfd_")
		if isBFD && strings.Contains(rest, fmt.Sprintf("peer=%q", l.remote)) {
			name, _, _ := strings.Cut(rest, "{")
			found[name] = value
		}
	}
	return found
}

// waitWatched returns when both sides of the session say that BFD sees the other.
func (l *link) waitWatched() {
	l.Helper()
	l.waitNodeSession(l.node, l.peer, "watched", func(s v1beta1.BGPSessionStatus) bool {
		return s.BFD != nil && s.BFD.State == "Up" && s.State == v1beta1.BGPEstablished
	})
	l.waitFor("BFD of the router with "+l.local.String(), bgpTimeout, func(ctx context.Context) (bool, string) {
		sessions, err := l.router.BFDSessions(ctx)
		if err != nil {
			return false, err.Error()
		}
		for _, s := range sessions {
			if s.Neighbor == l.local {
				return s.Up(), fmt.Sprintf("%+v", s)
			}
		}
		return false, fmt.Sprintf("%+v", sessions)
	})
}

// testMultihopBFD: a router behind another one is watched over several hops
// (RFC 5883), packets that have come too far do not count, and what they find out
// ends the BGP session at once.
func testMultihopBFD(e *env, b *bench) {
	l := b.link(e, 0)
	l.farFromNode()
	interval := ptr.To[int32](100)
	l.createProfile(l.peer, v1beta1.BFDProfileSpec{ReceiveInterval: interval, TransmitInterval: interval})
	l.neighbor(func(n *routers.Neighbor) {
		n.Source, n.Multihop, n.Passive = l.remote, 3, true
		fastBFD(n)
	})
	l.connect(func(p *v1beta1.BGPPeerSpec) { p.EBGPMultiHop, p.BFDProfile = true, v1beta1.ObjectName(l.peer) })
	l.waitUp()
	l.waitRoutes(told{}, 0)
	if b.router.Kind() == routers.BIRD {
		// The least TTL that counts is 254 by default; BIRD sends with its kernel's.
		l.waitNodeSession(l.node, l.peer, "not watched, for the TTL", func(s v1beta1.BGPSessionStatus) bool {
			return s.BFD != nil && s.BFD.State == "Down" && strings.Contains(s.BFD.Diagnostic, "come with a TTL of 64, below the minimum of 254")
		})
		l.patch("bfdprofiles", l.peer, specPatch{"minimumTtl": 64}.patch())
	}
	l.waitWatched()
	up := fmt.Sprintf(`berth_bfd_session_up{hops="multi",local="",peer=%q}`, l.remote)
	l.waitFor("the metrics to know of a session over several hops", 10*time.Second, func(context.Context) (bool, string) {
		now := l.metrics(l.speakerOn(l.node), 7957)
		return now[up] == 1, fmt.Sprint(l.bfdMetrics())
	})

	const lower = 50
	l.onTheWay(l.router.host.Name, fmt.Sprintf("udp dport %d", multihopPort), fmt.Sprintf("ip ttl set %d", lower))
	l.waitTrouble(l.node, l.peer, "BFD has lost the peer")
	l.patch("bfdprofiles", l.peer, specPatch{"minimumTtl": lower}.patch())
	l.waitUp()
	l.waitWatched()
	l.waitRoutes(told{}, 0)
}

// testBFDPassive: with passiveMode the node sends nothing to a router before that
// has spoken.
func testBFDPassive(e *env, b *bench) {
	l := b.link(e, 1)
	l.createProfile(l.peer, v1beta1.BFDProfileSpec{PassiveMode: true})
	l.neighbor(nil)
	l.connect(func(p *v1beta1.BGPPeerSpec) { p.BFDProfile = v1beta1.ObjectName(l.peer) })
	l.waitUp()
	l.waitNodeSession(l.node, l.peer, "waiting for BFD", func(s v1beta1.BGPSessionStatus) bool { return s.BFD != nil && s.BFD.State == "Down" })
	l.stays("nothing is sent to a router that says nothing", 1500*time.Millisecond, func(context.Context) (bool, string) {
		now := l.bfdMetrics()
		sent, known := now["control_packets_sent_total"]
		return known && sent == 0, fmt.Sprint(now)
	})
	l.neighbor(func(n *routers.Neighbor) { n.BFD = &routers.BFD{} })
	l.waitUp()
	l.waitWatched()
	l.waitRoutes(told{}, 1)
}

// testBFDEcho: where both sides want it, echo packets of either come back through
// the kernel of the other, control packets become rare, and echo packets that do
// not come back end the BGP session. BIRD has no echo function.
func testBFDEcho(e *env, b *bench) {
	l := b.link(e, 0)
	const interval, multiplier = 50, 20 // a second, as the machine may be busy
	l.createProfile(l.peer, v1beta1.BFDProfileSpec{EchoMode: true, EchoInterval: ptr.To[int32](interval), DetectMultiplier: ptr.To[int32](multiplier)})
	l.neighbor(func(n *routers.Neighbor) {
		n.BFD = &routers.BFD{Echo: interval * time.Millisecond, Multiplier: multiplier}
	})
	l.connect(func(p *v1beta1.BGPPeerSpec) { p.BFDProfile = v1beta1.ObjectName(l.peer) })
	l.waitUp()
	for tries := 1; ; tries++ {
		l.waitWatched()
		if l.countEchoes() {
			break
		}
		if tries == 3 {
			l.Fatal("BFD goes down again and again")
		}
	}

	// Our packets are to us, and the router only passes them on.
	end := l.onTheWay(l.router.host.Name, fmt.Sprintf("udp dport %d", echoPort), "drop")
	l.waitTrouble(l.node, l.peer, "echo function failed")
	end()
	l.waitUp()
	l.waitRoutes(told{}, 0)

	l.patch("bfdprofiles", l.peer, specPatch{"echoMode": false}.patch())
	before := 0.0
	l.waitHeld("no echo packet to be sent without echoMode", time.Second, func(context.Context) (bool, string) {
		now := l.bfdMetrics()["echo_packets_sent_total"]
		quiet, seen := now == before && now > 0, fmt.Sprintf("%v, then %v", before, now)
		before = now
		return quiet, seen
	})
	l.waitWatched()
}

// countEchoes waits until echo packets of both sides have come back, and fails the
// test if many control packets have come beside them. If the BFD session has gone
// down meanwhile, which takes control packets, it returns false instead.
func (l *link) countEchoes() bool {
	l.Helper()
	const enough, downs = 40, "session_down_events_total"
	before, seen := l.bfdMetrics(), l.frrEchoes()
	began := time.Now()
	l.waitFor("echo packets of both sides to come back", 20*time.Second, func(context.Context) (bool, string) {
		now, theirs := l.bfdMetrics(), l.frrEchoes()
		back := now["echo_packets_received_total"] - before["echo_packets_received_total"]
		done := back >= enough && theirs.Input >= seen.Input+enough
		return done || now[downs] != before[downs], fmt.Sprintf("%v; FRR's: %+v", now, theirs)
	})
	after, took := l.bfdMetrics(), time.Since(began)
	if after[downs] != before[downs] {
		return false
	}
	sent, control := after["echo_packets_sent_total"]-before["echo_packets_sent_total"], after["control_packets_received_total"]-before["control_packets_received_total"]
	l.Logf("in %s: %v echo packets sent, %v control packets received", took.Round(time.Millisecond), sent, control)
	// RFC 5880 section 6.8.9: what watches the path is not needed twice.
	if control > 2+took.Seconds()*2 {
		l.Errorf("%v control packets have come in %s beside the echo packets", control, took)
	}
	return true
}

// frrEchoes counts the echo packets of FRR's that came back, and those it sent.
type frrEchoes struct {
	Input  int `json:"echo-packet-input"`
	Output int `json:"echo-packet-output"`
}

func (l *link) frrEchoes() frrEchoes {
	l.Helper()
	var counters frrEchoes
	command := fmt.Sprintf("show bfd peer %s local-address %s interface eth0 counters json", l.local, l.remote)
	out, err := l.router.Console(l.ctx, command)
	if err == nil {
		err = json.Unmarshal(out, &counters)
	}
	if err != nil {
		l.Fatalf("%s: %v: %s", command, err, out)
	}
	return counters
}
