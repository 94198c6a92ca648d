package docs

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const example = `# A title: of ` + "`code`" + `

See [there](other.md#part) and ` + "`[not](this.md)`" + `.

` + "```sh run" + `
# a comment
kubectl get pods \
  --all-namespaces
echo done
` + "```" + `

## Part

- in a list:

  ` + "```console run" + `
  $ echo one
  one
  ` + "```" + `

` + "```yaml kind=BGPPeer" + `
spec: {myASN: 1}
---
spec: {myASN: 2}
` + "```" + `

## Part

` + "```yaml" + `
apiVersion: v1
kind: Namespace
---
values: of a chart
` + "```" + `
`

func TestParse(t *testing.T) {
	t.Parallel()
	page, err := Parse("docs/example.md", example)
	if err != nil {
		t.Fatal(err)
	}
	type block struct {
		Where     string
		Run       bool
		Commands  []string
		Manifests []string
	}
	var got []block
	for _, b := range page.Blocks {
		manifests, err := b.Manifests()
		if err != nil {
			t.Fatal(err)
		}
		one := block{Where: b.Where(), Run: b.Is("run")}
		if b.Language != "yaml" {
			one.Commands = b.Commands()
		}
		for _, m := range manifests {
			one.Manifests = append(one.Manifests, m.APIVersion+" "+m.Kind)
		}
		got = append(got, one)
	}
	want := []block{
		{Where: "docs/example.md:6", Run: true, Commands: []string{"kubectl get pods \\\n  --all-namespaces", "echo done"}},
		{Where: "docs/example.md:17", Run: true, Commands: []string{"echo one"}},
		{Where: "docs/example.md:22", Manifests: []string{"berth.dev/v1beta1 BGPPeer", "berth.dev/v1beta1 BGPPeer"}},
		{Where: "docs/example.md:30", Manifests: []string{"v1 Namespace"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Span{{Line: 3, Text: "other.md#part"}}, page.Links()); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a-title-of-code", "part", "part-1"}, page.Anchors()); diff != "" {
		t.Errorf("anchors (-want +got):\n%s", diff)
	}
	if _, err := Parse("p.md", "```\nno end"); err == nil || !strings.Contains(err.Error(), "p.md:2") {
		t.Errorf("a block without an end: %v", err)
	}
}

func TestProgramOf(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"sudo bin/lab --name a up":               "lab [--name a up]",
		"kubectl berth drain NODE --timeout=1m":  "kubectl-berth [drain NODE --timeout=1m]",
		"kubectl get pods":                       "kubectl [get pods]",
		"RUN=TestBGP make test-lab":              "make [test-lab]",
		"--stand-in=false":                       " [--stand-in=false]",
		"sudo -E bin/lab down":                   "lab [down]",
		"kubectl-berth completion bash":          "kubectl-berth [completion bash]",
		"KUBECONFIG=kubeconfig kubectl get node": "kubectl [get node]",
	} {
		program, args := programOf(line)
		if got := program + " [" + strings.Join(args, " ") + "]"; got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}
