package lab

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-lb/berth/internal/lab/network"
)

func TestEveryUserHasATokenOfItsOwn(t *testing.T) {
	t.Parallel()
	plan, err := network.NewPlan(2, network.Dual)
	if err != nil {
		t.Fatal(err)
	}
	users := newCredentials(plan)
	lines := strings.Split(strings.TrimSpace(string(users.tokenFile())), "\n")
	tokens := map[string]bool{}
	var names []string
	for _, line := range lines {
		fields := strings.Split(line, ",")
		if len(fields) != 4 || len(fields[0]) < 20 {
			t.Fatalf("unexpected line %q", line)
		}
		tokens[fields[0]] = true
		names = append(names, fields[1])
	}
	if want := []string{"admin", "system:node:node-1", "system:node:node-2"}; !slices.Equal(names, want) || len(tokens) != len(want) {
		t.Errorf("%d tokens for %v, want one each for %v", len(tokens), names, want)
	}
}

func TestKubeconfig(t *testing.T) {
	t.Parallel()
	content, err := kubeconfig("demo", "https://127.0.0.1:40123", []byte("authority"), user{name: "admin", token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(content)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://127.0.0.1:40123" || config.BearerToken != "secret" || string(config.CAData) != "authority" || config.Insecure {
		t.Errorf("unexpected %+v", config)
	}
}
