package routers

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
)

// bird is one daemon for everything.
type bird struct{ *Router }

const birdDaemon = "/usr/sbin/bird"

func (b bird) daemons(config Config) []daemon {
	args := []string{birdDaemon, "-f", "-c", b.file("bird.conf"), "-s", b.file("bird.ctl"), "-P", b.file("bird.pid")}
	if config.GracefulRestart == Restarter {
		args = append(args, "-R")
	}
	return []daemon{{name: "bird", program: birdDaemon, args: args, socket: b.file("bird.ctl")}}
}

func (b bird) prepare(config Config) error {
	content, err := birdConfig(config)
	if err != nil {
		return err
	}
	return os.WriteFile(b.file("bird.conf"), []byte(content), 0o600)
}

func (b bird) started(context.Context, Config) error { return nil }

// change lets BIRD itself find out what is different.
func (b bird) change(ctx context.Context, _, after Config) error {
	if err := b.prepare(after); err != nil {
		return err
	}
	answer, err := b.Console(ctx, "configure")
	if err != nil {
		return err
	}
	if !strings.Contains(string(answer), "Reconfigur") {
		return fmt.Errorf("BIRD refuses: %s", strings.TrimSpace(string(answer)))
	}
	return nil
}

func (b bird) birdc() []string { return []string{"/usr/sbin/birdc", "-s", b.file("bird.ctl")} }

func (b bird) console(commands []string) []string {
	return append(b.birdc(), strings.Join(commands, " "))
}

func (b bird) scripts() map[string]string { return map[string]string{"birdc": script(b.birdc())} }

// birdNotFound is what BIRD says of a prefix without a route, which it calls an
// error.
const birdNotFound = "Network not found"

// birdTable is the name of the table that a family's channels are connected to.
func birdTable(family Family) string {
	return "master" + strings.TrimPrefix(string(family), "ipv")
}

func (b bird) routes(ctx context.Context, family Family) (Table, error) {
	content, err := b.Console(ctx, fmt.Sprintf("show route all table %s where source = RTS_BGP", birdTable(family)))
	if err != nil {
		return nil, err
	}
	table, err := parseBirdTable(content)
	if err != nil {
		return nil, err
	}
	return table, b.markStale(ctx, table)
}

// markStale marks the paths of neighbors that restart.
func (b bird) markStale(ctx context.Context, table Table) error {
	sessions, err := b.sessions(ctx)
	if err != nil {
		return err
	}
	for _, session := range sessions {
		if !session.restarting {
			continue
		}
		for _, paths := range table {
			for i := range paths {
				if paths[i].Peer.WithZone("") == session.Neighbor.WithZone("") {
					paths[i].Stale = true
				}
			}
		}
	}
	return nil
}

func (b bird) route(ctx context.Context, prefix netip.Prefix) ([]Path, error) {
	content, err := b.Console(ctx, fmt.Sprintf("show route all %s table %s where source = RTS_BGP", prefix, birdTable(familyOf(prefix))))
	if err != nil && strings.Contains(err.Error(), birdNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	table, err := parseBirdTable(content)
	if err != nil {
		return nil, err
	}
	return table[prefix], b.markStale(ctx, table)
}

func (b bird) sessions(ctx context.Context) ([]Session, error) {
	content, err := b.Console(ctx, "show protocols all")
	if err != nil {
		return nil, err
	}
	return parseBirdSessions(content, time.Local)
}

func (b bird) bfdSessions(ctx context.Context) ([]BFDSession, error) {
	content, err := b.Console(ctx, "show bfd sessions")
	if err != nil {
		return nil, err
	}
	return parseBirdBFD(content)
}
