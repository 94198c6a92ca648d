package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/berth-lb/berth/api/v1beta1"
)

var (
	age    = regexp.MustCompile(`\b([0-9]+[smhd])+\b`)
	spaces = regexp.MustCompile(` {2,}`)
)

// testReports: what each command that shows something says of a cluster with one
// Service is what its golden file has, but for what differs between runs.
func testReports(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	e.createAdvertisement(e.namespace, v1beta1.L2AdvertisementSpec{
		IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}, NodeSelectors: onNode("node-1"),
	})
	e.createDeployment(deployment{app: "web", replicas: 1, nodes: []string{"node-2"}})
	e.createService("web")
	addresses := e.waitAnnounced("web")
	for _, args := range [][]string{
		{"status"}, {"pools"}, {"services"}, {"nodes"}, {"peers"}, {"routes"}, {"explain", "svc/web"}, {"explain", "ip/" + addresses[0].String()},
	} {
		e.expectReport(args)
	}
}

// expectReport waits until a command says what its golden file has.
func (e *env) expectReport(args []string) {
	e.Helper()
	kind, _, _ := strings.Cut(strings.Join(args, "-"), "/")
	path := filepath.Join("testdata", "reports", kind+".txt")
	want, err := os.ReadFile(path)
	if err != nil && !*updateFlag {
		e.Fatal(err)
	}
	var before string
	e.waitFor("kubectl berth "+kind+" to say what it should", explainLimit, func(context.Context) (bool, string) {
		e.pause(lookAgain, "each look costs half a second of a processor")
		out, status := e.plugin(append(args, "-n", e.namespace, "-o", "wide")...)
		text := spaces.ReplaceAllString(age.ReplaceAllString(e.stable(out), "AGE"), "  ")
		same := text == string(want) || *updateFlag && text == before
		before = text
		return status == 0 && same, fmt.Sprintf("exit status %d:\n%s\nwant\n%s", status, text, want)
	})
	if *updateFlag {
		if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
			e.Fatal(err)
		}
	}
}
