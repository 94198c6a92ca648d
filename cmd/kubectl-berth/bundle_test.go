package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// unpack returns the files of an archive.
func unpack(t *testing.T, archive io.Reader) map[string]string {
	t.Helper()
	decompressed, err := gzip.NewReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string]string{}
	for files := tar.NewReader(decompressed); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return contents
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		contents[name] = string(content)
	}
}

func aPod(name string, restarts int32) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: name, Labels: map[string]string{"app.kubernetes.io/name": "berth", "app.kubernetes.io/component": "controller"}}}
	p.Spec.Containers = []corev1.Container{{Name: "controller", Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: 7958}}}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "controller", RestartCount: restarts}}
	return p
}

const pathPods = "/api/v1/namespaces/berth-system/pods"

func TestBundle(t *testing.T) {
	stranger := aPod("stranger", 0)
	stranger.Labels = nil
	s := &apiServer{
		lists: map[string][]any{
			pathServices: {aService("shop", "web", "192.0.2.1")}, pathNodes: {aNode("node-1")},
			pathPods: {aPod("controller-a", 0), aPod("controller-b", 2), stranger},
		},
		refuse: map[string]int{
			"/api/v1/events": http.StatusForbidden, pathPods + "/http:controller-b:7958/proxy/metrics": http.StatusForbidden,
			"/apis/berth.dev/v1beta1/bfdprofiles": http.StatusNotFound,
		},
	}
	file := filepath.Join(t.TempDir(), "it.tar.gz")
	out, errOut, err := s.run(t, "bundle", "-f", file)
	if err != nil || strings.TrimSpace(out) != file || !strings.Contains(errOut, "cannot read events: forbidden") {
		t.Fatalf("%v: %s, %s", err, out, errOut)
	}
	archive, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = archive.Close() }()
	contents := unpack(t, archive)
	for name, has := range map[string]bool{
		"README.txt": true, "objects/services.yaml": true, "reports/explain/shop/web.txt": true,
		"logs/controller-a/controller.log": true, "logs/controller-a/controller.previous.log": false, "logs/controller-b/controller.previous.log": true,
		"metrics/controller-a.txt": true, "metrics/controller-b.txt": false, "logs/stranger/controller.log": false,
	} {
		if _, found := contents[name]; found != has {
			t.Errorf("%s is there: %v", name, found)
		}
	}
	for _, what := range []string{"events: ", "bfdprofiles: ", "metrics/controller-b.txt: "} {
		if !strings.Contains(contents["errors.txt"], what) {
			t.Errorf("errors.txt lacks %s:\n%s", what, contents["errors.txt"])
		}
	}
	if strings.Contains(contents["objects/pods.yaml"], "stranger") {
		t.Error("a Pod is in it that is not Berth's")
	}
	if _, _, err := s.run(t, "bundle", "-f", file); !errors.Is(err, os.ErrExist) {
		t.Errorf("the archive is overwritten: %v", err)
	}
}

func TestBundleToStandardOutput(t *testing.T) {
	out, _, err := (&apiServer{}).run(t, "bundle", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	if contents := unpack(t, strings.NewReader(out)); contents["errors.txt"] != "" || contents["README.txt"] == "" {
		t.Errorf("it has %v", contents)
	}
}

func TestBundleOfANamespace(t *testing.T) {
	s := &apiServer{
		lists: map[string][]any{
			"/api/v1/namespaces/shop/services":       {aService("shop", "web", "192.0.2.1")},
			"/api/v1/namespaces/shop/events":         {anEvent("shop", "web")},
			"/api/v1/namespaces/berth-system/events": {anEvent("berth-system", "speaker")},
		},
		refuse: map[string]int{pathServices: http.StatusForbidden, "/api/v1/events": http.StatusForbidden},
	}
	out, errOut, err := s.run(t, "bundle", "-f", "-", "-n", "shop")
	if err != nil || errOut != "" {
		t.Fatal(err, errOut)
	}
	events := unpack(t, strings.NewReader(out))["objects/events.yaml"]
	if !strings.Contains(events, "name: web") || !strings.Contains(events, "name: speaker") {
		t.Errorf("the events are %s", events)
	}
}

func anEvent(namespace, service string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: service},
		InvolvedObject: corev1.ObjectReference{Kind: "Service", Namespace: namespace, Name: service},
	}
}

func TestBundleWithoutAServer(t *testing.T) {
	var stdout, stderr strings.Builder
	cmd := newCommand(newOptions(&stdout, &stderr))
	cmd.SetArgs([]string{"bundle", "-f", "-", "--server", "http://127.0.0.1:1", "--kubeconfig", os.DevNull})
	if err := cmd.ExecuteContext(t.Context()); err == nil || stdout.Len() > 0 {
		t.Errorf("got %v, %d bytes", err, stdout.Len())
	}
}
