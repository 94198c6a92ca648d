package cli

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bundle is an archive for those who help: what the cluster knows of Berth, without
// anything that is secret.
type Bundle struct {
	// At is when it was made, which its files are dated with.
	At    time.Time
	files map[string][]byte
	// failures are what could not be read.
	failures []string
}

// Extras are what a bundle has beside what reports are made of.
type Extras struct {
	// Events of any namespace; those that have to do with Berth are taken.
	Events []*corev1.Event
	// Deployments and DaemonSets of Berth's namespace.
	Deployments []*appsv1.Deployment
	DaemonSets  []*appsv1.DaemonSet
	// Versions says which programs and which API server.
	Versions []string
}

const (
	bundleReadme = "README.txt"
	bundleErrors = "errors.txt"
)

// OfBerth leaves only those objects of Berth's namespace that are part of Berth:
// it may share its namespace.
func OfBerth[T metav1.Object](objects []T) []T {
	return slices.DeleteFunc(objects, func(o T) bool { return o.GetLabels()[nameLabel] != nameOfBerth })
}

// NewBundle makes a bundle of reports and objects.
func NewBundle(c *Cluster, extras Extras) (*Bundle, error) {
	b := &Bundle{At: c.Now, files: map[string][]byte{}}
	for _, u := range c.Unread {
		b.Fail(u.Kind, u.Why)
	}
	if err := b.addReports(c); err != nil {
		return nil, err
	}
	if err := b.addObjects(c, extras); err != nil {
		return nil, err
	}
	b.Add("versions.txt", []byte(strings.Join(extras.Versions, "\n")+"\n"))
	return b, nil
}

// Add adds a file.
func (b *Bundle) Add(name string, content []byte) { b.files[name] = content }

// Fail notes what could not be read.
func (b *Bundle) Fail(what, why string) { b.failures = append(b.failures, what+": "+why) }

// Failures are what could not be read.
func (b *Bundle) Failures() []string { return slices.Sorted(slices.Values(b.failures)) }

// mostExplained bounds the Services that are explained, for thousands may have the
// same trouble.
const mostExplained = 50

// addReports adds what the other commands say, and explains the Services that are
// not well.
func (b *Bundle) addReports(c *Cluster) error {
	reports := map[string]Report{
		"status": ReportStatus(c), "pools": ReportPools(c), "services": ReportServices(c),
		"nodes": ReportNodes(c), "peers": ReportPeers(c), "routes": ReportRoutes(c),
	}
	explained := 0
	for _, s := range ReportServices(c).Services {
		if s.State == StateOK || explained == mostExplained {
			continue
		}
		e, err := ExplainService(c, s.Namespace, s.Name)
		if err != nil {
			return err
		}
		reports[path.Join("explain", s.Namespace, s.Name)] = e
		explained++
	}
	for name, report := range reports {
		var text strings.Builder
		if err := Write(&text, report, FormatWide, false); err != nil {
			return err
		}
		b.Add(path.Join("reports", name+".txt"), []byte(text.String()))
	}
	return nil
}

// Name is that of the folder in the archive.
func (b *Bundle) Name() string { return "berth-bundle-" + b.At.UTC().Format("20060102-150405") }

// Write writes the archive, a gzipped tar. Equal content makes equal bytes.
func (b *Bundle) Write(to io.Writer) error {
	files := maps.Clone(b.files)
	files[bundleReadme] = []byte(b.readme())
	if len(b.failures) > 0 {
		files[bundleErrors] = []byte(strings.Join(b.Failures(), "\n") + "\n")
	}
	compressed := gzip.NewWriter(to)
	archive := tar.NewWriter(compressed)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{
			Name: path.Join(b.Name(), name), Mode: 0o600, Size: int64(len(files[name])),
			ModTime: b.At.Truncate(time.Second), Typeflag: tar.TypeReg, Format: tar.FormatPAX,
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(files[name]); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return compressed.Close()
}

func (b *Bundle) readme() string {
	missing := "Everything could be read."
	if n := len(b.failures); n > 0 {
		missing = fmt.Sprintf("What could not be read (%d) is listed in %s.", n, bundleErrors)
	}
	return `A support bundle of Berth, made by kubectl berth bundle on ` + b.At.UTC().Format(time.RFC1123) + `.

reports/   what kubectl berth status, pools, services, nodes, peers and routes say; explain for Services that are not well
objects/   berth.dev objects, Berth's Services with their EndpointSlices, Namespaces and Nodes; Pods, Deployments,
           DaemonSets and Lease of Berth; Events about any of them
logs/      of Berth's containers; .previous.log is of the time before a restart
metrics/   of Berth's Pods

` + missing + `

Left out:
- Secrets: none is read, so neither the membership's key nor passwords of BGP peers are here, nor spec.password of a BGPPeer.
- Values of annotations, except Berth's, MetalLB's, Kubernetes' own (but not last-applied-configuration) and those that BGPPeers
  name; values of environment variables; managedFields. "` + masked + `" stands for each of the former.
- Services that are not Berth's, and Pods of others.

It has addresses, names and labels of your nodes and Services. Read it before you give it to others.
`
}
