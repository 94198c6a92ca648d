package routers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/lab/netns"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// stage is a network with routers in it, of which nothing is left when the test
// ends.
type stage struct {
	*testing.T
	net    network.Network
	plan   network.Plan
	folder string
}

func newStage(t *testing.T, routers int) *stage {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	plan, err := network.NewPlan(0, network.Dual)
	if err != nil {
		t.Fatal(err)
	}
	if routers > 1 {
		plan = plan.WithSecondRouter()
	}
	folder, err := os.MkdirTemp("", "rtr") // short, as the paths of sockets have to be
	if err != nil {
		t.Fatal(err)
	}
	prefix := "rtr" + filepath.Base(folder) + "-"
	s := &stage{T: t, net: network.New(plan, prefix), plan: plan, folder: folder}
	t.Cleanup(func() { s.clean(prefix) })
	for _, name := range []string{"records", "logs"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.net.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// clean kills by the network that processes live in, as `lab down` does.
func (s *stage) clean(prefix string) {
	names, err := netns.List(prefix)
	if err != nil {
		s.Error(err)
	}
	pids, err := netns.Processes(names...)
	if err != nil {
		s.Error(err)
	}
	for _, pid := range pids {
		if process, err := os.FindProcess(pid); err == nil {
			_ = process.Kill() // it may just have ended
		}
	}
	for _, name := range names {
		if err := netns.Delete(name); err != nil {
			s.Error(err)
		}
	}
	if err := os.RemoveAll(s.folder); err != nil {
		s.Error(err)
	}
}

func (s *stage) site(host string) Site {
	return Site{
		Host: host, Namespace: s.net.Namespace(host), Folder: filepath.Join(s.folder, host),
		Processes: proc.Folders{Records: filepath.Join(s.folder, "records"), Logs: filepath.Join(s.folder, "logs")},
	}
}

func (s *stage) start(kind Kind, host string, config Config) *Router {
	s.Helper()
	r, err := New(kind, s.site(host))
	if err != nil {
		s.Fatal(err)
	}
	s.configure(r, config)
	if err := r.Start(s.Context()); err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *stage) configure(r *Router, config Config) {
	s.Helper()
	if err := r.Configure(s.Context(), config); err != nil {
		s.Fatal(err)
	}
}

func (s *stage) ips(host string) (v4, v6 netip.Addr) {
	s.Helper()
	h, err := s.plan.Host(host)
	if err != nil {
		s.Fatal(err)
	}
	return h.IPs()[0], h.IPs()[1]
}

// await returns when check finds nothing missing.
func (s *stage) await(what string, check func() string) {
	s.Helper()
	const limit = 40 * time.Second
	for deadline := time.Now().Add(limit); ; {
		missing := check()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("waited %s for %s: %s", limit, what, missing)
		}
		time.Sleep(50 * time.Millisecond) // between two looks, not for luck
	}
}

func (s *stage) session(r *Router, neighbor netip.Addr) Session {
	s.Helper()
	session, err := r.Session(s.Context(), neighbor)
	if err != nil {
		s.Fatal(err)
	}
	return session
}

func (s *stage) awaitUp(r *Router, neighbors ...netip.Addr) {
	s.Helper()
	for _, neighbor := range neighbors {
		s.await(fmt.Sprintf("the session of %s with %s", r.Host(), neighbor), func() string {
			if session := s.session(r, neighbor); !session.Up() {
				return fmt.Sprintf("%+v", session)
			}
			return ""
		})
	}
}

// awaitRoute waits for the paths to a prefix to be exactly those wanted.
func (s *stage) awaitRoute(r *Router, prefix netip.Prefix, want ...Path) {
	s.Helper()
	s.await(fmt.Sprintf("%s on %s", prefix, r.Host()), func() string {
		paths, err := r.Route(s.Context(), prefix)
		if err != nil {
			s.Fatal(err)
		}
		for i := range paths {
			paths[i].Best = false // either may be
		}
		if len(paths) != len(want) || len(want) > 0 && !reflect.DeepEqual(paths, want) {
			return fmt.Sprintf("\ngot  %s\nwant %s", describe(paths), describe(want))
		}
		return ""
	})
}

func describe(paths []Path) string {
	var all []string
	for _, p := range paths {
		text := fmt.Sprintf("%+v", p)
		for _, pointer := range []*uint32{p.MED, p.LocalPref} {
			if pointer != nil {
				text += fmt.Sprintf(" (%p is %d)", pointer, *pointer)
			}
		}
		all = append(all, text)
	}
	return strings.Join(all, "\n     ")
}

func (s *stage) awaitKernel(r *Router, prefix netip.Prefix, hops int) {
	s.Helper()
	s.await(fmt.Sprintf("%d next hops to %s in the kernel of %s", hops, prefix, r.Host()), func() string {
		found, err := r.KernelRoute(prefix)
		if err != nil {
			s.Fatal(err)
		}
		if len(found) != hops {
			return fmt.Sprint(found)
		}
		return ""
	})
}

func number(n uint32) *uint32 { return &n }

var (
	shared4 = netip.MustParsePrefix("198.51.100.0/24")
	shared6 = netip.MustParsePrefix("2001:db8:100::/64")
)

// attributes are the same for all that announce the shared prefixes.
func attributes() Attributes {
	return Attributes{
		MED:              number(42),
		Communities:      []Community{NewCommunity(65000, 100), NoPeer},
		LargeCommunities: []LargeCommunity{{65000, 1, 2}, {4200000000, 3, 4}},
		Prepend:          2,
	}
}

const (
	centerASN = 64512
	leafASN   = 4200000001 // of four octets (RFC 6793)
	another   = "anothersecret"
)

func rangeOf(name, prefix string) Neighbor {
	return Neighbor{
		Name: name, Range: netip.MustParsePrefix(prefix), ASN: leafASN, Password: "secret",
		BFD: &BFD{Receive: 100 * time.Millisecond, Transmit: 100 * time.Millisecond},
	}
}

// leaf is the configuration of a router that peers with the one at the center
// over both families.
func (s *stage) leaf(host, center string) Config {
	s.Helper()
	own, _ := s.ips(host)
	v4, v6 := s.ips(center)
	neighbor := Neighbor{
		Name: "center4", Address: v4, ASN: centerASN, Password: "secret", Families: []Family{IPv4},
		Hold: 9 * time.Second, BFD: &BFD{Receive: 100 * time.Millisecond, Transmit: 100 * time.Millisecond},
	}
	over6 := neighbor
	over6.Name, over6.Address, over6.Families = "center6", v6, []Family{IPv6}
	return Config{
		ASN: leafASN, RouterID: own, Neighbors: []Neighbor{neighbor, over6},
		Announce: []Announcement{{shared4, attributes()}, {shared6, attributes()}},
	}
}

// TestKindsUnderstandEachOther has two routers of one kind announce to one of the
// other, over IPv4 and IPv6, with all attributes, passwords and BFD.
func TestKindsUnderstandEachOther(t *testing.T) {
	t.Parallel()
	for center, leaves := range map[Kind]Kind{FRR: BIRD, BIRD: FRR} {
		t.Run(string(center)+" at the center", func(t *testing.T) {
			t.Parallel()
			s := newStage(t, 2)
			r := s.start(center, network.Router, s.centerConfig())
			var hosts []netip.Addr
			for _, host := range []string{network.Router2, network.ControlPlane} {
				s.start(leaves, host, s.leaf(host, network.Router))
				v4, v6 := s.ips(host)
				hosts = append(hosts, v4, v6)
			}
			s.awaitUp(r, hosts...)
			s.checkSessions(r, hosts)
			s.checkAttributes(r, hosts)
			s.awaitKernel(r, shared4, 2)
			s.awaitKernel(r, shared6, 2)
			s.await("BFD with all", func() string { return s.bfdMissing(r, hosts) })
			s.checkScripts(r)
			s.checkStopAndKill(r, hosts)
		})
	}
}

func (s *stage) centerConfig() Config {
	v4, _ := s.ips(network.Router)
	return Config{
		ASN: centerASN, RouterID: v4,
		Neighbors: []Neighbor{rangeOf("leaves4", "172.20.0.0/16"), rangeOf("leaves6", "fd00:172:20::/64")},
	}
}

// checkSessions looks at what the center says about its sessions.
func (s *stage) checkSessions(r *Router, hosts []netip.Addr) {
	s.Helper()
	sessions, err := r.Sessions(s.Context())
	if err != nil || len(sessions) != len(hosts) {
		s.Fatalf("sessions %+v, error %v", sessions, err)
	}
	for _, session := range sessions {
		family, prefix := IPv4, shared4
		if session.Neighbor.Is6() {
			family, prefix = IPv6, shared6
		}
		s.await("routes from "+session.Neighbor.String(), func() string {
			if n := s.session(r, session.Neighbor).Prefixes[family]; n != 1 {
				return fmt.Sprintf("%d prefixes instead of %s", n, prefix)
			}
			return ""
		})
		if session.ASN != leafASN || !session.RouterID.Is4() || session.Hold != 9*time.Second ||
			!reflect.DeepEqual(session.Families, []Family{family}) || time.Since(session.Since).Abs() > time.Minute {
			s.Errorf("session %+v", session)
		}
	}
}

func (s *stage) checkAttributes(r *Router, hosts []netip.Addr) {
	s.Helper()
	for prefix, is6 := range map[netip.Prefix]bool{shared4: false, shared6: true} {
		var want []Path
		for _, host := range hosts {
			if host.Is6() == is6 {
				a := attributes()
				want = append(want, Path{
					Peer: host, NextHops: []netip.Addr{host}, ASPath: []uint32{leafASN, leafASN, leafASN}, Origin: "IGP",
					MED: a.MED, Communities: a.Communities, LargeCommunities: a.LargeCommunities,
				})
				if r.Kind() == BIRD {
					want[len(want)-1].LocalPref = number(100) // which it gives to all
				}
			}
		}
		byPeer := Table{prefix: want}.sort()[prefix]
		if is6 {
			s.addLinkLocal(r, prefix, byPeer)
		}
		s.awaitRoute(r, prefix, byPeer...)
		table, err := r.Routes(s.Context(), familyOf(prefix))
		if err != nil || len(table.Received()) != 1 || len(table[prefix]) != 2 {
			s.Errorf("table %v, error %v", table, err)
		}
	}
}

// addLinkLocal completes the wanted next hops with the second ones, which are
// chosen by the kernel and so not known beforehand.
func (s *stage) addLinkLocal(r *Router, prefix netip.Prefix, want []Path) {
	s.Helper()
	s.await("two paths to "+prefix.String(), func() string {
		paths, err := r.Route(s.Context(), prefix)
		if err != nil {
			s.Fatal(err)
		}
		if len(paths) != len(want) {
			return describe(paths)
		}
		for i, path := range paths {
			if len(path.NextHops) == 2 && path.NextHops[1].IsLinkLocalUnicast() {
				want[i].NextHops = []netip.Addr{want[i].NextHops[0], path.NextHops[1]}
			}
		}
		return ""
	})
}

func (s *stage) bfdMissing(r *Router, hosts []netip.Addr) string {
	s.Helper()
	sessions, err := r.BFDSessions(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	up := 0
	for _, session := range sessions {
		if session.Up() && session.Interval == 100*time.Millisecond && session.Detection == 300*time.Millisecond && session.Interface == "eth0" {
			up++
		}
	}
	if up != len(hosts) || len(sessions) != up {
		return fmt.Sprintf("%+v", sessions)
	}
	return ""
}

// checkScripts runs the programs that people use.
func (s *stage) checkScripts(r *Router) {
	s.Helper()
	argv := map[Kind][]string{FRR: {"vtysh", "-c", "show bgp summary"}, BIRD: {"birdc", "show", "protocols"}}[r.Kind()]
	out, err := exec.CommandContext(s.Context(), filepath.Join(s.folder, r.Host(), "bin", argv[0]), argv[1:]...).CombinedOutput()
	if v4, _ := s.ips(network.Router2); err != nil || r.Kind() == FRR && !strings.Contains(string(out), v4.String()) ||
		r.Kind() == BIRD && !strings.Contains(string(out), "leaves4") {
		s.Errorf("%v: %v: %s", argv, err, out)
	}
	if _, err := r.Console(s.Context(), "show nonsense"); err == nil {
		s.Error("nonsense was accepted")
	}
}

func (s *stage) checkStopAndKill(r *Router, hosts []netip.Addr) {
	s.Helper()
	reopened, err := Open(s.site(r.Host()))
	if err != nil || !reopened.Running() || !reflect.DeepEqual(reopened.Config(), r.Config()) {
		s.Fatalf("opened again: %+v, error %v", reopened, err)
	}
	if _, err := New(r.Kind(), s.site(r.Host())); err == nil {
		s.Error("a running router was replaced")
	}
	if err := reopened.Kill(s.Context()); err != nil || r.Running() {
		s.Errorf("kill: error %v, running %t", err, r.Running())
	}
	if n, err := r.KernelRoutes(); err != nil || n == 0 {
		s.Errorf("%d routes are left in the kernel after a kill, error %v", n, err)
	}
	if err := r.Start(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.awaitUp(r, hosts...)
	s.awaitKernel(r, shared4, 2)
	if err := r.Stop(s.Context()); err != nil {
		s.Fatal(err)
	}
	if n, err := r.KernelRoutes(); err != nil || n != 0 {
		s.Errorf("%d routes are left in the kernel after a stop, error %v", n, err)
	}
	pids, err := netns.Processes(s.net.Namespace(r.Host()))
	if err != nil || len(pids) != 0 {
		s.Errorf("processes %v are left, error %v", pids, err)
	}
}

// TestChangesTouchOnlyWhatTheyConcern changes one neighbor, and what is
// announced, while another session goes on.
func TestChangesTouchOnlyWhatTheyConcern(t *testing.T) {
	t.Parallel()
	for kind, other := range map[Kind]Kind{FRR: BIRD, BIRD: FRR} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newStage(t, 2)
			center := s.start(other, network.Router, s.centerConfig())
			config := s.leaf(network.Router2, network.Router)
			r := s.start(kind, network.Router2, config)
			v4, v6 := s.ips(network.Router)
			s.awaitUp(r, v4, v6)
			before := s.session(r, v4)

			config = r.Config()
			config.Neighbors[1].Password = another
			config.Announce = config.Announce[:1]
			config.Announce[0].MED = number(7)
			s.configure(r, config)
			s.await("another MED", func() string {
				paths, err := center.Route(s.Context(), shared4)
				if err != nil {
					s.Fatal(err)
				}
				if len(paths) != 1 || paths[0].MED == nil || *paths[0].MED != 7 {
					return describe(paths)
				}
				return ""
			})
			s.awaitRoute(center, shared6)
			if kind == BIRD || other == BIRD {
				// A session goes on under the password that it began with in BIRD; a new one
				// has to use the new one.
				if _, err := r.Console(s.Context(), map[Kind]string{FRR: "clear bgp " + v6.String(), BIRD: "restart to_center6"}[kind]); err != nil {
					s.Fatal(err)
				}
			}
			s.await("the wrong password to be refused", func() string {
				if session := s.session(r, v6); session.Up() {
					return fmt.Sprintf("%+v", session)
				}
				return ""
			})
			config.Neighbors[1].Password = "secret"
			s.configure(r, config)
			s.awaitUp(r, v6)
			if after := s.session(r, v4); !after.SameAs(before) {
				s.Errorf("the session was %+v, is now %+v", before, after)
			}

			config.Neighbors = config.Neighbors[:1]
			s.configure(r, config)
			s.await("one session less", func() string {
				sessions, err := r.Sessions(s.Context())
				if err != nil {
					s.Fatal(err)
				}
				if len(sessions) != 1 {
					return fmt.Sprintf("%+v", sessions)
				}
				return ""
			})
			if after := s.session(r, v4); !after.SameAs(before) {
				s.Errorf("the session was %+v, is now %+v", before, after)
			}
		})
	}
}

// tableSize is how many routes a full table has. A real one is larger than what
// tests need.
func tableSize(t *testing.T) int {
	t.Helper()
	const few = 5000
	text := os.Getenv("BERTH_FULL_TABLE")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFullTable(t *testing.T) {
	t.Parallel()
	for kind, other := range map[Kind]Kind{FRR: BIRD, BIRD: FRR} {
		t.Run("from "+string(kind), func(t *testing.T) {
			t.Parallel()
			s := newStage(t, 2)
			center := s.start(other, network.Router, s.centerConfig())
			v4, _ := s.ips(network.Router2)
			config := s.leaf(network.Router2, network.Router)
			r := s.start(kind, network.Router2, config)
			s.awaitUp(center, v4)
			n := tableSize(t)
			config.Announce = FullTable(n)
			began := time.Now()
			ctx, cancel := context.WithTimeout(s.Context(), 2*time.Minute)
			defer cancel()
			if err := r.Configure(ctx, config); err != nil {
				t.Fatal(err)
			}
			told := time.Since(began)
			s.await("a full table", func() string {
				if session := s.session(center, v4); session.Prefixes[IPv4] != n {
					return fmt.Sprintf("%+v", session)
				}
				return ""
			})
			t.Logf("%s announced %d routes in %s, of which %s were its configuration", kind, n, time.Since(began), told)
		})
	}
}

// TestGracefulRestart kills a neighbor that has asked for its routes to be kept,
// and starts it again.
func TestGracefulRestart(t *testing.T) {
	t.Parallel()
	for center, other := range map[Kind]Kind{FRR: BIRD, BIRD: FRR} {
		t.Run(string(other)+" restarts", func(t *testing.T) {
			t.Parallel()
			s := newStage(t, 2)
			config := s.centerConfig()
			config.Neighbors[0].BFD, config.Neighbors[1].BFD = nil, nil
			r := s.start(center, network.Router, config)
			leaf := s.leaf(network.Router2, network.Router)
			leaf.Neighbors[0].BFD, leaf.Neighbors[1].BFD = nil, nil
			leaf.GracefulRestart = Restarter
			restarter := s.start(other, network.Router2, leaf)
			v4, _ := s.ips(network.Router2)
			stale := func(want bool) {
				t.Helper()
				s.await(fmt.Sprintf("a path that is stale: %t", want), func() string {
					paths, err := r.Route(t.Context(), shared4)
					if err != nil {
						t.Fatal(err)
					}
					if len(paths) != 1 || paths[0].Stale != want {
						return describe(paths)
					}
					return ""
				})
				s.awaitKernel(r, shared4, 1)
			}
			s.awaitUp(r, v4)
			stale(false)
			if err := restarter.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			stale(true)
			if err := restarter.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.awaitUp(r, v4)
			stale(false)
		})
	}
}

func TestFrozenRouterKeepsItsConnections(t *testing.T) {
	t.Parallel()
	s := newStage(t, 2)
	center := s.start(FRR, network.Router, s.centerConfig())
	config := s.leaf(network.Router2, network.Router)
	config.Neighbors = config.Neighbors[:1]
	config.Neighbors[0].BFD = nil
	config.Neighbors[0].Hold = 3 * time.Second
	r := s.start(BIRD, network.Router2, config)
	v4, _ := s.ips(network.Router)
	leaf, _ := s.ips(network.Router2)
	s.awaitUp(r, v4)
	if err := center.Freeze(); err != nil {
		t.Fatal(err)
	}
	s.await("the hold time to pass", func() string {
		content, err := os.ReadFile(r.Log("bird"))
		if err != nil {
			t.Fatal(err)
		}
		if session := s.session(r, v4); session.Up() || !strings.Contains(string(content), "Hold timer expired") {
			return fmt.Sprintf("%+v\n%s", session, content)
		}
		return ""
	})
	if err := center.Thaw(); err != nil {
		t.Fatal(err)
	}
	s.awaitUp(r, v4)
	s.awaitUp(center, leaf)
}

// TestDaemonsTakeEverything has real daemons read every statement that can be
// rendered.
func TestDaemonsTakeEverything(t *testing.T) {
	t.Parallel()
	s := newStage(t, 2)
	s.start(FRR, network.Router, everything())
	s.start(BIRD, network.Router2, everything())
	own := everything()
	own.Neighbors = []Neighbor{{Name: "tor", Unnumbered: "eth0", BFD: &BFD{Echo: 50 * time.Millisecond, MinimumTTL: 254}}}
	own.GracefulRestart = NoRestarts
	s.start(FRR, network.Client, own)
	for _, restarts := range []GracefulRestart{NoRestarts, Helper} {
		config := everything()
		config.GracefulRestart = restarts
		for _, host := range []string{network.Router, network.Router2} {
			r, err := Open(s.site(host))
			if err != nil {
				t.Fatal(err)
			}
			s.configure(r, config)
		}
	}
}

// TestRefusedConfiguration: a daemon that does not take what it is told says so.
func TestRefusedConfiguration(t *testing.T) {
	t.Parallel()
	s := newStage(t, 2)
	config := everything()
	config.Neighbors = []Neighbor{{Name: "x", Range: netip.MustParsePrefix("fe80::/10")}}
	frr, err := New(FRR, s.site(network.Router))
	if err != nil {
		t.Fatal(err)
	}
	s.configure(frr, config)
	if err := frr.Start(s.Context()); err == nil || !strings.Contains(err.Error(), "link-local") {
		t.Errorf("a range that FRR does not take: error %v", err)
	}
	s.start(BIRD, network.Router2, config)
}

func TestOpenWithoutRouter(t *testing.T) {
	t.Parallel()
	if _, err := Open(Site{Host: "router", Folder: t.TempDir()}); !errors.Is(err, ErrNone) {
		t.Errorf("error %v, want %v", err, ErrNone)
	}
}
