package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// planned is a cluster with a pool of one address, which shop/web has.
func planned() *apiServer {
	web := aService("shop", "web", "192.0.2.1")
	web.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	web.Status.Conditions = []metav1.Condition{{
		Type: v1beta1.ConditionAddressAllocated, Status: metav1.ConditionTrue, Reason: "Allocated", Message: "192.0.2.1 from pool gold",
	}}
	gold := &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "gold"}}
	gold.Spec.Addresses = []v1beta1.AddressRange{"192.0.2.1"}
	return &apiServer{
		lists:   map[string][]any{pathServices: {web}, pathPools: {gold}, pathNodes: {aNode("node-1")}},
		written: func(*http.Request) int { return http.StatusOK },
	}
}

const (
	goldAsItIs   = "apiVersion: berth.dev/v1beta1\nkind: IPAddressPool\nmetadata: {name: gold}\nspec: {addresses: [192.0.2.1]}\n"
	goldReplaced = "apiVersion: berth.dev/v1beta1\nkind: IPAddressPool\nmetadata: {name: gold}\nspec: {addresses: [192.0.2.2], onShrink: Reassign}\n"
	silver       = "apiVersion: berth.dev/v1beta1\nkind: IPAddressPool\nmetadata: {name: silver}\nspec: {addresses: [192.0.2.9]}\n"
)

func manifestOf(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "change.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPlanCommand(t *testing.T) {
	for name, test := range map[string]struct {
		text    string
		args    []string
		changes bool
		says    string
	}{
		"nothing":             {goldAsItIs, nil, false, "Nothing would change."},
		"an address changes":  {goldReplaced, nil, true, "192.0.2.1 -> 192.0.2.2"},
		"as JSON":             {goldReplaced, []string{"-o", "json"}, true, `"AddressChanged"`},
		"that is a loss":      {goldReplaced, []string{"--fail-on", "loss"}, true, "1 loss"},
		"a pool more":         {silver, nil, true, "IPAddressPool silver"},
		"that is none":        {silver, []string{"--fail-on=loss"}, false, "nothing is lost"},
		"a pool less":         {"", []string{"--delete", "ipaddresspools/gold"}, true, "Deleted"},
		"the whole":           {silver, []string{"--prune"}, true, "IPAddressPool gold     Deleted"},
		"a Service less":      {"", []string{"--delete", "svc/web"}, true, "Service shop/web loses 192.0.2.1"},
		"one that is deleted": {silver, []string{"--prune", "--delete", "IPAddressPool/gold"}, true, "IPAddressPool gold     Deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"plan"}, test.args...)
			if test.text != "" {
				args = append(args, "-f", manifestOf(t, test.text))
			}
			out, errOut, err := planned().run(t, args...)
			if errors.Is(err, errPlanned) != test.changes || err != nil && !test.changes || errOut != "" {
				t.Errorf("got %v, %s", err, errOut)
			}
			if !strings.Contains(out, test.says) {
				t.Errorf("it does not say %q:\n%s", test.says, out)
			}
		})
	}
}

// TestPlanChangesNothing: the API server is asked to validate, and to write nothing.
func TestPlanChangesNothing(t *testing.T) {
	s := planned()
	var asked []string
	s.written = func(r *http.Request) int {
		asked = append(asked, r.Method+" "+r.URL.Path+"?"+r.URL.RawQuery)
		return http.StatusOK
	}
	if _, _, err := s.run(t, "plan", "-f", manifestOf(t, goldReplaced+"---\n"+silver)); !errors.Is(err, errPlanned) {
		t.Error(err)
	}
	want := []string{
		"PUT " + pathPools + "/gold?dryRun=All&fieldValidation=Strict&timeout=30s",
		"POST " + pathPools + "?dryRun=All&fieldValidation=Strict&timeout=30s",
	}
	if strings.Join(asked, "\n") != strings.Join(want, "\n") || len(s.patches) > 0 {
		t.Errorf("asked %q, patched %q", asked, s.patches)
	}
}

// TestPlanGoesOnAfterAConflict: a status that was written meanwhile is no obstacle.
func TestPlanGoesOnAfterAConflict(t *testing.T) {
	s := planned()
	tries := 0
	s.written = func(*http.Request) int {
		if tries++; tries < 3 {
			return http.StatusConflict
		}
		return http.StatusOK
	}
	if _, errOut, err := s.run(t, "plan", "-f", manifestOf(t, goldAsItIs)); err != nil || tries != 3 {
		t.Errorf("got %v after %d tries, %s", err, tries, errOut)
	}
}

func TestPlanOfWhoMayNotWrite(t *testing.T) {
	s := planned()
	s.written = func(*http.Request) int { return http.StatusForbidden }
	out, _, err := s.run(t, "plan", "-f", manifestOf(t, goldReplaced))
	if !errors.Is(err, errPlanned) || !strings.Contains(out, "not asked to validate what is of kind IPAddressPool") || !strings.Contains(out, "192.0.2.1 -> 192.0.2.2") {
		t.Errorf("got %v, %s", err, out)
	}
	_, _, err = s.run(t, "plan", "-f", manifestOf(t, "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"))
	if err == nil || !strings.Contains(err.Error(), "only the API server can complete a Service") {
		t.Errorf("got %v", err)
	}
}

// TestPlanOfWhoMayNotRead: what was not read cannot be judged, so there is no plan.
func TestPlanOfWhoMayNotRead(t *testing.T) {
	s := planned()
	s.refuse = map[string]int{"/apis/discovery.k8s.io/v1/endpointslices": http.StatusForbidden}
	out, _, err := s.run(t, "plan", "-f", manifestOf(t, goldAsItIs))
	if err == nil || errors.Is(err, errPlanned) || !strings.Contains(err.Error(), "reading endpointslices") || out != "" {
		t.Errorf("got %v, %s", err, out)
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	s := planned()
	s.written = func(*http.Request) int { return http.StatusUnprocessableEntity }
	path := manifestOf(t, goldReplaced)
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, "nothing to plan"},
		{[]string{"-f", path}, "change.yaml, document 1: IPAddressPool gold: unprocessable entity"},
		{[]string{"-f", path, "-f", path}, "is in " + path},
		{[]string{"-f", "nope.yaml"}, "no such file"},
		{[]string{"-f", manifestOf(t, strings.Replace(goldReplaced, "addresses", "adresses", 1))}, `unknown field "spec.adresses"`},
		{[]string{"-f", manifestOf(t, strings.Replace(goldReplaced, "IPAddressPool", "NodeState", 1))}, "kind NodeState of berth.dev/v1beta1 does not belong here"},
		{[]string{"--prune", "--delete", "bgppeer/tor"}, "--prune goes with -f"},
		{[]string{"--delete", "bgppeer/tor"}, "there is no BGPPeer tor to delete"},
		{[]string{"--delete", "community"}, "is not KIND/NAME"},
		{[]string{"--delete", "pod/x"}, "there is no kind pod"},
		{[]string{"--delete", "communities/x"}, "there is no Community x"},
		{[]string{"-f", path, "--fail-on", "rain"}, "it is change or loss"},
	} {
		_, _, err := s.run(t, append([]string{"plan"}, test.args...)...)
		if err == nil || errors.Is(err, errPlanned) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%v: got %v, want %q", test.args, err, test.says)
		}
	}
}
