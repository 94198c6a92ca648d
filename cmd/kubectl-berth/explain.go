package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/cli"
)

func newExplain(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "explain svc/NAME | ip/ADDRESS",
		Short: "Why a Service or an address does or does not work, and the one thing to fix",
		Example: "  kubectl berth explain svc/web -n shop\n" +
			"  kubectl berth explain ip/192.0.2.1",
		Args: cobra.ExactArgs(1), ValidArgsFunction: o.completeSubjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := o.explain(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.write(e)
		},
	}
}

func (o *options) explain(ctx context.Context, subject string) (*cli.Explanation, error) {
	kind, name, found := strings.Cut(subject, "/")
	if !found {
		return nil, fmt.Errorf("%q is neither svc/NAME nor ip/ADDRESS", subject)
	}
	switch kind {
	case "svc", "service", "services":
		namespace, _, err := o.config().Namespace()
		if err != nil {
			return nil, err
		}
		c, err := o.load(ctx, namespace)
		if err != nil {
			return nil, err
		}
		o.warnUnread(c)
		return cli.ExplainService(c, namespace, name)
	case "ip":
		c, err := o.load(ctx, o.namespace())
		if err != nil {
			return nil, err
		}
		o.warnUnread(c)
		return cli.ExplainAddress(c, name)
	}
	return nil, fmt.Errorf("%q is neither svc/NAME nor ip/ADDRESS", subject)
}

// completionPatience is how long the shell waits for what could come next.
const completionPatience = 3 * time.Second

// completeSubjects proposes the Services of the namespace.
func (o *options) completeSubjects(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	namespace, _, err := o.config().Namespace()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.complete(cmd, namespace, func(c *cli.Cluster) []string {
		var names []string
		for _, s := range cli.ReportServices(c).Services {
			if s.Namespace == namespace {
				names = append(names, "svc/"+s.Name)
			}
		}
		return names
	})
}

// complete proposes what is found in the cluster, nothing if that takes too long.
func (o *options) complete(cmd *cobra.Command, namespace string, names func(*cli.Cluster) []string) ([]string, cobra.ShellCompDirective) {
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionPatience)
	defer cancel()
	c, err := o.load(ctx, namespace)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names(c), cobra.ShellCompDirectiveNoFileComp
}
