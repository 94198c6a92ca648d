package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/berth-lb/berth/internal/lab/probe"
)

func TestMisuseIsExplained(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"nosuch":                          `unknown command "nosuch"`,
		"up now":                          `unknown command "now"`,
		"cut":                             "usage: lab cut HOST",
		"cut a b":                         "usage: lab cut HOST",
		"exec client":                     "usage: lab exec HOST -- COMMAND",
		"exec client --":                  "needs a command after the host",
		"kill node-1":                     "usage: lab kill NODE CONTAINER-IMAGE",
		"probe":                           "usage: lab probe URL",
		"router up":                       "usage: lab router up frr|bird",
		"router up frr --name a-b":        `"a-b" is not made of`,
		"up --name x --routers 3":         "routers: 3 is not 1 or 2",
		"--name a-b status":               `"a-b" is not made of`,
		"status --name a-b":               `"a-b" is not made of`,
		"kubectl --name a-b get pods":     `"a-b" is not made of`,
		"--name a-b kubectl get pods":     `"a-b" is not made of`,
		"down --name ../../etc":           "is not made of",
		"status -o yaml":                  "use text or json",
		"probe http://192.0.2.1 -o yaml":  "use text or json",
		"probe http://192.0.2.1 --for 0s": "--for: 0s is not",
		"hold http://192.0.2.1 --for 0s":  "--for: 0s is not",
		"partition":                       "name groups, such as",
		"partition a / b --end":           "name groups, such as",
		"heal":                            "name a host, or use --all",
		"heal node-1 --all":               "name a host, or use --all",
		"squat node-1":                    "squat: ParseAddr",
		"up --name x --nodes 0":           "berth: needs at least one node",
		"up --name x --ip-family ipx":     `ip family: "ipx" is unknown`,
		"up --name x --nodes=1000":        "nodes: 1000 is not between",
		"up --name x --image web=/absent": "image web: /absent does not exist",
	} {
		root := newRootCommand()
		root.SetArgs(strings.Fields(line))
		root.SetOut(io.Discard)
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("lab %s: error %v, want %q", line, err, want)
		}
	}
}

func TestHelpListsEveryCommandForPeople(t *testing.T) {
	t.Parallel()
	root := newRootCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(nil)
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range root.Commands() {
		if listed := strings.Contains(out.String(), "\n  "+cmd.Name()+" "); listed == cmd.Hidden {
			t.Errorf("%s: hidden %t, listed %t", cmd.Name(), cmd.Hidden, listed)
		}
	}
}

func TestTakeName(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		name string
		rest []string
	}{
		{nil, "lab", nil},
		{[]string{"get", "pods"}, "lab", []string{"get", "pods"}},
		{[]string{"--name", "v6", "get", "pods"}, "v6", []string{"get", "pods"}},
		{[]string{"--name=v6", "get", "pods"}, "v6", []string{"get", "pods"}},
		{[]string{"create", "deployment", "--name=x"}, "lab", []string{"create", "deployment", "--name=x"}},
	} {
		flags := &globalFlags{name: "lab"}
		rest, err := takeName(flags, test.args)
		if err != nil || flags.name != test.name || !slices.Equal(rest, test.rest) {
			t.Errorf("%q: name %s, rest %q, error %v; want %s, %q", test.args, flags.name, rest, err, test.name, test.rest)
		}
	}
	if _, err := takeName(&globalFlags{}, []string{"--name"}); err == nil {
		t.Error("--name without a value: accepted")
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]int{"exit 7": 7, "kill -TERM $$": 128 + 15} {
		var status exitStatusError
		if err := exitStatus(exec.Command("sh", "-c", script).Run()); !errors.As(err, &status) || int(status) != want {
			t.Errorf("%s: error %v, want status %d", script, err, want)
		}
	}
	if err := exitStatus(nil); err != nil {
		t.Errorf("success: error %v", err)
	}
}

// greeting is a result in two forms.
type greeting struct {
	Text string `json:"text"`
}

func (g greeting) WriteText(w io.Writer) error {
	_, err := fmt.Fprintln(w, g.Text)
	return err
}

func TestOutputFormats(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{"text": "hello\n", "json": "{\n  \"text\": \"hello\"\n}\n"} {
		var output outputFlag
		if err := output.Set(format); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := output.write(&out, greeting{"hello"}); err != nil || out.String() != want {
			t.Errorf("%s: %q, error %v; want %q", format, out.String(), err, want)
		}
	}
}

func TestProbeStatus(t *testing.T) {
	t.Parallel()
	for report, want := range map[*probe.Report]int{{Sent: 9, Failed: 9}: 1, {Sent: 9, OK: 1, Failed: 8}: 0, {Sent: 9, OK: 9}: 0} {
		var status exitStatusError
		if errors.As(probeStatus(*report), &status); int(status) != want {
			t.Errorf("%d of %d succeeded: status %d, want %d", report.OK, report.Sent, status, want)
		}
	}
}

func TestNothingToRemove(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		names, existing []string
		want            string
	}{
		{[]string{"a"}, nil, "there is no lab"},
		{nil, nil, "there is no lab"},
		{[]string{"a"}, []string{"b", "c"}, "lab a does not exist; those that do: b, c"},
		{[]string{"b"}, []string{"b", "c"}, ""},
		{[]string{"b", "c"}, []string{"b", "c"}, ""},
	} {
		if got := nothingToRemove(test.names, test.existing); !strings.HasSuffix(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("remove %v of %v: %q, want %q", test.names, test.existing, got, test.want)
		}
	}
}
