package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// program is a process of Berth as its image and its manifest make it.
type program struct {
	// root is what there is in its root folder.
	root string
	// status are lines of /proc/PID/status.
	uid, capabilities, noNewPrivileges, seccomp string
}

// programs are those of Berth that run in the lab, by executable.
func (l *testLab) programs() (map[string][]program, error) {
	names, err := netns.List("berth-" + l.Name() + "-")
	if err != nil {
		return nil, err
	}
	pids, err := netns.Processes(names...)
	if err != nil {
		return nil, err
	}
	all := map[string][]program{}
	for _, pid := range pids {
		folder := fmt.Sprintf("/proc/%d", pid)
		executable, err := os.Readlink(filepath.Join(folder, "exe"))
		if err != nil || (executable != "/controller" && executable != "/speaker") {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(folder, "root"))
		if err != nil {
			return nil, err
		}
		var root []string
		for _, entry := range entries {
			root = append(root, entry.Name())
		}
		status, err := os.ReadFile(filepath.Join(folder, "status"))
		if err != nil {
			return nil, err
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(line, ":")
			fields[key] = strings.Join(strings.Fields(value), " ")
		}
		all[executable] = append(all[executable], program{
			root: strings.Join(root, " "), uid: fields["Uid"], capabilities: fields["CapEff"] + " of " + fields["CapBnd"],
			noNewPrivileges: fields["NoNewPrivs"], seccomp: fields["Seccomp"],
		})
	}
	return all, nil
}

// checkImages makes sure that all of Berth runs from its images: it sees a binary, an
// SBOM and what a container runtime mounts, and is who the manifest says.
func (e *env) checkImages(controllers int) {
	e.Helper()
	want := map[string][]program{
		"/controller": slices.Repeat([]program{{
			root: "controller dev etc proc sbom.spdx.json sys var", uid: "65532 65532 65532 65532",
			capabilities: noCapabilities + " of " + noCapabilities, noNewPrivileges: "1", seccomp: "2",
		}}, controllers),
		"/speaker": slices.Repeat([]program{{
			root: "dev etc proc sbom.spdx.json speaker sys var", uid: "0 0 0 0",
			capabilities: netRawAndBind + " of " + netRawAndBind, noNewPrivileges: "1", seccomp: "2",
		}}, nodesOf(e.lab)),
	}
	e.waitFor("Berth to run from its images", 10*time.Second, func(context.Context) (bool, string) {
		all, err := e.lab.programs()
		if err != nil {
			return false, err.Error()
		}
		return fmt.Sprint(all) == fmt.Sprint(want), fmt.Sprintf("%+v, want %+v", all, want)
	})
}
