package lab

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// specsOf returns all background processes of a lab with two nodes.
func specsOf(t *testing.T, family network.Family) []proc.Spec {
	t.Helper()
	c, err := newCluster(state{Options: Options{Name: "t0specs", Nodes: 2, IPFamily: family, BinDir: "/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	c.dir = folder(t.TempDir())
	if err := os.Mkdir(c.dir.join("nodes"), 0o700); err != nil {
		t.Fatal(err)
	}
	specs := []proc.Spec{c.etcd(), c.apiServer(), c.controllerManager(), c.scheduler(), c.forwarder(nil)}
	for _, node := range c.plan.Nodes() {
		agent, err := c.nodeAgent(node)
		if err != nil {
			t.Fatal(err)
		}
		specs = append(specs, agent, c.kubeProxy(node))
	}
	return specs
}

func TestSpecsKeepToTheirFamily(t *testing.T) {
	t.Parallel()
	for family, test := range map[network.Family]struct{ has, lacks []string }{
		network.IPv4: {has: []string{"172.20.0.2:6443", "10.96.0.0/16", "10.244.0.0/16"}, lacks: []string{"fd00:"}},
		network.IPv6: {has: []string{"[fd00:172:20::2]:6443", "fd00:10:96::/112"}, lacks: []string{"172.20.", "10.96.", "10.244."}},
		network.Dual: {has: []string{"172.20.0.2:6443", "10.96.0.0/16,fd00:10:96::/112", "10.244.0.0/16,fd00:10:244::/48"}},
	} {
		var all []string
		for _, spec := range specsOf(t, family) {
			all = append(all, spec.Args...)
		}
		lines := strings.Join(all, "\n")
		for _, part := range test.has {
			if !strings.Contains(lines, part) {
				t.Errorf("%s: %s is missing in\n%s", family, part, lines)
			}
		}
		for _, part := range test.lacks {
			if strings.Contains(lines, part) {
				t.Errorf("%s: %s has no place in\n%s", family, part, lines)
			}
		}
	}
}

// Every process lives in a namespace by which Down finds it, and gets nothing
// from the environment of whoever starts it but where programs are.
func TestSpecsAreConfined(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, spec := range specsOf(t, network.Dual) {
		if spec.Namespace != "berth-t0specs-"+spec.Host {
			t.Errorf("%s runs in %s, want that of %s", spec.Name, spec.Namespace, spec.Host)
		}
		if names[spec.Name] {
			t.Errorf("%s exists twice", spec.Name)
		}
		names[spec.Name] = true
		if want := []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"}; !slices.Equal(spec.Env, want) {
			t.Errorf("%s has environment %q, want %q", spec.Name, spec.Env, want)
		}
	}
}
