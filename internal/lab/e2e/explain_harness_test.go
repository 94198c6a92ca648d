package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// updateFlag has the golden files written. Whether what they then say is true has
// to be judged by whoever reads the difference.
var updateFlag = flag.Bool("update", false, "write the golden files instead of comparing with them")

// situation is something that is broken, for real, and what explain has to make of
// it.
type situation struct {
	name string
	// arrange makes it so, and a Service named web that it concerns.
	arrange func(*env)
	// subject is what is explained; svc/web unless given.
	subject func(*env) string
	// cause and fix have these texts. There is none where cause is "".
	cause, fix string
	// mend does what fix says, after which all is well; nil where that takes more.
	mend func(*env)
	// status is what `kubectl berth status` says of it as an error, "" where that is
	// not looked at.
	status string
}

// explained is the lab in which things are broken, and what all situations use.
type explained struct {
	*testLab
	// pod is behind the Services that have endpoints.
	pod *corev1.Pod
	// benches are the routers.
	benches []*bench
	// names are those of all situations so far, as each has a golden file of its own.
	names sync.Map
}

// explainLimit is how long the statuses may take to say what is wrong, routers and
// timers of theirs included.
const explainLimit = time.Minute

// lookAgain is how often explain is asked while it says something else.
const lookAgain = 400 * time.Millisecond

// situations are those that do not disturb each other.
func (x *explained) situations() []situation {
	return slices.Concat(
		x.routerSituations(), x.peerSituations(), x.squatterSituations(), // which take longest
		x.classSituations(), x.poolSituations(), x.wishSituations(), x.layer2Situations(), x.endpointSituations(),
	)
}

// sideBySide runs them, and the commands.
func (x *explained) sideBySide(t *testing.T) {
	t.Run("Broken", func(t *testing.T) {
		t.Run("Commands", func(t *testing.T) {
			t.Parallel()
			x.testCommands(newEnv(t, x.testLab))
		})
		for _, s := range x.situations() {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				e := newEnv(t, x.testLab)
				s.arrange(e)
				x.expectExplained(e, s)
				if s.mend != nil {
					s.mend(e)
					x.expectHealthy(e)
				}
			})
		}
	})
}

// expectHealthy waits until explain finds nothing wrong any more: so what it named
// before was what was wrong.
func (x *explained) expectHealthy(e *env) {
	e.Helper()
	e.waitFor("explain to find nothing wrong", explainLimit, func(context.Context) (bool, string) {
		e.pause(lookAgain, "each look costs half a second of a processor")
		out, status := e.plugin("explain", "svc/web", "-n", e.namespace)
		return status == 0 && (&situation{}).namedIn(out), out
	})
}

// edited and patched are for mend: what is wrong with the Service, or with the object
// of the test's name, is corrected.
func edited(patch string) func(*env) { return func(e *env) { e.editService("web", patch) } }

func patched(plural string, spec map[string]any) func(*env) {
	return func(e *env) { e.patch(plural, e.namespace, map[string]any{"spec": spec}) }
}

// expectExplained runs the plugin until it names the cause and says exactly what
// the golden file has.
func (x *explained) expectExplained(e *env, s situation) {
	e.Helper()
	x.names.Store(s.name, true)
	subject := "svc/web"
	if s.subject != nil {
		subject = s.subject(e)
	}
	path := filepath.Join("testdata", "explain", s.name+".txt")
	var want string
	if !*updateFlag {
		content, err := os.ReadFile(path)
		if err != nil {
			e.Fatal(err)
		}
		want = string(content)
	}
	var before string
	e.waitFor("explain to name the cause of "+s.name, explainLimit, func(context.Context) (bool, string) {
		e.pause(lookAgain, "each look costs half a second of a processor")
		out, status := e.plugin("explain", subject, "-n", e.namespace)
		text := e.stable(out)
		named := status == 0 && s.namedIn(text) && (text == want || *updateFlag && text == before)
		before = text
		return named, fmt.Sprintf("exit status %d:\n%s\nwant cause %q, fix %q, and the text\n%s\nIt was in full:\n%s", status, text, s.cause, s.fix, want, out)
	})
	if *updateFlag {
		if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
			e.Fatal(err)
		}
	}
	x.expectStatus(e, s)
}

// namedIn says whether the last lines of an explanation name cause and fix.
func (s *situation) namedIn(text string) bool {
	if s.cause == "" {
		return strings.HasSuffix(text, "\nNothing to fix.\n")
	}
	_, end, found := strings.Cut(text, "\nCause: ")
	cause, fix, both := strings.Cut(end, "\nFix:   ")
	return found && both && strings.Contains(cause, s.cause) && strings.Contains(fix, s.fix)
}

// expectStatus waits until status knows of it as well, and fails.
func (x *explained) expectStatus(e *env, s situation) {
	e.Helper()
	if s.status == "" {
		return
	}
	e.waitFor(fmt.Sprintf("kubectl berth status to end with 1 and to say %q", s.status), explainLimit, func(context.Context) (bool, string) {
		e.pause(lookAgain, "each look costs half a second of a processor")
		out, status := e.plugin("status", "-n", e.namespace, "-o", "wide")
		text := e.stable(out)
		return status == 1 && strings.Contains(text, s.status), fmt.Sprintf("it ends with %d:\n%s", status, text)
	})
}

var (
	addressInText  = regexp.MustCompile(`[0-9a-f]*[.:][0-9a-f.:]*[0-9a-f]`)
	controllerName = regexp.MustCompile(`controller-[0-9a-z]+-[0-9a-z]{5}`)
	speakerName    = regexp.MustCompile(`speaker-[0-9a-z]{5}`)
	poolCount      = regexp.MustCompile(`of [0-9]+ in question`)
	sourcePort     = regexp.MustCompile(`:[0-9]{5}\b`)
	moment         = regexp.MustCompile(`20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]+Z`)
	timeSince      = regexp.MustCompile(`\b([0-9]+[smh])+ ago|for ([0-9]+[smh])+\b`)
	untried        = regexp.MustCompile(`; not tried: .*`)
	// What a session that is not up is doing at the moment.
	attempt = regexp.MustCompile(`is (Idle|Connect|Active|OpenSent|OpenConfirm)\b`)
)

// stable takes out of an explanation what the next run says otherwise, or what is
// about the objects of other situations.
func (e *env) stable(text string) string {
	var kept []string
	step := ""
	for line := range strings.Lines(text) {
		detail := strings.HasPrefix(line, "        ")
		if !detail {
			_, step, _ = strings.Cut(line, " ")
			step = strings.TrimSpace(step)
		}
		about := strings.HasPrefix(step, "Pools") || strings.HasPrefix(step, "Advertised")
		if detail && about && !e.isAbout(line) {
			continue
		}
		kept = append(kept, line)
	}
	text = untried.ReplaceAllString(strings.Join(kept, ""), "; not tried: ...")
	text = strings.ReplaceAll(text, e.namespace, "NAMESPACE")
	text = sourcePort.ReplaceAllString(text, ":PORT")
	text = attempt.ReplaceAllString(text, "is DOWN")
	text = moment.ReplaceAllString(text, "THEN")
	text = controllerName.ReplaceAllString(text, "CONTROLLER")
	text = speakerName.ReplaceAllString(text, "SPEAKER")
	text = poolCount.ReplaceAllString(text, "of ALL in question")
	text = timeSince.ReplaceAllString(text, "AGE ago")
	return addressInText.ReplaceAllStringFunc(text, e.placeholder)
}

// isAbout says whether a line of details begins with an object of the test's own:
// "1. NAME: ...", "-  NAME: ..." or "KIND NAME: ...".
func (e *env) isAbout(line string) bool {
	words := strings.Fields(line)
	return len(words) > 1 && strings.HasPrefix(words[1], e.namespace)
}

// placeholder names an address of the test's slot by its place there.
func (e *env) placeholder(text string) string {
	address, err := netip.ParseAddr(text)
	if with, withPort := netip.ParseAddrPort(text); withPort == nil {
		return fmt.Sprintf("%s:%d", e.placeholder(with.Addr().String()), with.Port())
	}
	if err != nil {
		return text
	}
	for i := range e.first {
		for nth := range slotSize {
			if advance(e.first[i], nth) == address {
				return fmt.Sprintf("%s-%d", []string{"IPV4", "IPV6"}[i], nth)
			}
		}
	}
	return text
}

// What Services of situations are like.

// single makes a Service one of IPv4 without a selector, so that it has the
// endpoints that it is given.
func single(s *corev1.Service) {
	withPolicy(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol)(s)
	s.Spec.Selector = nil
}

// web makes the Service that is explained, with an endpoint.
func (x *explained) web(e *env, changes ...func(*corev1.Service)) {
	e.Helper()
	e.createService("web", append([]func(*corev1.Service){single}, changes...)...)
	e.createEndpoints("web", x.pod)
}

// other makes another Service that has its address.
func (x *explained) other(e *env, changes ...func(*corev1.Service)) {
	e.Helper()
	e.createService("other", append([]func(*corev1.Service){single}, changes...)...)
	e.createEndpoints("other", x.pod)
	e.waitAllocated("other")
}

// advertised is a pool that the change spoils, and a good advertisement of it.
func (x *explained) advertised(e *env, count int, change func(*v1beta1.IPAddressPool)) {
	e.Helper()
	e.createPool(e.namespace, e.ranges(0, count), change)
	x.advertiseOnLink(e, nil)
}

// layer2 is a good pool and an advertisement of it that the change spoils.
func (x *explained) layer2(e *env, change func(*v1beta1.L2AdvertisementSpec)) {
	e.Helper()
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	x.advertiseOnLink(e, change)
}

func (x *explained) advertiseOnLink(e *env, change func(*v1beta1.L2AdvertisementSpec)) {
	e.Helper()
	spec := v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}}
	if change != nil {
		change(&spec)
	}
	e.createAdvertisement(e.namespace, spec)
}

// ofIPv4 returns the ranges of a pool that are of IPv4.
func ofIPv4(ranges []v1beta1.AddressRange) []v1beta1.AddressRange {
	return slices.DeleteFunc(slices.Clone(ranges), func(r v1beta1.AddressRange) bool { return strings.Contains(string(r), ":") })
}

// expectAllGoldens fails the test if there is a golden file without a situation.
func (x *explained) expectAllGoldens(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob("testdata/explain/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if _, known := x.names.Load(strings.TrimSuffix(filepath.Base(file), ".txt")); !known {
			t.Errorf("%s is of no situation", file)
		}
	}
}
