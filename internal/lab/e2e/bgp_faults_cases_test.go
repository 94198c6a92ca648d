package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// testBGPSpeakerKilled: a speaker dies and is started again. With graceful restart
// the router keeps its routes meanwhile: they never leave the kernel.
func testBGPSpeakerKilled(f bgpFaults) {
	f.connect(graceful)
	for range runs() {
		f.killGracefully("speaker killed (-9), graceful restart")
	}
}

func (f bgpFaults) killGracefully(what string) {
	f.Helper()
	f.freshSpeaker()
	before := f.router.waitAllUp()
	f.noChange(what, func() {
		f.killVictim()
		began := time.Now()
		f.waitNewSessions(before)
		measured.add(f.row(what+", until the sessions are back"), time.Since(began))
		f.router.waitAllUp()
		f.waitNotStale()
	})
}

// waitNotStale returns when the router counts on all routes: with End-of-RIB.
func (f bgpFaults) waitNotStale() {
	f.Helper()
	for _, address := range f.addresses {
		f.router.waitRoute(hostPrefix(address), told{}.byNodes(f.lab.otherNodes()...)...)
	}
}

// testBGPSpeakerKilledBFD: the same where BFD watches, which the speaker does
// itself and so notices its death.
func testBGPSpeakerKilledBFD(f bgpFaults) {
	f.connect(gracefulWatched(usualProfile))
	for range runs() {
		f.freshSpeaker()
		before := f.router.waitAllUp()
		f.noFailure("speaker killed (-9), graceful restart and BFD 3×300 ms", func() {
			f.killVictim()
			f.waitNewSessions(before)
			f.router.waitAllUp()
			f.waitNotStale()
		})
	}
}

// testBGPSpeakerKilledPatientBFD: BFD that takes longer to find a failure than a
// speaker takes to be back goes on with the new one, whichever the router.
func testBGPSpeakerKilledPatientBFD(f bgpFaults) {
	f.connect(gracefulWatched(patientProfile))
	for range runs() {
		f.killGracefully("speaker killed (-9), graceful restart and BFD 20×300 ms")
	}
}

// testBGPNodeCutBFD: the cable of the node that all traffic goes to is pulled,
// which only BFD can notice. Graceful restart, which keeps routes of who is away,
// does not keep those of a dead node.
func testBGPNodeCutBFD(f bgpFaults) {
	f.connectToVictim(gracefulWatched(fastProfile))
	for range runs() {
		f.cutVictim("node cut, BFD 3×100 ms", bfdBound)
	}
}

// testBGPNodeCutHold: the same without BFD, where the hold time has to end.
func testBGPNodeCutHold(f bgpFaults) {
	f.connectToVictim(briefHold)
	for range runs() {
		f.cutVictim(fmt.Sprintf("node cut, hold time %s", shortHold), holdBound)
	}
}

func (f bgpFaults) cutVictim(what string, bound time.Duration) {
	f.Helper()
	f.Cleanup(func() {
		if err := f.lab.Heal(faultVictim); err != nil {
			f.Error(err)
		}
		f.lab.waitUntilCalm(f.env)
	})
	speaker := f.speakerOf(faultVictim)
	var cut time.Time
	watching := map[netip.Addr]hopWatch{}
	for _, address := range f.addresses {
		watching[address] = f.watchHops(address)
	}
	stall := f.gap(what, bound, func() {
		cut = time.Now()
		if err := f.lab.Cut(faultVictim); err != nil {
			f.Fatal(err)
		}
		for _, address := range f.addresses {
			f.router.waitECMP(address, f.lab.otherNodes(faultVictim)...)
		}
	})
	for address, watch := range watching {
		changes := watch.stop()
		switch {
		case len(changes) == 2:
			measured.add(f.row(what+", until the router has other routes, "+familyName(address)), changes[1].at.Sub(cut))
		case stall < 100*time.Millisecond: // else BFD may have lost a node that only waited
			f.Errorf("%s: the routes to %s changed not once: %v", what, address, changes)
		}
	}
	f.waitCutOff(speaker)
	healed := time.Now()
	if err := f.lab.Heal(faultVictim); err != nil {
		f.Fatal(err)
	}
	f.router.waitAllUp()
	f.noteLost(speaker.Name, cut, healed, what)
	for _, address := range f.addresses {
		f.router.waitECMP(address, faultVictim)
	}
}

// noteLost notes when the speaker of the victim lost its sessions, by its log.
func (f bgpFaults) noteLost(speaker string, cut, healed time.Time, what string) {
	f.Helper()
	content, err := f.lab.kube.CoreV1().Pods(berthNamespace).GetLogs(speaker, &corev1.PodLogOptions{}).DoRaw(f.ctx)
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		match := sessionLost.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, match[1])
		if err != nil {
			f.Fatal(err)
		}
		if at.After(cut) && at.Before(healed) {
			measured.add(f.row(fmt.Sprintf("%s, until the speaker knows (%s)", what, match[2])), at.Sub(cut))
		}
	}
}

// sessionLost finds the time, and whether it is about BFD or BGP, in the line of a
// speaker's log that says that a session is lost.
var sessionLost = regexp.MustCompile(`ts=(\S+) .*msg="(BFD session changed its state|BGP session is lost)".* (?:state=Down was=Up|up=)`)

// waitCutOff returns when a speaker that nobody else can reach has lost all of its
// sessions.
func (f bgpFaults) waitCutOff(speaker *corev1.Pod) {
	f.Helper()
	f.waitFor("the speaker that is cut off to lose its sessions", 2*shortHold, func(ctx context.Context) (bool, string) {
		values, err := f.tryMetrics(ctx, speaker, 7957)
		up := values[`berth_bgp_session_up{peer="ipv4"}`] + values[`berth_bgp_session_up{peer="ipv6"}`]
		return err == nil && up == 0, fmt.Sprintf("%v are up (error %v)", up, err)
	})
}

// testBGPDrain: a node is annotated to be drained: the routers find other paths
// before it withdraws its own. Undone, it is as before.
func testBGPDrain(f bgpFaults) {
	f.connect(nil)
	undo := fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, v1beta1.AnnotationDrain)
	f.Cleanup(func() { f.patchNode(faultVictim, undo) })
	sessions := f.router.waitAllUp()
	for range runs() {
		f.noFailure("node drained", func() {
			endGlimpse := f.glimpseGoingAway()
			f.patchNode(faultVictim, fmt.Sprintf(`{"metadata":{"annotations":{%q:""}}}`, v1beta1.AnnotationDrain))
			for _, address := range f.addresses {
				f.router.waitECMP(address, f.lab.otherNodes(faultVictim)...)
				f.router.waitRoutes(address, nodes-1)
			}
			endGlimpse()
		})
		f.noFailure("node no longer drained", func() {
			f.patchNode(faultVictim, undo)
			for _, address := range f.addresses {
				f.router.waitECMP(address, f.lab.otherNodes()...)
			}
		})
	}
	for neighbor, session := range f.router.waitAllUp() {
		if !session.SameAs(sessions[neighbor]) {
			f.Errorf("the session with %s was %+v, is now %+v", neighbor, sessions[neighbor], session)
		}
	}
}

// testBGPSpeakerStopped: a speaker without graceful restart is stopped, and comes
// back a while later.
func testBGPSpeakerStopped(f bgpFaults) {
	f.connect(nil)
	const os = `{"metadata":{"labels":{"kubernetes.io/os":%q}}}`
	f.Cleanup(func() {
		f.patchNode(faultVictim, fmt.Sprintf(os, "linux"))
		f.lab.waitUntilCalm(f.env)
	})
	for range runs() {
		f.noFailure("speaker stopped (-15), no graceful restart", func() {
			endGlimpse := f.glimpseGoingAway()
			// The DaemonSet is for Linux only.
			f.patchNode(faultVictim, fmt.Sprintf(os, "none"))
			f.expectFarewell("speaker stopped")
			endGlimpse()
			for _, address := range f.addresses {
				f.router.waitECMP(address, f.lab.otherNodes(faultVictim)...)
			}
		})
		f.noFailure("speaker started", func() {
			f.patchNode(faultVictim, fmt.Sprintf(os, "linux"))
			f.router.waitAllUp()
			for _, address := range f.addresses {
				f.router.waitECMP(address, f.lab.otherNodes()...)
			}
		})
	}
}

// testBGPDrainedForGood: where a restart would be graceful, the speaker of a drained
// node that is stopped says that it is not to be waited for.
func testBGPDrainedForGood(f bgpFaults) {
	f.connect(graceful)
	const os = `{"metadata":{"annotations":{%q:%s},"labels":{"kubernetes.io/os":%q}}}`
	f.Cleanup(func() {
		f.patchNode(faultVictim, fmt.Sprintf(os, v1beta1.AnnotationDrain, "null", "linux"))
		f.lab.waitUntilCalm(f.env)
	})
	f.noFailure("node drained and its speaker stopped (-15), graceful restart", func() {
		f.patchNode(faultVictim, fmt.Sprintf(os, v1beta1.AnnotationDrain, `""`, "linux"))
		for _, address := range f.addresses {
			f.router.waitECMP(address, f.lab.otherNodes(faultVictim)...)
			f.router.waitRoutes(address, nodes-1)
		}
		f.patchNode(faultVictim, fmt.Sprintf(os, v1beta1.AnnotationDrain, `""`, "none"))
		f.expectFarewell("node " + faultVictim + " is drained")
	})
}

// expectFarewell fails the test unless the router was told in words why the
// sessions have ended (RFC 9003).
func (f bgpFaults) expectFarewell(words string) {
	f.Helper()
	f.waitFor("the router to lose its sessions with "+faultVictim, bgpTimeout, func(context.Context) (bool, string) {
		sessions := f.victimSessions()
		return !slices.ContainsFunc(sessions, routers.Session.Up), fmt.Sprintf("%+v", sessions)
	})
	for _, session := range f.victimSessions() {
		text := strings.ToLower(session.LastError)
		if !strings.Contains(text, "administrative") {
			f.Errorf("%s: the router says about the end: %q", session.Neighbor, session.LastError)
		}
	}
	if text := f.routerLog(); !strings.Contains(text, words) {
		f.Errorf("the log of %s has not the text of the farewell, %q:\n%s", f.kind, words, text)
	}
}

// routerLog is what the router's BGP has logged.
func (f bgpFaults) routerLog() string {
	f.Helper()
	text, err := f.lab.Exec(f.ctx, f.router.host.Name, "cat", f.router.Log(daemonOf(f.kind)))
	if err != nil {
		f.Fatal(err)
	}
	return string(text)
}

func daemonOf(kind routers.Kind) string {
	if kind == routers.BIRD {
		return "bird"
	}
	return "bgpd"
}

// testBGPRollingRestart: all speakers are replaced one after the other, as in an
// upgrade, with graceful restart and BFD. The router is told nothing of it and keeps
// its routes. Its BFD is told to wait, and so notices nothing.
func testBGPRollingRestart(f bgpFaults) {
	f.connect(gracefulWatched(patientProfile))
	daemonSets, logged := f.lab.kube.AppsV1().DaemonSets(berthNamespace), len(f.routerLog())
	for range runs() {
		f.noChange("rolling restart of all speakers", func() {
			patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"restarted":%q}}}}}`, time.Now().Format(time.RFC3339Nano))
			endGlimpse := f.glimpseWaiting()
			began := time.Now()
			if _, err := daemonSets.Patch(f.ctx, "speaker", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				f.Fatal(err)
			}
			f.waitFor("all speakers to be replaced", 2*time.Minute, func(ctx context.Context) (bool, string) {
				d, err := daemonSets.Get(ctx, "speaker", metav1.GetOptions{})
				if err != nil {
					return false, err.Error()
				}
				s := d.Status
				return s.ObservedGeneration == d.Generation && s.UpdatedNumberScheduled == nodes && s.NumberReady == nodes && s.NumberUnavailable == 0,
					fmt.Sprintf("%+v", s)
			})
			measured.add(f.row("rolling restart of all speakers, until done"), time.Since(began))
			endGlimpse()
			f.router.waitAllUp()
			f.waitNotStale()
		})
	}
	f.lab.waitUntilCalm(f.env)
	if text := f.routerLog()[logged:]; containsAny(text, "NOTIFICATION: received", "Received: ") {
		f.Errorf("the router was told that speakers end:\n%s", text)
	}
}

// testBGPRouterRestart: the router's daemons crash and are started again. Sessions
// and routes come back by themselves.
func testBGPRouterRestart(f bgpFaults) {
	f.connect(nil)
	starts := f.processStarts()
	for range runs() {
		if err := f.router.Kill(f.ctx); err != nil {
			f.Fatal(err)
		}
		if err := f.router.Start(f.ctx); err != nil {
			f.Fatal(err)
		}
		began := time.Now()
		f.router.waitAllUp()
		for _, address := range f.addresses {
			f.router.waitECMP(address, f.lab.otherNodes()...)
		}
		took := time.Since(began)
		measured.add(f.row("router restarted, until its routes are back"), took)
		if took > 20*time.Second {
			f.Errorf("the routes were back %s after the router was", took)
		}
		f.waitProbing()
	}
	f.expectSameProcesses(starts)
}

// testBGPBFDFlaps: BFD loses the router again and again, and each time the sessions
// come back and stay: nothing goes round in circles.
func testBGPBFDFlaps(f bgpFaults) {
	f.connect(func(p *v1beta1.BGPPeerSpec) { p.BFDProfile = slowProfile })
	f.expectStable(10 * time.Second) // after which a session counts as one that works
	starts := f.processStarts()
	const flaps = 2
	flapped := func() float64 {
		values := f.metrics(f.speakerOf(faultVictim), 7957)
		return values[`berth_bgp_session_flaps_total{peer="ipv4"}`] + values[`berth_bgp_session_flaps_total{peer="ipv6"}`]
	}
	before := flapped()
	for flap := range flaps {
		sessions := f.settled()
		if err := f.router.Freeze(); err != nil {
			f.Fatal(err)
		}
		f.waitFor("the speaker to lose its sessions", 15*time.Second, func(context.Context) (bool, string) {
			values := f.metrics(f.speakerOf(faultVictim), 7957)
			up := values[`berth_bgp_session_up{peer="ipv4"}`] + values[`berth_bgp_session_up{peer="ipv6"}`]
			return up == 0, fmt.Sprintf("%v are up", up)
		})
		if err := f.router.Thaw(); err != nil {
			f.Fatal(err)
		}
		began := time.Now()
		f.waitNewSessions(sessions)
		f.router.waitAllUp()
		measured.add(f.row(fmt.Sprintf("BFD flaps, time %d, until all sessions are back", flap+1)), time.Since(began))
	}
	f.expectStable(3 * time.Second)
	// Each flap ends two sessions once. FRR and BIRD may end them once more on the way
	// back, as docs/lab.md tells; that this does not go on is what expectStable shows.
	if n := flapped() - before; n < 2*flaps {
		f.Errorf("%d flaps of BFD have ended %v sessions, want at least %d", flaps, n, 2*flaps)
	}
	f.expectSameProcesses(starts)
	f.waitProbing()
}

// expectStable fails the test if a session is reset while it looks. What the
// router's own BFD does to a young session is waited for first.
func (f bgpFaults) expectStable(duration time.Duration) {
	f.Helper()
	settled := f.settled()
	f.stays("all sessions", duration, func(ctx context.Context) (bool, string) {
		sessions, err := f.router.Sessions(ctx)
		if err != nil {
			return false, err.Error()
		}
		for _, s := range sessions {
			if old := settled[s.Neighbor]; !s.SameAs(old) {
				return false, fmt.Sprintf("%+v was %+v", s, old)
			}
		}
		return true, ""
	})
}

// settled returns the sessions once they have been the same for five seconds, which
// is longer than BFD takes by slowProfile.
func (f bgpFaults) settled() map[netip.Addr]routers.Session {
	f.Helper()
	last := f.router.waitAllUp()
	f.waitHeld("sessions that stay", 5*time.Second, func(context.Context) (bool, string) {
		now := f.router.waitAllUp()
		same := true
		for neighbor, session := range now {
			same = same && session.SameAs(last[neighbor])
		}
		last = now
		return same, fmt.Sprintf("%+v", now)
	})
	return last
}
