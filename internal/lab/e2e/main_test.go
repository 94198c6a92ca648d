package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/berth-lb/berth/internal/lab/network"
)

// nodes is how many each lab has: an owner, a successor, and one that is
// neither.
const nodes = 3

// runsVariable is the environment's way to say what the flag -runs does.
const runsVariable = "BERTH_E2E_RUNS"

// Flags and what the process shares.
var (
	labFlag  = flag.String("lab", "", "name of a running lab to use for the tests of its family, instead of labs of their own")
	runsFlag = flag.Int("runs", 0, "how often each fault is measured (default 1, or $"+runsVariable+")")

	// interrupted ends when the process is asked to end: tests then fail early
	// and take their labs down.
	interrupted context.Context
	measured    = &measurements{}
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Tests wait much more than they work, so more of them can run side by side
	// than there are processors.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	flag.Parse()
	var stop context.CancelFunc
	interrupted, stop = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code := m.Run()
	fmt.Print(measured.table())
	return code
}

// runs is how often a fault is to be measured.
func runs() int {
	if *runsFlag > 0 {
		return *runsFlag
	}
	if n, err := strconv.Atoi(os.Getenv(runsVariable)); err == nil && n > 0 {
		return n
	}
	return 1
}

// testCase is a test that needs nothing but a lab with Berth.
type testCase struct {
	name string
	run  func(*env)
	// alone: it breaks something that others need, so nothing may run beside it.
	alone bool
	// dualOnly: it needs both families, or has nothing to do with any.
	dualOnly bool
}

// testCases in the order in which those that run alone do; the others follow.
func testCases() []testCase {
	return []testCase{
		{name: "NodeCut", run: testNodeCut, alone: true},
		{name: "NodeSilent", run: testNodeSilent, alone: true},
		{name: "SpeakerKilled", run: testSpeakerKilled, alone: true},
		{name: "SpeakerStopped", run: testSpeakerStopped, alone: true},
		{name: "APIServerFrozen", run: testAPIServerFrozen, alone: true, dualOnly: true},
		{name: "ExcludedNodes", run: testExcludedNodes, alone: true, dualOnly: true},
		{name: "ControllerKilled", run: testControllerKilled, alone: true},
		{name: "LeaderHandsOver", run: testLeaderHandsOver, alone: true, dualOnly: true},
		{name: "StandbyTakesOver", run: testStandbyTakesOver, alone: true, dualOnly: true},
		{name: "NodeNotReady", run: testNodeNotReady, alone: true, dualOnly: true},
		{name: "Plugin", run: testPlugin, alone: true, dualOnly: true},
		{name: "Reports", run: testReports, alone: true, dualOnly: true},
		{name: "Documentation", run: testDocumentation, alone: true, dualOnly: true},
		{name: "FirstConnection", run: testFirstConnection, alone: true},
		{name: "Service", run: testService},
		{name: "AllPods", run: testAllPods},
		{name: "ManyAddresses", run: testManyAddresses},
		{name: "Local", run: testLocal},
		{name: "Readiness", run: testReadiness},
		{name: "Release", run: testRelease},
		{name: "Sharing", run: testSharing},
		{name: "SharingLocal", run: testSharingLocal},
		{name: "PoolEdits", run: testPoolEdits},
		{name: "PoolFull", run: testPoolFull},
		{name: "Requests", run: testRequests},
		{name: "LoadBalancerIP", run: testLoadBalancerIP},
		{name: "Classes", run: testClasses},
		{name: "FamilyPolicies", run: testFamilyPolicies, dualOnly: true},
		{name: "Advertisements", run: testAdvertisements},
		{name: "Neighbors", run: testNeighbors},
		{name: "Plan", run: testPlan, dualOnly: true},
		{name: "Rights", run: testRights, dualOnly: true},
		{name: "Privileges", run: testPrivileges, dualOnly: true},
		{name: "Token", run: testToken, dualOnly: true},
		{name: "Confined", run: testConfined, dualOnly: true},
		{name: "MetricsDocumented", run: testMetricsDocumented, dualOnly: true},
		{name: "MetricsAccess", run: testMetricsAccess, dualOnly: true},
		{name: "InvalidObjects", run: testInvalidObjects, dualOnly: true},
		{name: "Bundle", run: testBundle, dualOnly: true},
	}
}

func TestDual(t *testing.T) { runCases(t, network.Dual) }
func TestIPv4(t *testing.T) { runCases(t, network.IPv4) }
func TestIPv6(t *testing.T) { runCases(t, network.IPv6) }

// runCases runs all tests that make sense for the family in one lab.
func runCases(t *testing.T, family network.Family) {
	var cases []testCase
	for _, c := range testCases() {
		if !c.dualOnly || family == network.Dual {
			cases = append(cases, c)
		}
	}
	runIn(t, startLab(t, family), cases)
}

// runIn runs tests in a lab.
func runIn(t *testing.T, l *testLab, cases []testCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !c.alone {
				t.Parallel()
			}
			e := newEnv(t, l)
			c.run(e)
			if c.alone {
				l.waitUntilCalm(e)
			}
		})
	}
}
