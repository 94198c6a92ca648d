package e2e

import (
	"testing"

	"github.com/berth-lb/berth/internal/lab"
)

// TestExplain breaks things in all the ways that users do, and has the plugin name
// what is wrong and what to do about it. What it says of each is in
// testdata/explain.
func TestExplain(t *testing.T) {
	options := lab.DefaultOptions()
	options.Name = "e2eexplain"
	options.Nodes = nodes
	l := startLabWith(t, options)
	x := &explained{testLab: l}
	root := newEnv(t, l)
	root.createDeployment(deployment{app: "behind", replicas: 1, nodes: []string{"node-1"}})
	x.pod = &root.pods("behind")[0]

	x.alone(t, x.noPool())
	t.Run("Actions", func(t *testing.T) { x.testActions(newEnv(t, l)) })
	x.benches = startBenches(root)
	x.sideBySide(t)
	x.drainedNode(t)
	x.excludedNodes(t)
	x.sickNode(t)
	x.alone(t, x.noController())
	x.expectAllGoldens(t)
}
