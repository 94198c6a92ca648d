package routers

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/internal/lab/netns"
	"github.com/berth-lb/berth/internal/lab/network"
)

// TestConnectionsSpreadOverNextHops has two hosts announce an address that both
// have, and connects to it from behind the router.
func TestConnectionsSpreadOverNextHops(t *testing.T) {
	t.Parallel()
	for _, kind := range Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newStage(t, 1) // the client would also use a second one
			center := s.start(kind, network.Router, s.centerConfig())
			hosts := []string{network.Client, network.ControlPlane}
			for _, host := range hosts {
				s.start(BIRD, host, s.leaf(host, network.Router))
				for _, prefix := range []netip.Prefix{shared4, shared6} {
					s.serve(host, prefix.Addr().Next())
				}
			}
			for _, prefix := range []netip.Prefix{shared4, shared6} {
				s.awaitKernel(center, prefix, len(hosts))
				s.checkSpread(prefix.Addr().Next(), hosts)
			}
		})
	}
}

const servicePort = 80

// serve gives a host an address and answers connections to it with its name.
func (s *stage) serve(host string, address netip.Addr) {
	s.Helper()
	var listener net.Listener
	err := netns.Target{Name: s.net.Namespace(host)}.Do(func() error {
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(netip.PrefixFrom(address, address.BitLen()).String())
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(loopback, addr); err != nil {
			return err
		}
		// Any address: for IPv6 one that was just added may not be bound yet.
		listener, err = net.Listen(map[bool]string{false: "tcp4", true: "tcp6"}[address.Is6()], fmt.Sprintf(":%d", servicePort))
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the test ends
			}
			_, _ = io.WriteString(conn, host) // the client notices
			_ = conn.Close()
		}
	}()
}

// checkSpread makes sure that each host gets a fair part of the connections. With
// 64 of them and two hosts, fewer than 10 for one are as likely as never.
func (s *stage) checkSpread(address netip.Addr, hosts []string) {
	s.Helper()
	const connections, fair = 64, 10
	target := netns.Target{Name: s.net.Namespace(network.WANClient)}
	s.await("the first answer of "+address.String(), func() string {
		if _, err := ask(s, target, address); err != nil {
			return err.Error()
		}
		return ""
	})
	counts := map[string]int{}
	for range connections {
		host, err := ask(s, target, address)
		if err != nil {
			s.Fatal(err)
		}
		counts[host]++
	}
	for _, host := range hosts {
		if counts[host] < fair {
			s.Errorf("%s: %v, want at least %d for each", address, counts, fair)
		}
	}
	s.Logf("%s: %v", address, counts)
}

func ask(s *stage, from netns.Target, address netip.Addr) (string, error) {
	conn, err := from.DialContext(s.Context(), "tcp", netip.AddrPortFrom(address, servicePort).String())
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}
