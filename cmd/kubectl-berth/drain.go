package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/k8s"
)

// pollInterval is how often is looked whether something is done.
const pollInterval = 500 * time.Millisecond

// settleTime is for how long counts have to stay the same before a rebalance
// counts as over. Speakers offer an address every 0.1 s and report every second.
const settleTime = 5 * time.Second

// annotation is a merge patch of one annotation, which nil removes.
func annotation(name string, value *string) []byte {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]*string{name: value}}})
	if err != nil {
		panic(err) // strings always marshal
	}
	return patch
}

// annotateNode sets the annotation berth.dev/drain of a node, or removes it.
func annotateNode(ctx context.Context, clients *k8s.Clients, node string, value *string) error {
	_, err := clients.Kube.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, annotation(v1beta1.AnnotationDrain, value), metav1.PatchOptions{})
	return err
}

// poll looks again and again until look says that it is done, or ctx ends; then it
// returns what look said last was missing.
func (o *options) poll(ctx context.Context, clients *k8s.Clients, look func(*cli.Cluster) (missing string, err error)) error {
	for {
		c, err := load(ctx, clients, scope{berth: o.berthNamespace, watching: true})
		if err != nil {
			return err
		}
		missing, err := look(c)
		if err != nil || missing == "" {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				return fmt.Errorf("it takes too long: %s", missing)
			}
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}

func newDrain(o *options) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Takes a node out of service, and waits until it owns no address and has no route",
		Long: "Annotates the Node with " + v1beta1.AnnotationDrain + " and waits until its speaker reports that it owns no address and tells routers nothing.\n" +
			"Pods stay: that is kubectl drain's. An address that no other node can have stays as well; then the command gives up after --timeout,\n" +
			"and the annotation remains.",
		Args: cobra.ExactArgs(1), ValidArgsFunction: o.completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			clients, err := o.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			value := "kubectl-berth"
			if err := annotateNode(ctx, clients, args[0], &value); err != nil {
				return err
			}
			var progress cli.DrainProgress
			err = o.poll(ctx, clients, func(c *cli.Cluster) (string, error) {
				if progress, err = cli.Draining(c, args[0]); err != nil || progress.Done {
					return "", err
				}
				return "node " + args[0] + " still " + progress.Left(), nil
			})
			if err != nil {
				return err
			}
			return o.write(progress)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait")
	return cmd
}

func newUndrain(o *options) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "undrain NODE", Short: "Takes a node into service again",
		Args: cobra.ExactArgs(1), ValidArgsFunction: o.completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			clients, err := o.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := annotateNode(ctx, clients, args[0], nil); err != nil {
				return err
			}
			err = o.poll(ctx, clients, func(c *cli.Cluster) (string, error) {
				if cli.InService(c, args[0]) {
					return "", nil
				}
				return "node " + args[0] + " does not report that it is in service", nil
			})
			if err != nil {
				return err
			}
			return o.write(cli.Undrained{Node: args[0]})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	return cmd
}

func newRebalance(o *options) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "rebalance [L2ADVERTISEMENT...]", Short: "Spreads the addresses of L2Advertisements, or of all, over the nodes anew",
		ValidArgsFunction: o.completeL2Advertisements,
		RunE: func(cmd *cobra.Command, args []string) error {
			clients, err := o.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return o.rebalance(ctx, clients, args)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait")
	return cmd
}

func (o *options) rebalance(ctx context.Context, clients *k8s.Clients, names []string) error {
	c, err := load(ctx, clients, scope{berth: o.berthNamespace, watching: true})
	if err != nil {
		return err
	}
	if len(names) == 0 {
		names = cli.L2AdvertisementNames(c)
	}
	if len(names) == 0 {
		return errors.New("there is no L2Advertisement to rebalance")
	}
	value := time.Now().UTC().Format(time.RFC3339Nano)
	for _, name := range names {
		if _, err := clients.L2Advertisements.Patch(ctx, name, types.MergePatchType, annotation(v1beta1.AnnotationRebalance, &value), metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	before := cli.OwnedBy(c)
	var after cli.Owned
	settling := cli.Settling{Patience: settleTime}
	err = o.poll(ctx, clients, func(c *cli.Cluster) (string, error) {
		after = cli.OwnedBy(c)
		if settling.Settled(after, c.Now) {
			return "", nil
		}
		return "addresses still move", nil
	})
	if err != nil {
		return err
	}
	return o.write(cli.ReportRebalanced(names, before, after))
}

func (o *options) completeNodes(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.complete(cmd, "", func(c *cli.Cluster) []string {
		var names []string
		for _, n := range cli.ReportNodes(c).Nodes {
			names = append(names, n.Name)
		}
		return names
	})
}

func (o *options) completeL2Advertisements(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return o.complete(cmd, "", cli.L2AdvertisementNames)
}
