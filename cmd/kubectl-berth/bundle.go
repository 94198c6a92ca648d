package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/k8s"
)

// metricsPort is the name of the port of Berth's containers that has metrics.
const metricsPort = "metrics"

// bundling are the flags of bundle.
type bundling struct {
	*options
	file     string
	logLines int64
}

func newBundle(o *options) *cobra.Command {
	b := &bundling{options: o}
	cmd := &cobra.Command{
		Use: "bundle", Short: "Writes a support archive: objects, reports, events, logs and metrics, without secrets",
		Long: "Writes an archive (.tar.gz) of what the cluster knows of Berth, for those who help. It reads no Secret, and masks what may hold one;\n" +
			"README.txt in it says what there is and what is left out. What may not be read is listed in errors.txt.",
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return b.run(cmd.Context()) },
	}
	cmd.Flags().StringVarP(&b.file, "filename", "f", "", "file to write, which must not exist, or - for standard output; default berth-bundle-TIME.tar.gz")
	cmd.Flags().Int64Var(&b.logLines, "log-lines", 20000, "how many lines of each log to take, from its end")
	_ = cmd.MarkFlagFilename("filename", "tar.gz")
	return cmd
}

func (b *bundling) run(ctx context.Context) error {
	clients, err := b.connect()
	if err != nil {
		return err
	}
	bundle, err := b.collect(ctx, clients)
	if err != nil {
		return err
	}
	for _, failure := range bundle.Failures() {
		_, _ = fmt.Fprintf(b.errOut, "warning: cannot read %s\n", failure)
	}
	if b.file == "-" {
		return bundle.Write(b.out)
	}
	name := b.file
	if name == "" {
		name = bundle.Name() + ".tar.gz"
	}
	if err := writeNew(name, bundle.Write); err != nil {
		return err
	}
	_, err = fmt.Fprintf(b.out, "%s\n", name)
	return err
}

// writeNew writes a file that does not exist, and leaves none that is broken.
func writeNew(name string, write func(io.Writer) error) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(write(file), file.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// collect reads everything that may be read.
func (b *bundling) collect(ctx context.Context, clients *k8s.Clients) (*cli.Bundle, error) {
	c := &cli.Cluster{Now: time.Now(), Namespace: b.berthNamespace}
	extras := cli.Extras{Versions: []string{"kubectl-berth " + version + " (" + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")"}}
	listings := append(listingsOf(c, clients, scope{berth: b.berthNamespace, services: b.namespace()}),
		listInto("deployments", &extras.Deployments, clients.Kube.AppsV1().Deployments(b.berthNamespace).List),
		listInto("daemonsets", &extras.DaemonSets, clients.Kube.AppsV1().DaemonSets(b.berthNamespace).List),
	)
	listings = append(listings, b.eventListings(clients, &extras.Events)...)
	failed := 0
	var last error
	for i, err := range readAll(ctx, listings) {
		if err != nil {
			c.Unread = append(c.Unread, cli.Unread{Kind: listings[i].kind, Why: err.Error()})
			failed, last = failed+1, err
		}
	}
	if failed == len(listings) {
		return nil, last
	}
	c.Pods, extras.Deployments, extras.DaemonSets = cli.OfBerth(c.Pods), cli.OfBerth(extras.Deployments), cli.OfBerth(extras.DaemonSets)
	if v, err := clients.Kube.Discovery().ServerVersion(); err == nil {
		extras.Versions = append(extras.Versions, "Kubernetes "+v.GitVersion)
	}
	bundle, err := cli.NewBundle(c, extras)
	if err != nil {
		return nil, err
	}
	for _, found := range b.readPods(ctx, clients, c.Pods) {
		for name, content := range found.files {
			bundle.Add(name, content)
		}
		for name, err := range found.failures {
			bundle.Fail(name, err.Error())
		}
	}
	return bundle, ctx.Err()
}

// eventListings read the events of all namespaces, or of the one that matters and
// Berth's.
func (b *bundling) eventListings(clients *k8s.Clients, into *[]*corev1.Event) []listing {
	if b.namespace() == "" || b.namespace() == b.berthNamespace {
		return []listing{listInto("events", into, clients.Kube.CoreV1().Events(b.namespace()).List)}
	}
	// One after the other: they go into one list.
	return []listing{{"events", func(ctx context.Context) error {
		var errs []error
		for _, namespace := range []string{b.namespace(), b.berthNamespace} {
			errs = append(errs, listInto("events", into, clients.Kube.CoreV1().Events(namespace).List).read(ctx))
		}
		return errors.Join(errs...)
	}}}
}

// What is read of Pods at once, and how long each may take to say what it counts:
// a node that is away keeps the API server waiting.
const (
	podsAtOnce      = 8
	metricsPatience = 5 * time.Second
)

// podFiles are what is read of a Pod itself, and what is not.
type podFiles struct {
	files    map[string][]byte
	failures map[string]error
}

func (f *podFiles) take(name string, content []byte, err error) {
	if err != nil {
		f.failures[name] = err
		return
	}
	f.files[name] = content
}

func (b *bundling) readPods(ctx context.Context, clients *k8s.Clients, pods []*corev1.Pod) []podFiles {
	all := make([]podFiles, len(pods))
	var group errgroup.Group
	group.SetLimit(podsAtOnce)
	for i, pod := range pods {
		all[i] = podFiles{files: map[string][]byte{}, failures: map[string]error{}}
		group.Go(func() error {
			b.readLogs(ctx, clients, pod, &all[i])
			readMetrics(ctx, clients, pod, &all[i])
			return nil
		})
	}
	_ = group.Wait() // which has nothing to say
	return all
}

// readLogs reads the logs of a Pod's containers, also those of before a restart.
func (b *bundling) readLogs(ctx context.Context, clients *k8s.Clients, pod *corev1.Pod, into *podFiles) {
	for _, status := range pod.Status.ContainerStatuses {
		for _, previous := range []bool{false, true} {
			if previous && status.RestartCount == 0 {
				continue
			}
			name := path.Join("logs", pod.Name, status.Name)
			if previous {
				name += ".previous"
			}
			options := &corev1.PodLogOptions{Container: status.Name, Previous: previous, TailLines: ptr.To(b.logLines)}
			content, err := clients.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).DoRaw(ctx)
			into.take(name+".log", content, err)
		}
	}
}

// readMetrics reads what a Pod's containers count, if the API server can reach them.
func readMetrics(ctx context.Context, clients *k8s.Clients, pod *corev1.Pod, into *podFiles) {
	ctx, cancel := context.WithTimeout(ctx, metricsPatience)
	defer cancel()
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name != metricsPort {
				continue
			}
			content, err := clients.Kube.CoreV1().Pods(pod.Namespace).
				ProxyGet(metricsScheme(&container), pod.Name, strconv.Itoa(int(port.ContainerPort)), "metrics", nil).DoRaw(ctx)
			into.take(path.Join("metrics", pod.Name+".txt"), content, err)
		}
	}
}

// metricsScheme is how a container serves its metrics, which is as it serves its
// probes.
func metricsScheme(container *corev1.Container) string {
	if p := container.LivenessProbe; p != nil && p.HTTPGet != nil && p.HTTPGet.Scheme == corev1.URISchemeHTTPS {
		return "https"
	}
	return "http"
}
