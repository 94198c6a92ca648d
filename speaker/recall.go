package main

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/go-kit/log/level"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/k8s"
)

// recallPatience bounds asking for what the former process said.
const recallPatience = 2 * time.Second

// formerConflicts returns what asks for the conflicts in the NodeState of a node.
func formerConflicts(clients *k8s.Clients, node string) func(context.Context) ([]v1beta1.AddressConflict, error) {
	return func(ctx context.Context) ([]v1beta1.AddressConflict, error) {
		ctx, cancel := context.WithTimeout(ctx, recallPatience)
		defer cancel()
		state, err := clients.NodeStates.Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return state.Status.AddressConflicts, nil
	}
}

// recallConflicts asks for them once; without an answer they are found again.
func (s *speaker) recallConflicts(ctx context.Context) {
	if s.recallsFrom == nil {
		return
	}
	if former, err := s.recallsFrom(ctx); err == nil {
		s.conflicts.recall(former)
	}
}

// recall takes up the conflicts that the former process on this node told of, so
// that no quarantine ends and nothing is announced to another host's face because
// a speaker is restarted. Each is looked at anew at once.
func (c *conflicts) recall(former []v1beta1.AddressConflict) {
	for i := range former {
		f := &former[i]
		addr, err := netip.ParseAddr(f.Address)
		mac, macErr := net.ParseMAC(f.MAC)
		if err != nil || macErr != nil || len(mac) != len(ether.MAC{}) {
			continue // written by hand
		}
		c.known[addr] = &conflict{
			mac: ether.MAC(mac), ifname: f.Interface, since: f.Since.Time, lastSeen: f.LastSeen.Time,
			beforeUse: f.BeforeUse, unused: f.BeforeUse, yields: true, told: true,
		}
	}
	for _, k := range c.known {
		if !k.beforeUse && c.of(k.mac) >= maxPerHost {
			k.proxied, k.yields = true, false
		}
	}
	if len(c.known) > 0 {
		level.Info(c.logger).Log("msg", "looking anew at addresses that other hosts had", "conflicts", len(c.known))
	}
}
