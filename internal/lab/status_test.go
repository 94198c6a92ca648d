package lab

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/proc"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// sampleStatus is that of a lab in which something of everything is wrong.
func sampleStatus(t *testing.T) Status {
	t.Helper()
	c, err := newCluster(state{Options: Options{Name: "demo", Nodes: 2, IPFamily: network.Dual}, APIPort: 40123, Ready: true})
	if err != nil {
		t.Fatal(err)
	}
	status := c.baseStatus()
	status.Partition = network.PartitionText([][]string{{"node-1"}, {"node-2", "client"}})
	cables := map[string]network.LinkState{"node-1": network.Cut, "client": network.Silent}
	for _, host := range c.plan.Hosts {
		cable := network.Connected
		if state, broken := cables[host.Name]; broken {
			cable = state
		}
		status.Hosts = append(status.Hosts, HostStatus{
			Host:       host,
			Namespace:  c.net.Namespace(host.Name),
			Cable:      cable,
			Kubernetes: inKubernetes(host, map[string]string{"node-1": "NotReady"}, false),
		})
	}
	status.Processes = []ProcessStatus{
		{Record: proc.Record{Name: "etcd", Host: network.ControlPlane, PID: 101, StartTime: 7}, State: Running, Log: c.Log("etcd")},
		{Record: proc.Record{Name: APIServer, Host: network.ControlPlane, PID: 102, StartTime: 8}, State: Frozen, Log: c.Log(APIServer)},
		{Record: proc.Record{Name: "agent@node-1", Host: "node-1", PID: 103, StartTime: 9}, State: Gone, Log: c.Log("agent@node-1")},
	}
	return status
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs; if that is right, run go test with -update (-want +got):\n%s", path, diff)
	}
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := sampleStatus(t).WriteText(&out); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "status.txt", out.Bytes())
}

func TestStatusJSON(t *testing.T) {
	t.Parallel()
	content, err := json.MarshalIndent(sampleStatus(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "status.json", append(content, '\n'))
}

func TestStatusSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Status)
		want   string
	}{
		"ready":      {func(*Status) {}, "demo, ready"},
		"starting":   {func(s *Status) { s.Ready = false }, "demo, starting"},
		"api is off": {func(s *Status) { s.API = "API server does not answer: timeout" }, "demo, API server does not answer: timeout"},
	} {
		status := sampleStatus(t)
		test.change(&status)
		var out bytes.Buffer
		if err := status.WriteText(&out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(out.Bytes(), []byte(test.want)) {
			t.Errorf("%s: status does not say %q:\n%s", name, test.want, out.Bytes())
		}
	}
}
