package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// How long the randomized test goes on, unless the environment says so by
// $BERTH_E2E_CHAOS. $BERTH_E2E_SEED repeats a run's choices.
const (
	chaosTime     = time.Minute
	chaosVariable = "BERTH_E2E_CHAOS"
	seedVariable  = "BERTH_E2E_SEED"
)

// chaosGap is the longest time in which no connection at all may succeed, over the
// whole run. Where a node with Pods is cut, half of the connections fail for long.
const chaosGap = 4 * time.Second

// chaos is what a randomized test has done to the lab, and so what is to be
// expected of it.
type chaos struct {
	*fleet
	random  *rand.Rand
	looking *lookout
	// locals are the addresses of a Service of policy Local, whose only Pod is on a
	// node.
	locals []netip.Addr
	podOn  string
	// lost is the node that cannot be reached, drained and excluded those that are
	// not to own anything, the last only of one side; empty if there is none.
	lost, drained, excluded string
	// kills counts how often each node's speaker was killed since its Pod was new.
	kills map[string]int
	// frozenFor counts the steps since the API server was frozen; 0 if it is not.
	frozenFor int
	// placed are the owners after the step before. Addresses without one are not
	// among them.
	placed map[netip.Addr]string
	log    []string
}

// chaosStep is one thing that can happen.
type chaosStep struct {
	name   string
	weight int
	// nodes are those that it can be done to now; a step that is about no node has
	// one, called nothing.
	nodes func(*chaos) []string
	// do does it and says which addresses may move by it.
	do func(c *chaos, node string) mayMove
	// planned steps have to be done without haste, and the addresses move when the
	// new owner is ready.
	planned bool
}

type mayMove func(netip.Addr) bool

func nothingMoves(netip.Addr) bool { return false }

// testChaos does one thing after another at random, and looks after each whether
// all is as it should be.
func (f *fleet) testChaos() {
	seed, duration := chaosSettings(f)
	f.Logf("randomized faults for %s; repeat with %s=%d", duration, seedVariable, seed)
	c := &chaos{
		fleet: f, random: rand.New(rand.NewPCG(seed, seed)), kills: map[string]int{}, placed: map[netip.Addr]string{}, podOn: "node-2",
	}
	f.arrange(faultNode)
	c.prepare()
	running := f.startProbes(lab.ProbeOptions{Every: 50 * time.Millisecond, Timeout: 250 * time.Millisecond}, sample(f.addresses)...)
	steps := 0
	for deadline := time.Now().Add(duration); time.Now().Before(deadline) && !f.Failed(); steps++ {
		c.step()
	}
	c.recover()
	for address, r := range running.stop() {
		f.Logf("%s: %d of %d connections failed: %v; longest gap %s, from %s on",
			address, r.Failed, r.Sent, r.Errors, r.LongestGap, r.GapBegan.Format("15:04:05.000"))
		measured.add(f.row("randomized faults, longest gap"), time.Duration(r.LongestGap))
		if time.Duration(r.LongestGap) > chaosGap {
			f.Errorf("%s was away for %s, from %s on", address, r.LongestGap, r.GapBegan.Format("15:04:05.000"))
		}
	}
	f.count("randomized faults, steps", steps)
	f.Logf("%d steps:\n%s", steps, strings.Join(c.log, "\n"))
	if f.Failed() {
		f.Logf("repeat with %s=%d", seedVariable, seed)
	}
}

func chaosSettings(f *fleet) (seed uint64, duration time.Duration) {
	f.Helper()
	seed, duration = uint64(time.Now().UnixNano()), chaosTime
	var err error
	if text := os.Getenv(seedVariable); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			f.Fatalf("%s: %v", seedVariable, err)
		}
	}
	if text := os.Getenv(chaosVariable); text != "" {
		if duration, err = time.ParseDuration(text); err != nil {
			f.Fatalf("%s: %v", chaosVariable, err)
		}
	}
	return seed, duration
}

// prepare makes what the steps need, and has everything undone when the test ends.
func (c *chaos) prepare() {
	c.Helper()
	const app = "mover"
	c.createDeployment(deployment{
		app: app, replicas: 1, nodes: []string{c.podOn}, streams: true, args: []string{"--delay-shutdown=4"}, grace: 10,
	})
	c.Cleanup(func() { c.deleteDeployment(app) })
	c.locals = c.localService(app, app)
	c.looking = c.lookOut(onlooker, askInterval, c.all()...)
	c.healed()
	c.Cleanup(func() {
		if err := c.lab.Thaw(lab.APIServer); err != nil {
			c.Error(err)
		}
	})
	c.placed = c.waitOwners(c.all(), nil)
}

func (c *chaos) all() []netip.Addr { return slices.Concat(c.addresses, c.locals) }

// step chooses one of the steps that can be done now, does it, and looks.
func (c *chaos) step() {
	c.Helper()
	step, node := c.choose()
	what := strings.TrimSpace(step.name + " " + node)
	began := time.Now()
	c.log = append(c.log, fmt.Sprintf("%s  %s", began.Format("15:04:05.000"), what))
	may := step.do(c, node)
	if c.frozenFor > 0 {
		c.frozenFor++
	}
	c.settle(what, step.planned, may)
	c.expectServed(what)
	c.log[len(c.log)-1] += fmt.Sprintf("  (%s)", time.Since(began).Round(10*time.Millisecond))
	if c.Failed() {
		c.Logf("the state: lost %q, drained %q, excluded %q, frozen for %d steps, Pod on %s; owners before: %v\nthe steps:\n%s",
			c.lost, c.drained, c.excluded, c.frozenFor, c.podOn, c.placed, strings.Join(c.log, "\n"))
	}
}

// choose draws a step and a node for it. Frozen for long, the API server thaws.
func (c *chaos) choose() (chaosStep, string) {
	c.Helper()
	const longest = 6
	type option struct {
		step chaosStep
		node string
	}
	var options []option
	for _, step := range chaosSteps() {
		if c.frozenFor > longest && step.name != "thaw the API server" {
			continue
		}
		nodes := step.nodes(c)
		if len(nodes) == 0 {
			continue
		}
		node := nodes[c.random.IntN(len(nodes))]
		for range step.weight {
			options = append(options, option{step, node})
		}
	}
	drawn := options[c.random.IntN(len(options))]
	return drawn.step, drawn.node
}

// settle fails the test unless exactly one node answers for each address that
// somebody can announce, one that may, and none has moved that had nothing to do
// with what has happened: settleLimit later, or when a planned move is over.
func (c *chaos) settle(what string, planned bool, may mayMove) {
	c.Helper()
	at := time.Now()
	var end time.Time
	if planned {
		c.waitFor(what+" to be over", moveLimit, func(context.Context) (bool, string) {
			end = time.Now()
			wrong := c.wrong(maxTime(at, end.Add(-confirmation)), end, may)
			return len(wrong) == 0 && end.Sub(at) > confirmation, strings.Join(wrong, "; ")
		})
	} else {
		c.takeEffect(c.looking, what)
		end = time.Now()
	}
	if wrong := c.wrong(end.Add(-confirmation), end, may); len(wrong) > 0 {
		c.Errorf("%s: %s", what, strings.Join(wrong, "\n"))
		for _, address := range c.all() {
			c.Logf("%s: %s", address, c.describeAnswers(c.looking.heard(address, at.Add(-time.Second), end)))
		}
		return
	}
	for _, address := range c.all() {
		owner, _ := c.looking.claims(address, end.Add(-confirmation), end).owner()
		if owner == "" {
			delete(c.placed, address)
			continue
		}
		c.placed[address] = owner
		if !planned && may(address) {
			_, took := c.looking.settled(address, at, end)
			measured.add(c.row("randomized faults, until one node answers"), took)
		}
	}
}

// wrong is what is not as it should be, by the answers between two moments.
func (c *chaos) wrong(from, to time.Time, may mayMove) []string {
	var wrong []string
	for _, address := range c.all() {
		answering := c.looking.claims(address, from, to)
		right := c.eligible(address)
		owner, only := answering.owner()
		before := c.placed[address]
		switch {
		case len(right) == 0:
			// Who could announce it cannot be reached.
		case !only:
			wrong = append(wrong, fmt.Sprintf("%s is answered for by %v", address, answering))
		case !slices.Contains(right, owner):
			wrong = append(wrong, fmt.Sprintf("%s is answered for by %s, not by one of %v", address, owner, right))
		case before != "" && before != owner && !may(address):
			wrong = append(wrong, fmt.Sprintf("%s moved from %s to %s, which nothing was the matter with", address, before, owner))
		}
	}
	return wrong
}

// eligible are the nodes that may answer for an address: those that should, or, if
// there is none, those that only are to be spared.
func (c *chaos) eligible(address netip.Addr) []string {
	var right, spared []string
	for _, node := range c.lab.otherNodes(c.lost) {
		switch {
		case slices.Contains(c.locals, address) && node != c.podOn:
		case slices.Contains(c.sides[sideOfVictim], address) && node == c.excluded:
		case node == c.drained:
			spared = append(spared, node)
		default:
			right = append(right, node)
		}
	}
	if len(right) == 0 {
		return spared
	}
	return right
}

// expectServed fails the test unless the client is served, through addresses of each
// kind.
func (c *chaos) expectServed(what string) {
	c.Helper()
	for _, address := range slices.Concat(sample(c.addresses), sample(c.locals)) {
		if len(c.eligible(address)) == 0 {
			continue
		}
		url := urlOf(address, servicePort, "/hostname")
		err := c.waited(what+": the client to fetch "+url, 30*time.Second, func(ctx context.Context) (bool, string) {
			_, err := c.lab.get(ctx, network.Client, url)
			return err == nil, fmt.Sprint(err)
		})
		if err != nil {
			c.describePath(network.Client, address)
			c.Error(err)
		}
	}
}

// recover undoes everything and looks a last time.
func (c *chaos) recover() {
	c.Helper()
	if err := c.lab.Thaw(lab.APIServer); err != nil {
		c.Fatal(err)
	}
	if err := c.lab.HealAll(); err != nil {
		c.Fatal(err)
	}
	c.waitAPI()
	for _, node := range c.lab.otherNodes() {
		c.undrain(node)
	}
	c.advertise(sideOfVictim)
	c.lost, c.drained, c.excluded, c.frozenFor = "", "", "", 0
	c.lab.waitUntilCalm(c.env)
	c.waitReturned()
	if c.Failed() {
		return
	}
	anything := func(netip.Addr) bool { return true }
	c.settle("the end", true, anything)
	c.Logf("owners at the end: %v", slices.Sorted(maps.Values(c.placed)))
	c.looking.stop()
}
