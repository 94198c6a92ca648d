package e2e

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// testBundle: the support archive has what helps, and the data of no Secret of
// Berth's namespace, the membership's key and passwords of peers among them, nor the
// password in a BGPPeer or in what kubectl has noted of it.
func testBundle(e *env) {
	e.usePool(1)
	e.createDeployment(deployment{app: "web", replicas: 1})
	e.createService("web")
	e.waitAnnounced("web")
	const clear, kept = "a-password-in-clear", "a-password-in-a-secret"
	e.makeSecret(kept)
	for name, password := range map[string]string{"-clear": "password: " + clear, "-kept": "passwordSecret: {name: " + e.namespace + "}"} {
		e.applyPeer(e.namespace+name, password)
	}

	file := filepath.Join(e.TempDir(), "bundle.tar.gz")
	if out, status := e.plugin("bundle", "-f", file); status != 0 {
		e.Fatalf("kubectl berth bundle ends with %d and says %s", status, out)
	}
	contents := e.unpack(file)
	e.expectHelpful(contents)
	for _, secret := range append(e.secretData(), clear, kept) {
		for name, content := range contents {
			if strings.Contains(content, secret) {
				e.Errorf("%s has a secret in it", name)
			}
		}
	}
}

func (e *env) makeSecret(password string) {
	e.Helper()
	secrets := e.lab.kube.CoreV1().Secrets(berthNamespace)
	_, err := secrets.Create(e.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: e.namespace}, Type: corev1.SecretTypeBasicAuth,
		StringData: map[string]string{corev1.BasicAuthPasswordKey: password},
	}, metav1.CreateOptions{})
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = secrets.Delete(e.ctx, e.namespace, metav1.DeleteOptions{}) })
}

// applyPeer makes a BGPPeer that no node has, in the way that has kubectl note all
// of it in an annotation.
func (e *env) applyPeer(name, password string) {
	e.Helper()
	text := "apiVersion: berth.dev/v1beta1\nkind: BGPPeer\nmetadata: {name: " + name + "}\n" +
		"spec:\n  myASN: 64512\n  peerASN: 64512\n  peerAddress: 203.0.113.1\n  nodeSelectors: [{matchLabels: {rack: none}}]\n  " + password + "\n"
	if _, err := e.lab.Kubectl(e.ctx, strings.NewReader(text), "apply", "-f", "-"); err != nil {
		e.Fatal(err)
	}
	e.created = append(e.created, "bgppeers/"+name)
}

// secretData is what the Secrets of Berth's namespace hold, as it is and in base64.
func (e *env) secretData() []string {
	e.Helper()
	list, err := e.lab.kube.CoreV1().Secrets(berthNamespace).List(e.ctx, listAll)
	if err != nil {
		e.Fatal(err)
	}
	var data []string
	for _, secret := range list.Items {
		for _, value := range secret.Data {
			data = append(data, string(value), base64.StdEncoding.EncodeToString(value))
		}
	}
	if len(data) < 4 {
		e.Fatalf("there are %d Secrets, want the membership's and a peer's", len(list.Items))
	}
	return data
}

// unpack returns the files of a gzipped tar, without the folder that they are in.
func (e *env) unpack(path string) map[string]string {
	e.Helper()
	file, err := os.Open(path)
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	decompressed, err := gzip.NewReader(file)
	if err != nil {
		e.Fatal(err)
	}
	contents := map[string]string{}
	for files := tar.NewReader(decompressed); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return contents
		}
		if err != nil {
			e.Fatal(err)
		}
		content, err := io.ReadAll(files)
		if err != nil {
			e.Fatal(err)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		contents[name] = string(content)
	}
}

func (e *env) expectHelpful(contents map[string]string) {
	e.Helper()
	speaker, leader := e.speakerOn("node-1").Name, e.leader().Name
	for name, text := range map[string]string{
		"README.txt":                         "support bundle",
		"versions.txt":                       "Kubernetes v1.",
		"reports/status.txt":                 "Berth",
		"reports/services.txt":               e.namespace,
		"objects/services.yaml":              v1beta1.ConditionAnnounced,
		"objects/bgppeers.yaml":              "password: (left out)",
		"objects/endpointslices.yaml":        "web-",
		"objects/events.yaml":                "reason: Announced",
		"objects/leases.yaml":                leader,
		"objects/pods.yaml":                  speaker,
		"logs/" + leader + "/controller.log": "msg=leading",
		"logs/" + speaker + "/speaker.log":   "level=info",
		"metrics/" + speaker + ".txt":        "berth_membership_members",
	} {
		if !strings.Contains(contents[name], text) {
			e.Errorf("the bundle's %s lacks %q; it has %d bytes; errors: %s", name, text, len(contents[name]), contents["errors.txt"])
		}
	}
}
