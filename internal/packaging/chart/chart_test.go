package chart

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"sigs.k8s.io/yaml"
)

const (
	root   = "../../.."
	folder = root + "/deploy/chart"
)

// object is a Kubernetes object.
type object map[string]any

// at returns what is at a path of an object; nil if there is nothing.
func (o object) at(path ...string) any {
	var value any = map[string]any(o)
	for _, key := range path {
		fields, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = fields[key]
	}
	return value
}

// objects are told apart by kind and name.
type objects map[string]object

func parse(t *testing.T, text string) objects {
	t.Helper()
	all := objects{}
	for _, document := range strings.Split("\n"+text, "\n---") {
		o := object{}
		if err := yaml.UnmarshalStrict([]byte(document), &o); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if len(o) == 0 {
			continue
		}
		key := fmt.Sprintf("%v/%v", o["kind"], o.at("metadata", "name"))
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = o
	}
	return all
}

// render is `helm template` in a namespace with values given as YAML.
func render(namespace, values string) (string, error) {
	chart, err := loader.Load(folder)
	if err != nil {
		return "", err
	}
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		return "", err
	}
	options := chartutil.ReleaseOptions{Name: "test", Namespace: namespace, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, given, options, chartutil.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".yaml") {
			text.WriteString("\n---\n" + files[name])
		}
	}
	return text.String(), nil
}

func rendered(t *testing.T, values string) objects {
	t.Helper()
	text, err := render("berth-system", values)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

func manifest(t *testing.T) objects {
	t.Helper()
	content, err := os.ReadFile(root + "/deploy/berth.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(content))
}

// unlabelled removes what the chart says about itself.
func (o object) unlabelled() object {
	metadata := o.at("metadata").(map[string]any)
	delete(metadata, "labels")
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		delete(annotations, "helm.sh/resource-policy")
	}
	return o
}

func TestDefaultIsTheManifest(t *testing.T) {
	t.Parallel()
	got, want := rendered(t, "namespace: {create: true}"), manifest(t)
	for key := range got {
		if want[key] == nil {
			t.Errorf("only the chart has %s", key)
		}
	}
	for key, w := range want {
		g := got[key]
		if g == nil {
			t.Errorf("the chart lacks %s", key)
			continue
		}
		if key == "Namespace/berth-system" {
			labels := g.at("metadata", "labels").(map[string]any)
			for label, value := range w.at("metadata", "labels").(map[string]any) {
				if labels[label] != value {
					t.Errorf("the namespace has %s=%v, want %v", label, labels[label], value)
				}
			}
		}
		if g, w = g.unlabelled(), w.unlabelled(); !reflect.DeepEqual(g, w) {
			a, _ := yaml.Marshal(g)
			b, _ := yaml.Marshal(w)
			t.Errorf("%s of the chart:\n%s\nof the manifest:\n%s", key, a, b)
		}
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", everything, "{l2: {enabled: false}, crds: {keep: false}}", "{namespace: {create: true}, podMonitor: {enabled: true}}"} {
		values, err := chartutil.ReadValues([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, message := range lint.All(folder, values, "berth-system", true).Messages {
			if message.Severity > support.InfoSev {
				t.Errorf("with %q: %v", text, message)
			}
		}
	}
}

// everything sets every value to something else than the default.
const everything = `
image: {registry: registry.example.com/mirror, tag: v9, pullPolicy: Always, pullSecrets: [{name: pull}]}
loadBalancerClass: example.com/mine
defaultLoadBalancer: false
bgp: {enabled: false}
log: {level: debug, format: json}
crds: {install: true, keep: false}
admissionPolicies: {enabled: true}
networkPolicy: {enabled: false}
podDisruptionBudget: {enabled: false}
podMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}, endpoint: {tlsConfig: {serverName: m}}}
serviceMonitor: {enabled: true, interval: 16s, labels: {release: prometheus}, endpoint: {tlsConfig: {serverName: n}}}
monitoring: {rules: {enabled: true, labels: {release: rules}}, dashboards: {enabled: true, labels: {grafana: here}}}
metrics: {tls: {secretName: certificate}, auth: true}
controller: &pod
  extraArgs: [--metrics-addr=127.0.0.1:7958]
  resources: {limits: {memory: 1Gi}}
  priorityClassName: ""
  nodeSelector: {example.com/role: edge}
  tolerations: [{key: example.com/edge, operator: Exists}]
  podAnnotations: {example.com/annotation: a}
  podLabels: {example.com/label: l}
speaker: *pod
`

func TestValuesTakeEffect(t *testing.T) {
	t.Parallel()
	all := rendered(t, everything)
	for _, absent := range []string{"NetworkPolicy/controller", "PodDisruptionBudget/controller", "Namespace/berth-system", "ValidatingAdmissionPolicy/berth-without-l2"} {
		if all[absent] != nil {
			t.Errorf("%s is there", absent)
		}
	}
	for _, present := range []string{"PodMonitor/berth-controller", "PodMonitor/berth-speaker", "ValidatingAdmissionPolicy/berth-without-bgp", "ValidatingAdmissionPolicyBinding/berth-without-bgp"} {
		if all[present] == nil {
			t.Errorf("%s is missing", present)
		}
	}
	if annotations := all["CustomResourceDefinition/nodestates.berth.dev"].at("metadata", "annotations"); strings.Contains(fmt.Sprint(annotations), "keep") {
		t.Errorf("the CRDs are kept: %v", annotations)
	}
	for name, workload := range map[string]object{"controller": all["Deployment/controller"], "speaker": all["DaemonSet/speaker"]} {
		content, err := yaml.Marshal(workload)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{
			"image: registry.example.com/mirror/" + name + ":v9", "imagePullPolicy: Always", "- name: pull",
			"- --load-balancer-class=example.com/mine", "- --default-load-balancer=false", "- --log-level=debug", "- --log-format=json",
			"- --metrics-addr=127.0.0.1:7958", "- --metrics-tls-private-key-file=/etc/berth/metrics/tls.key", "- --metrics-auth", "secretName: certificate", "memory: 1Gi", "example.com/role: edge", "key: example.com/edge",
			"example.com/annotation: a", "example.com/label: l",
		} {
			if !strings.Contains(string(content), part) {
				t.Errorf("the %s lacks %q:\n%s", name, part, content)
			}
		}
		for _, part := range []string{"priorityClassName", "NET_BIND_SERVICE", "cpu: 10m\n        limits"} {
			if strings.Contains(string(content), part) {
				t.Errorf("the %s has %q", name, part)
			}
		}
	}
}

func TestMonitoring(t *testing.T) {
	t.Parallel()
	all := rendered(t, everything)
	for name, port := range map[string]int{"controller": 7958, "speaker": 7957} {
		service := all["Service/"+name+"-metrics"]
		selects := map[string]any{"app.kubernetes.io/component": name, "app.kubernetes.io/name": "berth"}
		if ports := fmt.Sprint(service.at("spec", "ports")); !reflect.DeepEqual(service.at("spec", "selector"), selects) || !strings.Contains(ports, fmt.Sprint("port:", port)) {
			t.Errorf("Service %s-metrics: %v", name, service)
		}
		for kind, field := range map[string]string{"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"} {
			monitor := all[kind+"/berth-"+name]
			if !reflect.DeepEqual(monitor.at("spec", "selector", "matchLabels"), selects) || monitor.at("metadata", "labels", "release") != "prometheus" {
				t.Errorf("%s %s: %v", kind, name, monitor)
			}
			endpoint := fmt.Sprint(monitor.at("spec", field))
			for _, part := range []string{"port:metrics", "scheme:https", "targetLabel:node", "interval:1", "serverName:"} {
				if !strings.Contains(endpoint, part) {
					t.Errorf("%s %s lacks %s: %s", kind, name, part, endpoint)
				}
			}
		}
		labels := service.at("metadata", "labels").(map[string]any)
		for label, value := range selects {
			if labels[label] != value {
				t.Errorf("the ServiceMonitor does not select Service %s-metrics", name)
			}
		}
	}
	if rules := all["PrometheusRule/berth"]; rules.at("spec", "groups") == nil || rules.at("metadata", "labels", "release") != "rules" {
		t.Errorf("rules: %v", rules)
	}
	for _, name := range []string{"overview", "node"} {
		dashboard := all["ConfigMap/berth-dashboard-"+name]
		if text, _ := dashboard.at("data", name+".json").(string); !strings.Contains(text, "{{") || dashboard.at("metadata", "labels", "grafana") != "here" {
			t.Errorf("dashboard %s: %v", name, dashboard)
		}
	}
	if all["ClusterRoleBinding/berth-metrics-reviewer"] == nil || all["ClusterRole/berth-metrics-reader"] == nil {
		t.Error("nobody may review tokens, or read metrics")
	}
	for _, key := range slices.Sorted(maps.Keys(rendered(t, ""))) {
		if strings.Contains(key, "metrics") || strings.Contains(key, "dashboard") || strings.Contains(key, "Monitor") || strings.Contains(key, "PrometheusRule") {
			t.Errorf("%s is there though nobody asked for it", key)
		}
	}
}

func TestWithoutLayer2(t *testing.T) {
	t.Parallel()
	all := rendered(t, "{l2: {enabled: false}, crds: {install: false}, admissionPolicies: {enabled: false}}")
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(key, "CustomResourceDefinition/") || strings.HasPrefix(key, "ValidatingAdmissionPolicy/berth-speaker") {
			t.Errorf("%s is there", key)
		}
	}
	if all["ValidatingAdmissionPolicy/berth-without-l2"] == nil {
		t.Error("layer 2 can be configured")
	}
}

// Policies and bindings name the ServiceAccounts of the namespace they are in.
func TestAnotherNamespace(t *testing.T) {
	t.Parallel()
	text, err := render("elsewhere", "")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "berth-system") {
		t.Error("something is still in berth-system")
	}
	if !strings.Contains(text, "system:serviceaccount:elsewhere:speaker") {
		t.Error("the policies do not know the speakers")
	}
}

func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	for _, values := range []string{
		"{log: {level: loud}}",
		"{log: {format: xml}}",
		"{image: {pullPolicy: Sometimes}}",
		"{image: {tag: 'a b'}}",
		"{image: {registry: example.com/}}",
		"{image: {repository: typo}}",
		"{controller: {replicas: 0}}",
		"{controller: {extraArgs: [metrics-addr=:1]}}",
		"{speaker: {replicas: 2}}",
		"{loadBalancerClass: 'Not A Class'}",
		"{podMonitor: {interval: often}}",
		"{serviceMonitor: {interval: often}}",
		"{monitoring: {alerts: {enabled: true}}}",
		"{metrics: {auth: true}}",
		"{metrics: {auth: true, tls: {secretName: ''}}}",
		"{l2: {enabled: false}, bgp: {enabled: false}}",
		"{unknown: true}",
	} {
		if _, err := render("berth-system", values); err == nil {
			t.Errorf("the schema takes %s", values)
		}
	}
}

// Every default has an entry in the schema, and an entry a default.
func TestSchemaIsComplete(t *testing.T) {
	t.Parallel()
	chart, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	schema := object{}
	if err := yaml.Unmarshal(chart.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	var compare func(path string, schema object, values map[string]any)
	compare = func(path string, schema object, values map[string]any) {
		properties, ok := schema["properties"].(map[string]any)
		if !ok || schema["additionalProperties"] != false {
			return // free to choose
		}
		for name, property := range properties {
			value, found := values[name]
			if !found && name != "global" && !strings.HasSuffix(path, ".resources") {
				t.Errorf("%s.%s has no default", path, name)
			}
			if fields, ok := value.(map[string]any); ok {
				compare(path+"."+name, property.(map[string]any), fields)
			}
		}
	}
	compare("", schema, chart.Values)
}

// overlay builds a kustomize overlay with the kustomize that is pinned.
func overlay(t *testing.T, name string) objects {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "tool", "-modfile=internal/tools/go.mod", "kustomize", "build", "config/overlays/"+name)
	command.Dir = root
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %v", command.Args, err)
	}
	return parse(t, string(out))
}

func TestOverlays(t *testing.T) {
	t.Parallel()
	folders, err := filepath.Glob(root + "/config/overlays/*")
	if err != nil {
		t.Fatal(err)
	}
	// The chart can do what the overlays do, in the same way.
	const watched = "podMonitor: {enabled: true}\nmonitoring: {rules: {enabled: true}, dashboards: {enabled: true}}"
	alike := map[string]string{"l2-only": "bgp: {enabled: false}", "bgp-only": "l2: {enabled: false}", "monitoring": watched, "secure-metrics": watched + "\nmetrics: {tls: {secretName: berth-metrics}, auth: true}"}
	if len(folders) != len(alike) {
		t.Errorf("overlays: %v", folders)
	}
	for name, values := range alike {
		got, want := overlay(t, name), rendered(t, "namespace: {create: true}\n"+values)
		for key := range want {
			if got[key] == nil {
				t.Errorf("%s lacks %s", name, key)
			}
		}
		for key := range got {
			if want[key] == nil {
				t.Errorf("only %s has %s, not the chart", name, key)
			} else if g, w := got[key].unlabelled(), want[key].unlabelled(); !reflect.DeepEqual(g, w) {
				t.Errorf("%s of %s: %v\nof the chart: %v", key, name, g, w)
			}
		}
	}
}

// What selects Pods selects those that it means.
func TestSelectors(t *testing.T) {
	t.Parallel()
	all := manifest(t)
	labels := func(path ...string) func(key string) string {
		return func(key string) string { return fmt.Sprint(all[key].at(path...)) }
	}
	controller := labels("spec", "template", "metadata", "labels")("Deployment/controller")
	for key, path := range map[string][]string{
		"PodDisruptionBudget/controller": {"spec", "selector", "matchLabels"},
		"NetworkPolicy/controller":       {"spec", "podSelector", "matchLabels"},
		"Deployment/controller":          {"spec", "selector", "matchLabels"},
	} {
		if got := labels(path...)(key); got != controller {
			t.Errorf("%s selects %s, the controller is %s", key, got, controller)
		}
	}
	for _, mode := range []string{"enforce", "audit", "warn"} {
		if got := all["Namespace/berth-system"].at("metadata", "labels", "pod-security.kubernetes.io/"+mode); got != "privileged" {
			t.Errorf("Pod Security %s is %v", mode, got)
		}
	}
}
