package membership

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := Config{
		Node: "a", Bind: netip.MustParseAddrPort("127.0.0.1:0"), Key: testKey(1),
		Logger: log.NewNopLogger(), Metrics: NewMetrics(prometheus.NewRegistry()),
	}
	if _, err := New(good); err != nil {
		t.Fatalf("good configuration: %v", err)
	}
	for want, spoil := range map[string]func(*Config){
		"node name":         func(c *Config) { c.Node = "" },
		"bind address":      func(c *Config) { c.Bind = netip.AddrPort{} },
		"advertise address": func(c *Config) { c.Bind = netip.MustParseAddrPort("[::]:7956") },
		"key has 16 bytes":  func(c *Config) { c.Key = c.Key[:16] },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one about %q", err, want)
		}
	}
}

func TestAloneInTheWorld(t *testing.T) {
	t.Parallel()
	s := newNetwork().start(t, "node-1", newBind())
	if s.View().Settled {
		t.Error("settled before anybody said which speakers there are")
	}
	s.SetPeers([]Peer{{Node: "node-1", Addr: s.bind}})
	awaitMutual(t, s)
}

func TestJoinAndInfo(t *testing.T) {
	t.Parallel()
	many := make([]string, 120)
	for i := range many {
		many[i] = fmt.Sprintf("bond0.%d", i)
	}
	for name, info := range map[string]Info{"small": links("eth0", "eth1"), "large": links(many...)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if size := len(newRecord("node-1", 1, 1, info).raw); (size > packetSize) != (name == "large") {
				t.Fatalf("the %s record has %d bytes", name, size)
			}
			n := newNetwork()
			speakers := n.startAll(t, 3)
			speakers[0].SetLocal(info)
			awaitInfo(t, "node-1", info, speakers...)
			// Who comes later is told too.
			late := n.start(t, "node-4", newBind())
			late.SetPeers(peersOf(speakers[1:2]))
			awaitInfo(t, "node-1", info, late)
			// And the last word counts.
			speakers[0].SetLocal(links("eth7"))
			awaitInfo(t, "node-1", links("eth7"), append(speakers, late)...)
		})
	}
}

func awaitInfo(t *testing.T, node string, want Info, speakers ...*speaker) {
	t.Helper()
	for _, s := range speakers {
		await(t, fmt.Sprintf("%s has the news of %s", s.name, node), func() bool {
			m := s.View().Member(node)
			return m != nil && m.Known && m.Info.Equal(want)
		})
	}
}

// The moment a member is seen it is also known what it says, once the view has settled.
func TestSettledViewKnowsAll(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 3)
	for i, s := range speakers {
		s.SetLocal(links(fmt.Sprintf("eth%d", i)))
	}
	for i, s := range speakers {
		awaitInfo(t, s.name, links(fmt.Sprintf("eth%d", i)), speakers...)
	}
	late := n.start(t, "node-4", newBind())
	late.SetPeers(peersOf(speakers))
	await(t, "the late speaker settles", func() bool { return late.View().Settled })
	v := late.View()
	for _, s := range speakers {
		if m := v.Member(s.name); m == nil || !m.Known || len(m.Info.Links) != 1 {
			t.Errorf("settled view has %+v for %s", m, s.name)
		}
	}
}

func TestUnchangedInfoIsNoNews(t *testing.T) {
	t.Parallel()
	s := newNetwork().start(t, "node-1", newBind())
	s.SetLocal(links("eth0", "eth1"))
	before := s.Membership.store.own().seq
	same := links("eth0", "eth1")
	same.Links[0], same.Links[1] = same.Links[1], same.Links[0]
	same.Links[0].Prefixes = append(same.Links[0].Prefixes, same.Links[0].Prefixes[0])
	s.SetLocal(same)
	if after := s.Membership.store.own().seq; after != before {
		t.Errorf("a reordered Info was sent as news: seq %d, then %d", before, after)
	}
}

func TestLeaveIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	speakers := newNetwork().startAll(t, 3)
	start, said := time.Now(), make(chan struct{})
	go func() { defer close(said); speakers[0].Leave(false, "") }()
	awaitMutual(t, speakers[1:]...)
	t.Logf("others go on without the one that left after %s", time.Since(start))
	<-said
	if !sameNames(speakers[0].View(), []string{"node-1", "node-2", "node-3"}) {
		t.Error("the view of who leaves has changed")
	}
	speakers[0].stop()
	for _, s := range speakers[1:] {
		await(t, "the departure is counted", func() bool {
			return s.value(t, "berth_membership_transitions_total", "left") == 1
		})
		if s.value(t, "berth_membership_transitions_total", "failed") != 0 || s.logged("speaker failed") != 0 {
			t.Errorf("%s took the departure for a failure", s.name)
		}
	}
}

func TestCrashIsDetected(t *testing.T) {
	t.Parallel()
	for _, count := range []int{2, 3, 5} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			t.Parallel()
			speakers := newNetwork().startAll(t, count)
			start := time.Now()
			speakers[0].stop()
			awaitMutual(t, speakers[1:]...)
			t.Logf("crash of one of %d speakers: the others agree after %s", count, time.Since(start))
			for _, s := range speakers[1:] {
				if got := s.value(t, "berth_membership_transitions_total", "failed"); got != 1 {
					t.Errorf("%s counts %v failed speakers, want 1", s.name, got)
				}
			}
		})
	}
}

func TestRestartUnderTheSameName(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]struct {
		leave, wait bool          // say goodbye; wait until the others have noticed
		clock       time.Duration // what the clock says after the restart
	}{
		"crash, noticed":       {wait: true},
		"crash, unnoticed":     {},
		"left, noticed":        {leave: true, wait: true},
		"left, back at once":   {leave: true},
		"clock has gone back":  {wait: true, clock: -24 * time.Hour},
		"unnoticed, gone back": {clock: -24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork()
			speakers := n.startAll(t, 3)
			speakers[0].SetLocal(links("eth0"))
			awaitInfo(t, "node-1", links("eth0"), speakers...)
			if how.leave {
				speakers[0].Leave(false, "")
			}
			speakers[0].stop()
			if how.wait {
				awaitMutual(t, speakers[1:]...)
			}
			speakers[0] = n.start(t, "node-1", speakers[0].bind, func(c *Config) {
				c.Clock = clocktesting.NewFakePassiveClock(time.Now().Add(how.clock))
			})
			speakers[0].SetPeers(peersOf(speakers))
			speakers[0].SetLocal(links("eth1"))
			awaitMutual(t, speakers...)
			awaitInfo(t, "node-1", links("eth1"), speakers...)
		})
	}
}

func TestReturnWithAnotherAddress(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 3)
	speakers[0].stop()
	awaitMutual(t, speakers[1:]...)
	speakers[0] = n.start(t, "node-1", newBind())
	for _, s := range speakers {
		s.SetPeers(peersOf(speakers))
	}
	awaitMutual(t, speakers...)
	for _, s := range speakers[1:] {
		if got := s.View().Member("node-1").Addr; got != speakers[0].bind {
			t.Errorf("%s thinks node-1 is at %s, want %s", s.name, got, speakers[0].bind)
		}
	}
}

func TestPartitionAndHeal(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 5)
	minority, majority := speakers[:2], speakers[2:]
	n.split(1, minority...)
	awaitMutual(t, minority...)
	awaitMutual(t, majority...)
	// News on either side reaches the other after the heal.
	minority[0].SetLocal(links("eth1"))
	majority[0].SetLocal(links("eth3"))
	start := time.Now()
	n.heal()
	awaitMutual(t, speakers...)
	t.Logf("views merged %s after the heal", time.Since(start))
	awaitInfo(t, minority[0].name, links("eth1"), speakers...)
	awaitInfo(t, majority[0].name, links("eth3"), speakers...)
	for _, s := range minority {
		if got := s.logged("speaker failed"); got != len(majority) {
			t.Errorf("%s logged %d failures, want one line for each of %d", s.name, got, len(majority))
		}
	}
}

// A speaker cut off alone must doubt its view before it goes on, and come to the conclusion that it is alone.
func TestCutOffAlone(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 3)
	doubted := watchSettled(t, speakers[0])
	n.split(1, speakers[0])
	awaitMutual(t, speakers[0])
	if !doubted() {
		t.Error("the speaker settled on being alone without ever doubting it")
	}
	awaitMutual(t, speakers[1:]...)
	start := time.Now()
	n.heal()
	awaitMutual(t, speakers...)
	t.Logf("views merged %s after the heal", time.Since(start))
}

// watchSettled returns a function that stops watching and reports whether an alone view was ever unsettled.
func watchSettled(t *testing.T, s *speaker) func() bool {
	t.Helper()
	seen, stop, done := false, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-s.Changes():
			}
			if v := s.View(); len(v.Members) == 1 && !v.Settled {
				seen = true
			}
		}
	}()
	return func() bool {
		close(stop)
		<-done
		return seen
	}
}

func TestRejoinDoubtsAtOnce(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 3)
	speakers[0].Rejoin()
	// Nothing can have answered between the return of Rejoin and this line unless the doubt were set later.
	if m := speakers[0].Membership; m.settling.wanted == 0 {
		t.Fatal("Rejoin left no doubt")
	}
	awaitMutual(t, speakers...)

	n.split(1, speakers[0])
	awaitMutual(t, speakers[0])
	speakers[0].Rejoin()
	if speakers[0].View().Settled {
		t.Fatal("settled right after Rejoin, though nobody answers")
	}
	awaitMutual(t, speakers[0])
}

// A peer that never answers holds up the start for a moment only.
func TestSilentPeerDoesNotHoldUpForever(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	dead := Peer{Node: "dead", Addr: newBind()}
	n.mu.Lock()
	n.side[dead.Addr.Addr()] = 1 // does not refuse, just does not answer
	n.mu.Unlock()
	s := n.start(t, "node-1", newBind())
	start := time.Now()
	s.SetPeers([]Peer{dead})
	if s.View().Settled {
		t.Error("settled without waiting for the peer")
	}
	awaitMutual(t, s)
	if took := time.Since(start); took > startLimit+time.Second {
		t.Errorf("settled after %s, want about %s at most", took, startLimit)
	}
	await(t, "the peer is reported", func() bool { return s.logged("cannot be reached") > 0 })
	tries := s.value(t, "berth_membership_joins_total", "failed")
	await(t, "it is tried again", func() bool {
		return s.value(t, "berth_membership_joins_total", "failed") >= tries+2
	})
	if got := s.logged("cannot be reached"); got != 1 {
		t.Errorf("%d lines about the silent peer, want 1", got)
	}
}

func TestOtherKeyIsRefusedAndReportedOnce(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 2)
	for name, key := range map[string][]byte{"other": testKey(8), "none": nil} {
		stranger := n.start(t, name, newBind(), withKey(key))
		stranger.SetPeers(peersOf(speakers))
		await(t, "the stranger has found who refuses it", func() bool {
			return slices.Equal(stranger.View().Refused, []string{"node-1", "node-2"})
		})
		await(t, "it is refused more than once", func() bool {
			return stranger.value(t, "berth_membership_joins_total", "failed") >= 6
		})
		if !sameNames(stranger.View(), []string{name}) || stranger.View().Settled {
			t.Errorf("the stranger sees %+v; it must not settle beside speakers that it cannot read", stranger.View())
		}
		if got := stranger.logged("taking no addresses"); got != 1 {
			t.Errorf("the stranger says in %d lines that it takes nothing, want 1", got)
		}
		await(t, "the stranger is reported", func() bool {
			return speakers[0].logged("refusing a speaker") > 0
		})
		// Connections over the loopback interface all come from one address, and one line is for each.
		if got := speakers[0].logged("refusing a speaker"); got != 1 {
			t.Errorf("%d lines about strangers, want 1", got)
		}
		if speakers[0].value(t, "berth_membership_refused_total", "") < 1 {
			t.Error("refusals are not counted")
		}
	}
	awaitMutual(t, speakers...)
}

func TestWithoutKey(t *testing.T) {
	t.Parallel()
	speakers := newNetwork().startAll(t, 2, withKey(nil))
	speakers[0].SetLocal(links("eth0"))
	awaitInfo(t, "node-1", links("eth0"), speakers...)
}

// When the API forgets everybody (or the list shrinks for any reason), members stay members.
func TestMembersOutliveThePeerList(t *testing.T) {
	t.Parallel()
	speakers := newNetwork().startAll(t, 2)
	speakers[0].SetPeers(nil)
	speakers[1].SetLocal(links("eth0"))
	awaitInfo(t, "node-2", links("eth0"), speakers...)
	awaitMutual(t, speakers...)
}

func TestStopBeforeListening(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	first := n.start(t, "node-1", newBind())
	m, err := New(Config{
		Node: "node-1", Bind: first.bind, Logger: log.NewNopLogger(), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextWithCancel(t)
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	m.Leave(false, "") // of who never came is nothing
}

func TestWaitsForItsPort(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	first := n.start(t, "node-1", newBind())
	m, err := New(Config{
		Node: "node-1", Bind: first.bind, Logger: log.NewNopLogger(), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextWithCancel(t)
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	first.stop()
	<-m.Started()
	if m.Addr() != first.bind {
		t.Errorf("listening on %s, want %s", m.Addr(), first.bind)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
