package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// NewRouter prepares a routing daemon for a host, which need not be a router of
// the plan, in place of one that does not run. The caller configures and starts it.
func (c *Cluster) NewRouter(kind routers.Kind, host string) (*routers.Router, error) {
	site, err := c.routerSite(host)
	if err != nil {
		return nil, err
	}
	return routers.New(kind, site)
}

// Router returns what NewRouter has prepared for a host, also in another process.
func (c *Cluster) Router(host string) (*routers.Router, error) {
	site, err := c.routerSite(host)
	if err != nil {
		return nil, err
	}
	return routers.Open(site)
}

func (c *Cluster) routerSite(name string) (routers.Site, error) {
	if _, err := c.plan.Host(name); err != nil {
		return routers.Site{}, err
	}
	return routers.Site{
		Host: name, Namespace: c.net.Namespace(name),
		Folder: c.routerFolder(name), Processes: c.dir.processes(),
	}, nil
}

func (c *Cluster) routerFolder(host string) string { return c.dir.join("routers", host) }

// offerConsoles puts the programs that talk to a host's router in front of
// others of their name.
func (c *Cluster) offerConsoles(host string, cmd *exec.Cmd) {
	folder := filepath.Join(c.routerFolder(host), "bin")
	if _, err := os.Stat(folder); err != nil {
		return
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "PATH="+folder+":"+os.Getenv("PATH"))
	program := filepath.Join(folder, cmd.Args[0])
	if _, err := os.Stat(program); err == nil && !strings.Contains(cmd.Args[0], "/") {
		cmd.Args[0], cmd.Path, cmd.Err = program, program, nil
	}
}

// RouterOptions say what StartRouter starts.
type RouterOptions struct {
	Kind routers.Kind
	Host string
	ASN  uint32
	// Password that nodes have to use, if any.
	Password string
	// BFD, if set, watches the sessions.
	BFD *routers.BFD
}

// StartRouter starts a router that takes every node for a neighbor, whatever its
// ASN, as soon as the node connects. It replaces the host's former one.
func (c *Cluster) StartRouter(ctx context.Context, options RouterOptions) (*routers.Router, error) {
	host, err := c.plan.Host(options.Host)
	if err != nil {
		return nil, err
	}
	if !host.IsRouter() {
		return nil, fmt.Errorf("router: host %s joins no networks", host.Name)
	}
	if !slices.Contains(routers.Kinds(), options.Kind) {
		return nil, fmt.Errorf("router: kind %q is unknown; use frr or bird", options.Kind)
	}
	if old, err := c.Router(options.Host); err == nil {
		if err := old.Stop(ctx); err != nil {
			return nil, err
		}
	}
	router, err := c.NewRouter(options.Kind, options.Host)
	if err != nil {
		return nil, err
	}
	config := routers.Config{ASN: options.ASN, RouterID: host.IPs()[0]}
	for i, prefix := range c.plan.Ethernet {
		config.Neighbors = append(config.Neighbors, routers.Neighbor{
			Name: fmt.Sprintf("nodes%d", i), Range: prefix, Password: options.Password, BFD: options.BFD,
		})
	}
	if err := router.Configure(ctx, config); err != nil {
		return nil, err
	}
	return router, router.Start(ctx)
}

// RouterStatus is how a host's router is.
type RouterStatus struct {
	Host string       `json:"host"`
	Kind routers.Kind `json:"kind,omitempty"`
	ASN  uint32       `json:"asn,omitempty"`
	// Running is false for a router that was stopped, or never started.
	Running  bool                 `json:"running"`
	Sessions []routers.Session    `json:"sessions,omitempty"`
	BFD      []routers.BFDSession `json:"bfd,omitempty"`
	Tables   []RouterTable        `json:"tables,omitempty"`
}

// RouterTable has the routes of a family that a router was told.
type RouterTable struct {
	Family routers.Family `json:"family"`
	Routes routers.Table  `json:"routes"`
}

// RouterStatuses are those of all of a lab's routers.
type RouterStatuses []RouterStatus

// RouterStatuses finds out how the lab's routers are.
func (c *Cluster) RouterStatuses(ctx context.Context) (RouterStatuses, error) {
	var all RouterStatuses
	for _, host := range c.plan.Routers() {
		status, err := c.routerStatus(ctx, host)
		if err != nil {
			return nil, err
		}
		all = append(all, status)
	}
	return all, nil
}

func (c *Cluster) routerStatus(ctx context.Context, host network.Host) (RouterStatus, error) {
	router, err := c.Router(host.Name)
	if errors.Is(err, routers.ErrNone) {
		return RouterStatus{Host: host.Name}, nil
	}
	if err != nil {
		return RouterStatus{}, err
	}
	status := RouterStatus{Host: host.Name, Kind: router.Kind(), ASN: router.Config().ASN, Running: router.Running()}
	if !status.Running {
		return status, nil
	}
	if status.Sessions, err = router.Sessions(ctx); err != nil {
		return RouterStatus{}, err
	}
	if status.BFD, err = router.BFDSessions(ctx); err != nil {
		return RouterStatus{}, err
	}
	for _, family := range routers.Families() {
		table, err := router.Routes(ctx, family)
		if err != nil {
			return RouterStatus{}, err
		}
		status.Tables = append(status.Tables, RouterTable{Family: family, Routes: table.Received()})
	}
	return status, nil
}

// WriteText writes the statuses for people.
func (all RouterStatuses) WriteText(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cells ...any) {
		_, _ = fmt.Fprintln(table, strings.TrimRight(fmt.Sprintf(strings.Repeat("%v\t", len(cells)), cells...), "\t"))
	}
	for i, status := range all {
		if i > 0 {
			line()
		}
		if !status.Running {
			line(status.Host, "no routing daemon runs; start one with `lab router up`")
			continue
		}
		line(status.Host, status.Kind, fmt.Sprintf("AS %d", status.ASN))
		line("NEIGHBOR", "ASN", "STATE", "SINCE", "BFD", "PREFIXES", "LAST ERROR")
		for _, s := range status.Sessions {
			since := ""
			if s.Up() {
				since = time.Since(s.Since).Truncate(time.Second).String()
			}
			prefixes := fmt.Sprintf("%d+%d", s.Prefixes[routers.IPv4], s.Prefixes[routers.IPv6])
			line(s.Neighbor, s.ASN, s.State, since, status.bfdOf(s), prefixes, s.LastError)
		}
		line("PREFIX", "NEXT HOP", "AS PATH", "PREF", "MED", "COMMUNITIES")
		for _, known := range status.Tables {
			for _, prefix := range known.Routes.Prefixes() {
				for _, path := range known.Routes[prefix] {
					line(prefix, nextHopText(path), fmt.Sprint(path.ASPath), numberText(path.LocalPref), numberText(path.MED), communitiesText(path))
				}
			}
		}
	}
	return table.Flush()
}

func (s RouterStatus) bfdOf(session routers.Session) string {
	for _, bfd := range s.BFD {
		if bfd.Neighbor == session.Neighbor {
			return bfd.State
		}
	}
	return ""
}

func numberText(number *uint32) string {
	if number == nil {
		return "-"
	}
	return fmt.Sprint(*number)
}

func nextHopText(path routers.Path) string {
	if len(path.NextHops) == 0 {
		return "-"
	}
	return path.NextHops[0].String()
}

func communitiesText(path routers.Path) string {
	var texts []string
	for _, community := range path.Communities {
		texts = append(texts, community.String())
	}
	for _, community := range path.LargeCommunities {
		texts = append(texts, community.String())
	}
	return strings.Join(texts, " ")
}
