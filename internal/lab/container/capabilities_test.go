package container

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestChange(t *testing.T) {
	t.Parallel()
	const raw, admin, chown = CapabilitySet(1 << unix.CAP_NET_RAW), CapabilitySet(1 << unix.CAP_NET_ADMIN), CapabilitySet(1 << unix.CAP_CHOWN)
	tests := map[string]struct {
		from      CapabilitySet
		add, drop []string
		want      CapabilitySet
		problem   string
	}{
		"nothing":                  {from: raw, want: raw},
		"add":                      {from: raw, add: []string{"NET_ADMIN"}, want: raw | admin},
		"names in any form":        {from: raw, add: []string{"cap_net_admin"}, drop: []string{"CAP_NET_RAW"}, want: admin},
		"drop all, add one":        {from: DefaultCapabilities(), add: []string{"NET_RAW"}, drop: []string{"ALL"}, want: raw},
		"add all":                  {add: []string{"ALL"}, want: AllCapabilities()},
		"add all, drop one":        {add: []string{"all"}, drop: []string{"CHOWN"}, want: AllCapabilities() &^ chown},
		"add all, drop all":        {add: []string{"ALL"}, drop: []string{"ALL"}},
		"dropped wins over added":  {add: []string{"NET_RAW"}, drop: []string{"NET_RAW"}},
		"drop what is not there":   {from: raw, drop: []string{"CHOWN"}, want: raw},
		"unknown name to add":      {add: []string{"NET_ROW"}, problem: `capabilities.add: capability "NET_ROW" is unknown`},
		"unknown name to drop":     {drop: []string{""}, problem: `capabilities.drop: capability "" is unknown`},
		"numbers above 32 survive": {add: []string{"BPF"}, want: 1 << unix.CAP_BPF},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := test.from.Change(test.add, test.drop)
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Fatalf("error %v, want %q", err, test.problem)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %x, %v; want %x", got, err, test.want)
			}
		})
	}
}

func TestDefaultCapabilities(t *testing.T) {
	t.Parallel()
	// The number that /proc/PID/status shows in a container of containerd.
	if got := DefaultCapabilities(); got != 0xa80425fb {
		t.Errorf("got %x", got)
	}
}
