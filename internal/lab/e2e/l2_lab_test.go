package e2e

import (
	"testing"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// layer2Case is a test of a fleet under fire. All share one fleet, whose victim
// they find without an address or with some, as the one before left it.
type layer2Case struct {
	name string
	run  func(*fleet)
}

func layer2Cases() []layer2Case {
	return []layer2Case{
		{"Drain", (*fleet).testDrain},
		{"PodsMoved", (*fleet).testPodsMoved},
		{"RollingUpdate", (*fleet).testRollingUpdate},
		{"CutHealCut", (*fleet).testCutHealCut},
		{"Partition", (*fleet).testPartition},
		{"Unheard", (*fleet).testUnheard},
		{"APIServerFrozen", (*fleet).testFrozen},
		{"Pressure", (*fleet).testPressure},
		{"Deaf", (*fleet).testDeaf},
		{"Redirect", (*fleet).testRedirect},
		{"KubeProxy", (*fleet).testKubeProxy},
		{"Rebalance", (*fleet).testRebalance},
		{"SquatterFirst", (*fleet).testSquatterFirst},
		{"SquatterLater", (*fleet).testSquatterLater},
		{"Chaos", (*fleet).testChaos},
	}
}

// TestLayer2 puts the owners of addresses under fire, one way after the other.
func TestLayer2(t *testing.T) {
	options := lab.DefaultOptions()
	options.Name = "e2elayer2"
	options.Nodes = nodes
	l := startLabWith(t, options)
	f := newFleetOn(newEnv(t, l), streamingPods())
	for _, c := range layer2Cases() {
		t.Run(c.name, func(t *testing.T) {
			inner := f.inside(t)
			c.run(inner)
			if err := l.HealAll(); err != nil {
				t.Error(err)
			}
			l.waitUntilCalm(inner.env)
			inner.waitReturned()
		})
	}
}

// inside returns the fleet for a test within the test.
func (f *fleet) inside(t *testing.T) *fleet {
	outer := f.env
	inner := *f
	inner.env = &env{T: t, lab: outer.lab, ctx: outer.ctx, namespace: outer.namespace, first: outer.first}
	t.Cleanup(func() { inner.removeCreated() })
	return &inner
}

// TestManyNodes is about a node that is cut where there are 30.
func TestManyNodes(t *testing.T) {
	const many = 30
	options := lab.DefaultOptions()
	options.Name = "e2emany"
	options.Nodes = many
	f := newFleet(newEnv(t, startLabWith(t, options)))
	f.testLost("node cut", f.lab.Cut)
}

// TestManyAddresses is about a node that is cut and owns 500 addresses.
func TestManyAddresses(t *testing.T) {
	options := lab.DefaultOptions()
	options.Name = "e2eaddresses"
	options.Nodes = nodes
	options.IPFamily = network.IPv4
	newCrowd(newEnv(t, startLabWith(t, options))).testCut()
}
