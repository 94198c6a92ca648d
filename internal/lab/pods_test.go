package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// withPods returns a lab that does not run, of whose two nodes the agents left
// the given records, by node and file name.
func withPods(t *testing.T, records map[string]string) *Cluster {
	t.Helper()
	c, err := newCluster(state{Options: Options{Name: "t0pods", Nodes: 2, IPFamily: network.Dual}})
	if err != nil {
		t.Fatal(err)
	}
	c.dir = folder(t.TempDir())
	for name, content := range records {
		path := c.dir.join("nodes", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

const (
	webRecord    = `{"namespace":"default","name":"web","netns":"berth-t0pods-node-1-pod-web","containers":[{"name":"c","image":"example.org/web:1","pid":1}]}`
	otherWeb     = `{"namespace":"other","name":"web","netns":"berth-t0pods-node-2-pod-web","containers":[]}`
	speakerOnTwo = `{"namespace":"berth-system","name":"speaker-x","hostNetwork":true,"containers":[{"name":"s","image":"speaker","pid":1}]}`
)

func TestFindPod(t *testing.T) {
	t.Parallel()
	c := withPods(t, map[string]string{
		"node-1/pods/default_web.json":            webRecord,
		"node-2/pods/other_web.json":              otherWeb,
		"node-2/pods/berth-system_speaker-x.json": speakerOnTwo,
		"node-2/pods/half.json.new":               "{", // the agent is just writing it
	})
	for name, test := range map[string]struct{ node, network string }{
		"default/web":            {"node-1", "berth-t0pods-node-1-pod-web"},
		"other/web":              {"node-2", "berth-t0pods-node-2-pod-web"},
		"speaker-x":              {"node-2", "berth-t0pods-node-2"},
		"berth-system/speaker-x": {"node-2", "berth-t0pods-node-2"},
	} {
		pod, err := c.findPod(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if pod.node != test.node || c.namespaceOf(pod) != test.network {
			t.Errorf("%s: on %s in %s, want %s in %s", name, pod.node, c.namespaceOf(pod), test.node, test.network)
		}
	}
	for name, want := range map[string]string{
		"web":         `pod "web" exists in several namespaces; write NAMESPACE/web`,
		"nope":        `host "nope" does not exist`,
		"default/x":   "no Pod of that name runs",
		"third/web":   "no Pod of that name runs",
		"default/web": "none of its containers runs",
	} {
		if _, err := c.place(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("place %s: error %v, want %q", name, err, want)
		}
	}
}

// The recorded id is that of a process which is no part of the lab, so it must be
// left alone.
func TestKillLeavesStrangersAlone(t *testing.T) {
	t.Parallel()
	c := withPods(t, map[string]string{"node-1/pods/default_web.json": webRecord})
	const harmless = syscall.Signal(0)
	if err := c.Kill("node-1", "web", harmless); !errors.Is(err, proc.ErrNotRunning) {
		t.Errorf("kill: error %v, want %v", err, proc.ErrNotRunning)
	}
	for want, err := range map[string]error{
		`no container with image "speaker" runs on node-1; it has web`: c.Kill("node-1", "speaker", harmless),
		`no container with image "web" runs on node-2; it has none`:    c.Kill("node-2", "web", harmless),
		`host "client" is not a node; the lab has node-1, node-2`:      c.Kill("client", "web", harmless),
		`host "node-3" does not exist`:                                 c.Kill("node-3", "web", harmless),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestBrokenRecordIsReported(t *testing.T) {
	t.Parallel()
	c := withPods(t, map[string]string{"node-1/pods/default_web.json": "{"})
	if _, err := c.findPod("web"); err == nil || !strings.Contains(err.Error(), "default_web.json") {
		t.Errorf("error %v does not name the file", err)
	}
}

func TestLastLines(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ content, want string }{
		"empty": {"", "\n  etcd.log is empty"},
		"short": {"one\n", "\n  last lines of etcd.log:\n    one"},
		"long":  {"one\ntwo\nthree\n", "\n  last lines of etcd.log:\n    two\n    three"},
	} {
		if got := lastLines("etcd.log", test.content, 2); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
