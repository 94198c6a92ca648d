package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/k8s"
)

// errUnhealthy says that the answer was given and is that something is wrong.
var errUnhealthy = errors.New("not healthy")

// options are the flags of all commands.
type options struct {
	out, errOut    io.Writer
	rules          *clientcmd.ClientConfigLoadingRules
	overrides      clientcmd.ConfigOverrides
	berthNamespace string
	format         string
	colour         string
}

func newOptions(out, errOut io.Writer) *options {
	return &options{out: out, errOut: errOut, rules: clientcmd.NewDefaultClientConfigLoadingRules()}
}

func (o *options) addFlags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	// The flags of kubectl as client-go has them: those of cli-runtime bring
	// kustomize along and double the size of the program.
	f.StringVar(&o.rules.ExplicitPath, clientcmd.RecommendedConfigPathFlag, "", "kubeconfig file, instead of $KUBECONFIG or ~/.kube/config")
	clientcmd.BindOverrideFlags(&o.overrides, f, clientcmd.RecommendedConfigOverrideFlags(""))
	f.StringVar(&o.berthNamespace, "berth-namespace", "berth-system", "namespace of Berth itself")
	f.StringVarP(&o.format, "output", "o", string(cli.FormatTable), "output format: table, wide, json or yaml")
	f.StringVar(&o.colour, "color", "auto", "colours: auto (only on a terminal), always or never")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cli.Formats(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp))
}

// connect returns clients for the cluster that the flags name.
func (o *options) connect() (*k8s.Clients, error) {
	cfg, err := o.config().ClientConfig()
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = "kubectl-berth/" + version
	cfg.QPS = -1 // a dozen lists at once are one question
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	return k8s.NewClients(cfg)
}

// namespace is the one that is asked for, "" if none is.
func (o *options) namespace() string { return o.overrides.Context.Namespace }

func (o *options) config() clientcmd.ClientConfig {
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(o.rules, &o.overrides)
}

// load reads the cluster, or its parts that matter to one namespace.
func (o *options) load(ctx context.Context, namespace string) (*cli.Cluster, error) {
	clients, err := o.connect()
	if err != nil {
		return nil, err
	}
	return load(ctx, clients, scope{berth: o.berthNamespace, services: namespace})
}

// write writes a report in the format that is asked for.
func (o *options) write(report cli.Report) error {
	return cli.Write(o.out, report, cli.Format(o.format), o.colours())
}

// colours says whether there are to be any.
func (o *options) colours() bool {
	switch o.colour {
	case "always":
		return true
	case "auto":
		file, is := o.out.(*os.File)
		_, off := os.LookupEnv("NO_COLOR")
		return is && !off && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
	}
	return false
}
