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
		listInto("events", &extras.Events, clients.Kube.CoreV1().Events("").List),
		listInto("deployments", &extras.Deployments, clients.Kube.AppsV1().Deployments(b.berthNamespace).List),
		listInto("daemonsets", &extras.DaemonSets, clients.Kube.AppsV1().DaemonSets(b.berthNamespace).List),
	)
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
	for _, pod := range c.Pods {
		b.addLogs(ctx, clients, bundle, pod)
		addMetrics(ctx, clients, bundle, pod)
	}
	return bundle, ctx.Err()
}

// addLogs adds the logs of a Pod's containers, also those of before a restart.
func (b *bundling) addLogs(ctx context.Context, clients *k8s.Clients, bundle *cli.Bundle, pod *corev1.Pod) {
	for _, status := range pod.Status.ContainerStatuses {
		for _, previous := range []bool{false, true} {
			if previous && status.RestartCount == 0 {
				continue
			}
			name := path.Join("logs", pod.Name, status.Name)
			if previous {
				name += ".previous"
			}
			content, err := clients.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
				Container: status.Name, Previous: previous, TailLines: ptr.To(b.logLines), Timestamps: false,
			}).DoRaw(ctx)
			if err != nil {
				bundle.Fail(name, err.Error())
				continue
			}
			bundle.Add(name+".log", content)
		}
	}
}

// addMetrics adds what a Pod's containers count, as the API server can reach them.
func addMetrics(ctx context.Context, clients *k8s.Clients, bundle *cli.Bundle, pod *corev1.Pod) {
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name != metricsPort {
				continue
			}
			name := path.Join("metrics", pod.Name)
			content, err := clients.Kube.CoreV1().Pods(pod.Namespace).
				ProxyGet("http", pod.Name, strconv.Itoa(int(port.ContainerPort)), "metrics", nil).DoRaw(ctx)
			if err != nil {
				bundle.Fail(name, err.Error())
				continue
			}
			bundle.Add(name+".txt", content)
		}
	}
}
