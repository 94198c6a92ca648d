package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/metallb"
)

// errGaps says that not all could be translated.
var errGaps = errors.New("some of it has no counterpart, so nothing was written; --partial writes the rest")

// errNoMetalLB says that there is nothing to import.
var errNoMetalLB = errors.New("there is no configuration of MetalLB")

// importing are the flags of import metallb.
type importing struct {
	*options
	files     []string
	folder    string
	partial   bool
	namespace string
}

func newImport(o *options) *cobra.Command {
	parent := &cobra.Command{Use: "import", Short: "Turns the configuration of another load balancer into Berth's"}
	i := &importing{options: o}
	cmd := &cobra.Command{
		Use: "metallb", Short: "Reads MetalLB's configuration, and writes Berth's as YAML",
		Long: "Reads MetalLB's objects from the cluster or from files, and writes Berth's to standard output or into a folder, with a comment\n" +
			"wherever Berth does something else. What has to be done besides it says on standard error. It changes nothing in the cluster.\n\n" +
			"If something has no counterpart it says so, writes nothing and ends with status 2; with --partial it writes the rest and ends with 0.",
		Example: "  kubectl berth import metallb > berth.yaml\n" +
			"  kubectl berth import metallb --output-dir berth/\n" +
			"  kubectl berth import metallb -f metallb/ -f - < more.yaml",
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return i.run(cmd.Context(), cmd.InOrStdin()) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&i.files, "filename", "f", nil, "file, folder of .yaml, .yml and .json files, or - for standard input, instead of the cluster; may be repeated")
	f.StringVar(&i.folder, "output-dir", "", "folder to write a file for each kind into")
	f.BoolVar(&i.partial, "partial", false, "write what can be translated though something cannot")
	f.StringVar(&i.namespace, "metallb-namespace", "metallb-system", "namespace of MetalLB itself")
	_ = cmd.MarkFlagDirname("output-dir")
	parent.AddCommand(cmd)
	return parent
}

func (i *importing) run(ctx context.Context, stdin io.Reader) error {
	objects, services, err := i.read(ctx, stdin)
	if err != nil {
		return err
	}
	result := metallb.Convert(objects, services, metallb.Options{Namespace: i.namespace, BerthNamespace: i.berthNamespace})
	for _, said := range []struct {
		what  string
		texts []string
	}{{"note", result.Remarks}, {"warning", result.Warnings}, {"not translated", result.Gaps}} {
		for _, text := range said.texts {
			_, _ = fmt.Fprintf(i.errOut, "%s: %s\n", said.what, text)
		}
	}
	switch {
	case len(result.Gaps) > 0 && !i.partial:
		return errGaps
	case len(result.Objects) == 0 && len(result.Gaps) == 0:
		return errNoMetalLB
	case i.folder != "":
		return i.writeFolder(result.Objects)
	case i.format == string(cli.FormatJSON):
		return metallb.WriteJSON(i.out, result.Objects)
	}
	return metallb.WriteYAML(i.out, result.Objects)
}

// writeFolder writes one file for each kind, named like its resource. A file of an
// earlier import would be applied with them, so there must be none.
func (i *importing) writeFolder(objects []*metallb.Object) error {
	if err := os.MkdirAll(i.folder, 0o755); err != nil {
		return err
	}
	if before, _ := filepath.Glob(filepath.Join(i.folder, "*.yaml")); len(before) > 0 { // the pattern is valid
		return fmt.Errorf("folder %s has %s already: remove it or name another folder: %w", i.folder, filepath.Base(before[0]), os.ErrExist)
	}
	for len(objects) > 0 {
		resource := objects[0].Resource()
		n := slices.IndexFunc(objects, func(o *metallb.Object) bool { return o.Resource() != resource })
		if n < 0 {
			n = len(objects)
		}
		var text strings.Builder
		if err := metallb.WriteYAML(&text, objects[:n]); err != nil {
			return err
		}
		path := filepath.Join(i.folder, resource+".yaml")
		if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil { // a peer may have a password
			return err
		}
		if _, err := fmt.Fprintf(i.out, "%s: %d\n", path, n); err != nil {
			return err
		}
		objects = objects[n:]
	}
	return nil
}

func (i *importing) read(ctx context.Context, stdin io.Reader) ([]*unstructured.Unstructured, []*corev1.Service, error) {
	if len(i.files) == 0 {
		clients, err := i.connect()
		if err != nil {
			return nil, nil, err
		}
		return i.readCluster(ctx, clients)
	}
	var objects []*unstructured.Unstructured
	for _, name := range i.files {
		found, err := readManifests(name, stdin)
		if err != nil {
			return nil, nil, err
		}
		objects = append(objects, found...)
	}
	services, objects, err := metallb.Services(objects)
	return objects, services, err
}

// readManifests reads a file, all manifests in a folder and below it, or, for "-",
// standard input.
func readManifests(name string, stdin io.Reader) ([]*unstructured.Unstructured, error) {
	if name == "-" {
		objects, err := metallb.Read(stdin)
		return objects, annotate(err, "standard input")
	}
	var objects []*unstructured.Unstructured
	err := filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		isManifest := slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path))
		if err != nil || entry.IsDir() || path != name && !isManifest {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		found, err := metallb.Read(file)
		objects = append(objects, found...)
		return annotate(err, path)
	})
	return objects, err
}

func annotate(err error, where string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", where, err)
}

// readCluster reads MetalLB's objects, and the Services.
func (i *importing) readCluster(ctx context.Context, clients *k8s.Clients) ([]*unstructured.Unstructured, []*corev1.Service, error) {
	var objects []*unstructured.Unstructured
	for _, versions := range metallb.Lists() {
		found, err := readFirst(ctx, clients, versions)
		if err != nil {
			return nil, nil, err
		}
		objects = append(objects, found...)
	}
	if len(objects) == 0 { // perhaps it is older
		found, err := readRaw(ctx, clients, "/api/v1/namespaces/"+i.namespace+"/configmaps/"+metallb.LegacyConfigMap)
		if err != nil && !readable(err) {
			return nil, nil, err
		}
		objects = found
	}
	var services []*corev1.Service
	err := listInto("services", &services, clients.Kube.CoreV1().Services("").List).read(ctx)
	if err != nil {
		_, _ = fmt.Fprintf(i.errOut, "warning: cannot read Services, so nothing is said about their addresses: %v\n", err)
	}
	return objects, services, nil
}

// readFirst reads the first of some lists that exists, none if none does.
func readFirst(ctx context.Context, clients *k8s.Clients, paths []string) ([]*unstructured.Unstructured, error) {
	for _, path := range paths {
		found, err := readRaw(ctx, clients, "/apis/"+path)
		if !apierrors.IsNotFound(err) {
			return found, annotate(err, "reading "+path)
		}
	}
	return nil, nil
}

// readRaw reads a list, or an object, of any kind.
func readRaw(ctx context.Context, clients *k8s.Clients, path string) ([]*unstructured.Unstructured, error) {
	content, err := clients.Kube.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	return metallb.Read(bytes.NewReader(content))
}
