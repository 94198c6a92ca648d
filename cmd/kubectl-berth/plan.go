package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/allocation"
	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/manifest"
)

// errPlanned says that a plan was made and is not what the caller wants to go on with.
var errPlanned = errors.New("something would change")

// What makes the exit status of a plan 1.
const (
	failOnChange = "change"
	failOnLoss   = "loss"
)

// planFlags are the flags of the command plan.
type planFlags struct {
	files, deleted []string
	prune          bool
	failOn         string
}

func newPlan(o *options) *cobra.Command {
	var flags planFlags
	cmd := &cobra.Command{
		Use: "plan -f FILE...", Short: "What a change of the configuration would do to every Service, session and route",
		Long: "Works out, with the code of the controller and the speakers, what would happen if the objects in the files were applied and those of\n" +
			"--delete deleted afterwards. Nothing is changed. The API server is asked to validate the objects (dry run), if the user may write them.\n\n" +
			"The exit status is 0 if nothing would change, 1 if something would (with --fail-on=loss: if something would be lost), 2 on errors.",
		Example: "  kubectl berth plan -f pools.yaml\n" +
			"  kubectl berth plan -f config/ --prune --fail-on=loss\n" +
			"  kubectl berth plan --delete bgppeer/tor-1",
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := o.plan(cmd.Context(), &flags)
			if err != nil {
				return err
			}
			if err := o.write(plan); err != nil {
				return err
			}
			if flags.failOn == failOnChange && plan.Changes || len(plan.Losses) > 0 {
				return errPlanned
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&flags.files, "filename", "f", nil, "file or folder with objects as they are to be, or - for standard input; may be repeated")
	f.StringArrayVar(&flags.deleted, "delete", nil, "KIND/NAME of an object that is to be deleted; may be repeated")
	f.BoolVar(&flags.prune, "prune", false, "the files are the whole configuration: all other objects of berth.dev are to be deleted")
	f.StringVar(&flags.failOn, "fail-on", failOnChange, "what makes the exit status 1: change or loss")
	_ = cmd.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions([]string{failOnChange, failOnLoss}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// plannedKinds are the kinds that a plan is about.
func plannedKinds() []allocation.Object {
	return []allocation.Object{
		&v1beta1.IPAddressPool{}, &v1beta1.IPReservation{}, &v1beta1.L2Advertisement{},
		&v1beta1.BGPPeer{}, &v1beta1.BGPAdvertisement{}, &v1beta1.Community{}, &v1beta1.BFDProfile{},
	}
}

func plannedScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, o := range plannedKinds() {
		scheme.AddKnownTypes(v1beta1.GroupVersion(), o)
	}
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Service{})
	return scheme
}

func (o *options) plan(ctx context.Context, flags *planFlags) (*cli.Plan, error) {
	switch {
	case flags.failOn != failOnChange && flags.failOn != failOnLoss:
		return nil, fmt.Errorf("--fail-on is %q; it is change or loss", flags.failOn)
	case len(flags.files)+len(flags.deleted) == 0:
		return nil, errors.New("nothing to plan: give files by -f, or objects by --delete")
	case flags.prune && len(flags.files) == 0:
		return nil, errors.New("--prune goes with -f: without files it would mean to delete all")
	}
	namespace, _, err := o.config().Namespace()
	if err != nil {
		return nil, err
	}
	objects, err := readPlanned(flags.files, namespace)
	if err != nil {
		return nil, err
	}
	var change cli.Change
	for _, text := range flags.deleted {
		object, err := deleted(text, namespace)
		if err != nil {
			return nil, err
		}
		change.Delete = append(change.Delete, object)
	}
	clients, err := o.connect()
	if err != nil {
		return nil, err
	}
	c, err := load(ctx, clients, scope{berth: o.berthNamespace, planning: true})
	if err != nil {
		return nil, err
	}
	rehearsal := dryRun{clients: clients, live: c}
	for _, object := range objects {
		put, err := rehearsal.of(ctx, object)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", object.Source, err)
		}
		change.Put = append(change.Put, put)
	}
	change.Unchecked = rehearsal.forbidden
	if flags.prune {
		change.Delete = append(change.Delete, c.Others(change)...)
	}
	return cli.PlanFor(c, change, cli.Format(o.format) == cli.FormatWide)
}

// readPlanned reads the files. No object may be in them twice: which of the two would
// count is up to who applies them.
func readPlanned(files []string, namespace string) ([]manifest.Object, error) {
	objects, err := manifest.Read(files, os.Stdin, plannedScheme())
	if err != nil {
		return nil, fmt.Errorf("%w\na plan is about Services and the kinds of %s: IPAddressPool, IPReservation, L2Advertisement, BGPPeer, BGPAdvertisement, Community, BFDProfile", err, v1beta1.GroupVersion())
	}
	seen := map[string]string{}
	for _, object := range objects {
		if svc, is := object.APIObject.(*corev1.Service); is {
			svc.Namespace = cmp.Or(svc.Namespace, namespace)
		}
		id := cli.ObjectID(object.APIObject)
		if first, twice := seen[id]; twice {
			return nil, fmt.Errorf("%s: is in %s as well", object.Source, first)
		}
		seen[id] = object.Source
	}
	return objects, nil
}

// deleted returns the object that KIND/NAME means.
func deleted(text, namespace string) (allocation.Object, error) {
	kind, name, found := strings.Cut(text, "/")
	if !found || name == "" {
		return nil, fmt.Errorf("--delete %q is not KIND/NAME", text)
	}
	if kind = strings.TrimSuffix(strings.ToLower(kind), "s"); kind == "service" || kind == "svc" {
		svc := &corev1.Service{}
		svc.Namespace, svc.Name = namespace, name
		return svc, nil
	}
	for _, object := range plannedKinds() {
		if resource := strings.ToLower(cli.KindOf(object)); kind == resource || kind == strings.TrimSuffix(resource, "y")+"ie" {
			object.SetName(name)
			return object, nil
		}
	}
	return nil, fmt.Errorf("--delete %q: there is no kind %s that a plan is about", text, kind)
}
