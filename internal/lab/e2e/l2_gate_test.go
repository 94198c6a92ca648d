package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// testPressure: all processors are kept busy with something else, several times over.
// Speakers that get their turn late take nobody for dead.
func (f *fleet) testPressure() {
	const pressure = 20 * time.Second
	for range runs() {
		f.arrange(faultNode)
		looking := f.lookOut(onlooker, 4*askInterval, f.addresses...)
		release := f.burn(2 * runtime.NumCPU())
		began := time.Now()
		f.pause(pressure, "a loaded node may be taken for dead")
		release()
		looking.stop()
		moved := 0
		for _, address := range f.addresses {
			for node := range looking.claims(address, began, time.Now()) {
				if node != f.owners[address] {
					moved++
					f.Errorf("under pressure: %s, which %s owns, was answered for by %s: %s", address, f.owners[address], node,
						f.describeAnswers(looking.heard(address, began, time.Now())))
				}
			}
			measured.add(f.row("CPU pressure, longest time without an answer"), longestSilence(looking.heard(address, began, time.Now()), began, time.Now()))
		}
		f.count("CPU pressure, addresses that moved", moved)
		f.expectUnmoved("under pressure", f.addresses...)
	}
}

// burn has processes run that do nothing but use processors, until released.
func (f *fleet) burn(processes int) (release func()) {
	f.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	f.Cleanup(cancel)
	var running sync.WaitGroup
	for range processes {
		loop := exec.CommandContext(ctx, "sh", "-c", "ulimit -t 100; while :; do :; done")
		if err := loop.Start(); err != nil {
			f.Fatal(err)
		}
		running.Go(func() { _ = loop.Wait() }) // it is killed
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// testDeaf: a client that ignores announcements learns that an address has moved
// nevertheless, when its owner dies and when it is drained, within a second.
func (f *fleet) testDeaf() {
	f.healed()
	const what = "client that ignores announcements"
	for range runs() {
		f.arrange(faultNode)
		if err := f.lab.Deafen(network.Client); err != nil {
			f.Fatal(err)
		}
		f.flushNeighbors() // so that it asks, as it did some time ago
		f.waitServedAll()
		f.pause(settleLimit, "Linux takes an entry that is new for true, whatever it is told (locktime)")
		f.measureGaps("node cut, "+what, unplanned, f.lost, func() {
			if err := f.lab.Cut(f.victim); err != nil {
				f.Fatal(err)
			}
		}, func() {
			f.waitOwners(f.lost, func(node string) bool { return node != f.victim })
		})
		if err := f.lab.Heal(f.victim); err != nil {
			f.Fatal(err)
		}
		f.lab.waitUntilCalm(f.env)
		f.waitReturned()

		f.arrange(faultNode)
		f.flushNeighbors()
		f.waitServedAll()
		f.failsAtMost(1, "drain, "+what, sample(f.lost), func() {
			f.drain(f.victim)
			owners := f.waitOwners(f.lost, func(node string) bool { return node != f.victim })
			for _, address := range sample(f.lost) {
				host, err := f.lab.Plan().Host(owners[address])
				if err != nil {
					f.Fatal(err)
				}
				f.waitFor("the client to learn that "+host.Name+" owns "+address.String(), 3*settleLimit, func(context.Context) (bool, string) {
					mac, state := f.neighbor(network.Client, address)
					return mac == host.MAC, mac + " " + state
				})
			}
		})
		f.undrain(f.victim)
		if err := f.lab.Undeafen(network.Client); err != nil {
			f.Fatal(err)
		}
	}
}

// testRedirect: connections that a dead owner had end once others own the addresses.
// Their packets are not translated there but forwarded to where that node's kernel
// remembers the address, and the client is redirected to that MAC (RFC 4861 section
// 8.2). It must not be the dead node's.
func (f *fleet) testRedirect() {
	f.healed()
	for range runs() {
		f.arrange(faultNode)
		f.waitServedAll()
		addresses := slices.DeleteFunc(slices.Clone(f.lost), netip.Addr.Is4)
		f.rememberOwner(addresses)
		var open []net.Conn
		for _, address := range addresses {
			conn, err := f.lab.inside(network.Client).DialContext(f.ctx, "tcp", netip.AddrPortFrom(address, servicePort).String())
			if err != nil {
				f.Fatal(err)
			}
			open = append(open, conn)
		}
		if err := f.lab.Cut(f.victim); err != nil {
			f.Fatal(err)
		}
		owners := f.waitOwners(addresses, func(node string) bool { return node != f.victim })
		followed := func(context.Context) (bool, string) {
			for _, address := range addresses {
				host, err := f.lab.Plan().Host(owners[address])
				if err != nil {
					return false, err.Error()
				}
				if mac, state := f.neighbor(network.Client, address); mac != host.MAC {
					return false, fmt.Sprintf("%s is at %s (%s), not at %s of %s", address, f.lab.node(mac), state, host.MAC, host.Name)
				}
			}
			return true, ""
		}
		f.waitFor("the client to follow the addresses", 10*time.Second, followed)
		for _, conn := range open {
			_ = conn.Close() // tells the new owner, again and again
		}
		f.stays("the client goes to the new owners", 3*time.Second, followed)
		if err := f.lab.Heal(f.victim); err != nil {
			f.Fatal(err)
		}
		f.lab.waitUntilCalm(f.env)
		f.waitReturned()
	}
}

// rememberOwner has the kernels of all other nodes remember the victim as who has the
// addresses, as they do once they have sent anything there.
func (f *fleet) rememberOwner(addresses []netip.Addr) {
	f.Helper()
	victim, err := f.lab.Plan().Host(f.victim)
	if err != nil {
		f.Fatal(err)
	}
	for _, node := range f.lab.otherNodes(f.victim) {
		for _, address := range addresses {
			if _, err := f.lab.Exec(f.ctx, node, "ip", "neighbor", "replace", address.String(), "lladdr", victim.MAC, "dev", "eth0", "nud", "stale"); err != nil {
				f.Fatal(err)
			}
		}
	}
}

// testKubeProxy: kube-proxy of the owner hangs, or is gone, and stays so. Others take
// its addresses, before its rules are out of date, and keep them.
func (f *fleet) testKubeProxy() {
	const process = "kube-proxy@" + faultNode
	boot := func() {
		f.Helper()
		// It may run, if it only hung or another part of the test has failed before.
		if err := f.lab.Boot(faultNode); err != nil && !errors.Is(err, lab.ErrRuns) {
			f.Error(err)
		}
	}
	f.Cleanup(func() {
		_ = f.lab.Thaw(process) // which is not there any more once it was killed
		boot()
	})
	cases := []struct {
		name          string
		hurt, restore func() error
	}{
		{"kube-proxy hangs", func() error { return f.lab.Freeze(process) }, func() error { return f.lab.Thaw(process) }},
		{"kube-proxy killed", func() error { return f.lab.Kill(faultNode, "kube-proxy", syscall.SIGKILL) }, func() error { boot(); return nil }},
	}
	for range runs() {
		for _, c := range cases {
			f.arrange(faultNode)
			f.failsAtMost(1, c.name, sample(f.lost), func() {
				began := time.Now()
				if err := c.hurt(); err != nil {
					f.Fatal(err)
				}
				f.waitOwnersFor(time.Minute, f.lost, func(node string) bool { return node != f.victim })
				measured.add(f.row(c.name+", until others answer for all"), time.Since(began))
			})
			f.expectUnmoved(c.name, f.kept...)
			f.look(f.victim)
			if err := c.restore(); err != nil {
				f.Fatal(err)
			}
			f.waitSteady(sample(f.addresses)...)
			f.expectUnmoved(c.name+", it is back", f.addresses...)
		}
	}
}
