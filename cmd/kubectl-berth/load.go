package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/k8s"
)

// scope is what to read.
type scope struct {
	// berth is the namespace of Berth itself.
	berth string
	// services is the namespace of the Services that matter, "" for all.
	services string
	// watching leaves out what nobody looks at who waits for nodes.
	watching bool
	// planning reads what the controller alone reads otherwise.
	planning bool
}

// errNotInstalled says that the cluster does not know Berth's kinds.
var errNotInstalled = errors.New("this cluster does not know the kinds of berth.dev: Berth is not installed here")

// listing reads the objects of one kind.
type listing struct {
	kind string
	read func(ctx context.Context) error
}

// load reads a cluster. What may not be read is noted, and is an error only where
// nothing can be said without it.
func load(ctx context.Context, clients *k8s.Clients, s scope) (*cli.Cluster, error) {
	c := &cli.Cluster{Now: time.Now(), Namespace: s.berth}
	listings := listingsOf(c, clients, s)
	if s.planning {
		listings = append(listings, listing{"servicecidrs", func(ctx context.Context) error {
			all := listInto("servicecidrs", &c.ServiceCIDRs, clients.Kube.NetworkingV1().ServiceCIDRs().List)
			if err := all.read(ctx); !apierrors.IsNotFound(err) {
				return err
			}
			return nil // before Kubernetes 1.33 there are none
		}})
	}
	if s.watching {
		listings = slices.DeleteFunc(listings, func(l listing) bool {
			return !slices.Contains([]string{"services", "l2advertisements", "nodestates"}, l.kind)
		})
	}
	for i, err := range readAll(ctx, listings) {
		switch kind := listings[i].kind; {
		case err == nil:
		case kind == "ipaddresspools" && apierrors.IsNotFound(err):
			return nil, errNotInstalled
		case s.planning && kind != "leases":
			return nil, fmt.Errorf("reading %s, without which nothing can be planned: %w", kind, err)
		case kind == "services" && apierrors.IsForbidden(err) && s.services == "":
			return nil, fmt.Errorf("reading Services: %w; name a namespace with -n", err)
		case kind == "services" || !readable(err):
			return nil, fmt.Errorf("reading %s: %w", kind, err)
		default:
			c.Unread = append(c.Unread, cli.Unread{Kind: kind, Why: err.Error()})
		}
	}
	slices.SortFunc(c.Unread, func(a, b cli.Unread) int { return strings.Compare(a.Kind, b.Kind) })
	return c, nil
}

// readAll reads all at once and returns why each could not be read, or nil.
func readAll(ctx context.Context, listings []listing) (failures []error) {
	failures = make([]error, len(listings))
	var group errgroup.Group
	for i, l := range listings {
		group.Go(func() error {
			failures[i] = l.read(ctx)
			return nil
		})
	}
	_ = group.Wait() // which has nothing to say
	return failures
}

// readable says whether an error concerns one kind and not all.
func readable(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsUnauthorized(err)
}

func listingsOf(c *cli.Cluster, clients *k8s.Clients, s scope) []listing {
	kube := clients.Kube
	return []listing{
		listInto("services", &c.Services, kube.CoreV1().Services(s.services).List),
		listInto("namespaces", &c.Namespaces, kube.CoreV1().Namespaces().List),
		listInto("nodes", &c.Nodes, kube.CoreV1().Nodes().List),
		listInto("endpointslices", &c.EndpointSlices, kube.DiscoveryV1().EndpointSlices(s.services).List),
		listInto("pods", &c.Pods, kube.CoreV1().Pods(s.berth).List),
		{"leases", func(ctx context.Context) error {
			lease, err := kube.CoordinationV1().Leases(s.berth).Get(ctx, cli.LeaseName, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err):
				return nil
			case err != nil:
				return err
			}
			c.Lease = lease
			return nil
		}},
		listInto("ipaddresspools", &c.Pools, clients.IPAddressPools.List),
		listInto("ipreservations", &c.Reservations, clients.IPReservations.List),
		listInto("l2advertisements", &c.L2Advertisements, clients.L2Advertisements.List),
		listInto("bgppeers", &c.BGPPeers, clients.BGPPeers.List),
		listInto("bgpadvertisements", &c.BGPAdvertisements, clients.BGPAdvertisements.List),
		listInto("communities", &c.Communities, clients.Communities.List),
		listInto("bfdprofiles", &c.BFDProfiles, clients.BFDProfiles.List),
		listInto("nodestates", &c.NodeStates, clients.NodeStates.List),
	}
}

// listInto reads a list of objects T.
func listInto[T runtime.Object, L runtime.Object](kind string, into *[]T, list func(context.Context, metav1.ListOptions) (L, error)) listing {
	return listing{kind, func(ctx context.Context) error {
		objects, err := list(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		return meta.EachListItem(objects, func(object runtime.Object) error {
			typed, ok := object.(T)
			if !ok {
				return fmt.Errorf("%T is not what was asked for", object)
			}
			*into = append(*into, typed)
			return nil
		})
	}}
}
