package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// settleLimit is how long after anything that has happened exactly one node has to
// answer for each address, and confirmation how long that is watched.
const (
	settleLimit  = time.Second
	confirmation = 400 * time.Millisecond
)

// change does something to the Ethernet and fails the test unless, settleLimit
// later, exactly one node answers for each of the addresses, one that is right. It
// returns which.
func (f *fleet) change(looking *lookout, what string, do func() error, right func(netip.Addr, string) bool) map[netip.Addr]string {
	f.Helper()
	if err := do(); err != nil {
		f.Fatal(err)
	}
	at := time.Now()
	f.takeEffect(looking, what)
	end := time.Now()
	owners := map[netip.Addr]string{}
	longest := time.Duration(0)
	for _, address := range f.addresses {
		answering := looking.claims(address, end.Add(-confirmation), end)
		owner, only := answering.owner()
		if !only || !right(address, owner) {
			f.Errorf("%s: %s later %s is answered for by %v; since the change: %s", what, settleLimit, address, answering,
				f.describeAnswers(looking.heard(address, at, end)))
		}
		owners[address] = owner
		_, took := looking.settled(address, at, end)
		longest = max(longest, took)
	}
	measured.add(f.row(what+", until one node answers for each address"), longest)
	return owners
}

// takeEffect waits for as long as what has just happened may take to be over, and
// once more for as long if the machine itself stood still meanwhile.
func (f *fleet) takeEffect(looking *lookout, what string) {
	f.Helper()
	const again = 3
	for range again {
		at := time.Now()
		f.pauseUntil(at.Add(settleLimit+confirmation), "what happened takes effect")
		late := time.Since(at.Add(settleLimit + confirmation))
		stalled, busy := looking.stalledSince(at)
		if !busy && late < stalling {
			return
		}
		stalled = max(stalled, late)
		f.Logf("%s: the machine was busy with something else for %s", what, stalled)
		f.count("stalls of the machine", 1)
	}
}

// as accepts the owners of before, and only them.
func as(before map[netip.Addr]string) func(netip.Addr, string) bool {
	return func(address netip.Addr, node string) bool { return before[address] == "" || before[address] == node }
}

// without accepts the owners of before, and others only for what a node owned that
// is no longer there.
func without(before map[netip.Addr]string, node string) func(netip.Addr, string) bool {
	return func(address netip.Addr, owner string) bool {
		return owner != node && (before[address] == node || before[address] == owner)
	}
}

// testCutHealCut: a node is cut and comes back, and then the one that took its
// addresses is cut.
func (f *fleet) testCutHealCut() {
	for range runs() {
		f.arrange(faultNode)
		f.cutHealCut("cut, heal, cut again", f.lab.Cut)
		f.arrange(faultNode)
		f.cutHealCut("silent, heal, silent again", f.lab.CutSilently)
		f.arrange(faultNode)
		f.flap()
	}
}

func (f *fleet) cutHealCut(what string, lose func(string) error) {
	f.Helper()
	f.healed()
	looking := f.lookOut(onlooker, askInterval, f.addresses...)
	defer looking.stop()
	first := f.victim
	f.measureGaps(what, unplanned, f.lost, func() {
		owners := f.change(looking, what+": cut", func() error { return lose(first) }, without(f.owners, first))
		owners = f.change(looking, what+": healed", func() error { return f.lab.Heal(first) }, as(owners))
		second := owners[f.lost[0]]
		owners = f.change(looking, what+": cut again", func() error { return lose(second) }, without(owners, second))
		f.change(looking, what+": healed again", func() error { return f.lab.Heal(second) }, as(owners))
	}, func() {})
}

// flap has the carrier of the victim come and go faster than anybody can be sure.
func (f *fleet) flap() {
	f.Helper()
	f.healed()
	looking := f.lookOut(onlooker, askInterval, f.addresses...)
	defer looking.stop()
	const brief = 300 * time.Millisecond
	for range 3 {
		if err := f.lab.Cut(f.victim); err != nil {
			f.Fatal(err)
		}
		f.pause(brief, "the cable is loose")
		if err := f.lab.Heal(f.victim); err != nil {
			f.Fatal(err)
		}
		f.pause(brief, "the cable is loose")
	}
	anyNode := func(address netip.Addr, node string) bool {
		return f.owners[address] == f.victim || f.owners[address] == node
	}
	f.change(looking, "flapping cable, at rest", func() error { return nil }, anyNode)
}

// testPartition: a node and the two others do not reach each other. Clients are on
// one side, or on the other, or reach both, of which either half takes itself for
// what is left; healed, they agree at once.
func (f *fleet) testPartition() {
	for range runs() {
		for _, beside := range []string{"few", "many", "both"} {
			f.arrange(faultNode)
			f.partition("partition of 1 against 2, clients beside the "+beside, beside)
		}
	}
}

func (f *fleet) partition(what, beside string) {
	f.Helper()
	f.healed()
	few, many := []string{f.victim}, append(f.lab.otherNodes(f.victim), network.ControlPlane)
	clients := []string{network.Client, network.Router, network.Stranger}
	var right func(netip.Addr, string) bool
	switch beside {
	case "few":
		few = append(few, clients...)
		right = func(_ netip.Addr, node string) bool { return node == f.victim }
	case "many":
		many = append(many, clients...)
		right = without(f.owners, f.victim)
	}
	looking := f.lookOut(onlooker, askInterval, f.addresses...)
	defer looking.stop()
	divide := func() error { return f.lab.Partition(few, many) }
	if right != nil {
		f.change(looking, what, divide, right)
	} else {
		if err := divide(); err != nil {
			f.Fatal(err)
		}
		f.takeEffect(looking, what)
		f.expectEach(looking, what)
	}
	anyNode := func(netip.Addr, string) bool { return true }
	owners := f.change(looking, what+", healed", func() error { return f.lab.Partition() }, anyNode)
	for _, address := range f.kept {
		if owners[address] != f.owners[address] {
			f.Errorf("%s: %s moved from %s to %s: the larger half had it all the time", what, address, f.owners[address], owners[address])
		}
	}
}

// expectEach fails the test unless each address has been answered for lately, by
// however many.
func (f *fleet) expectEach(looking *lookout, when string) {
	f.Helper()
	now := time.Now()
	two := 0
	for _, address := range f.addresses {
		answering := looking.claims(address, now.Add(-confirmation), now)
		if len(answering) == 0 {
			f.Errorf("%s: nobody answers for %s", when, address)
		}
		if len(answering) > 1 {
			two++
		}
	}
	f.Logf("%s: %d of %d addresses are answered for by two nodes", when, two, len(f.addresses))
}

// testFrozen: the same while nobody can ask the API server.
func (f *fleet) testFrozen() {
	for range runs() {
		f.frozen(func() { f.cutHealCut("API server frozen: cut, heal, cut again", f.lab.Cut) })
		f.frozen(func() { f.partition("API server frozen: partition of 1 against 2", "many") })
	}
}

// frozen does something while the API server hangs.
func (f *fleet) frozen(do func()) {
	f.Helper()
	f.arrange(faultNode)
	f.Cleanup(func() {
		if err := f.lab.Thaw(lab.APIServer); err != nil {
			f.Error(err)
		}
	})
	if err := f.lab.Freeze(lab.APIServer); err != nil {
		f.Fatal(err)
	}
	do()
	if err := f.lab.Thaw(lab.APIServer); err != nil {
		f.Fatal(err)
	}
	f.waitFor("the API server to answer", 20*time.Second, func(ctx context.Context) (bool, string) {
		_, err := f.lab.kube.CoreV1().Nodes().Get(ctx, f.victim, metav1.GetOptions{})
		return err == nil, fmt.Sprint(err)
	})
	f.lab.waitUntilCalm(f.env)
}
