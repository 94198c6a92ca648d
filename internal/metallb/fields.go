package metallb

import (
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Bounds that the schemas of Berth's kinds set and those of MetalLB do not. What
// else the schemas ask for, package config checks as well.
const (
	mostAddresses    = 64
	mostNames        = 256
	mostSelectors    = 32
	mostLabels       = 32
	mostExpressions  = 16
	mostValues       = 64
	mostInterfaces   = 64
	mostInterface    = 15
	mostPassword     = 80
	mostCommunityRef = 63
)

// bound refuses lists that are too long.
func bound(s *source, field string, n, most int) {
	if n > most {
		s.refuse(field, "has %d entries, and Berth takes %d at most; make two objects of it", n, most)
	}
}

// checkName refuses what no object can be called.
func checkName(s *source, field, name string) {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		s.refuse(field, "%q is not the name of an object", name)
	}
}

// names converts names of objects, each once.
func names(s *source, field string, from []string) []v1beta1.ObjectName {
	var to []v1beta1.ObjectName
	for _, name := range from {
		checkName(s, field, name)
		to = append(to, v1beta1.ObjectName(name))
	}
	to = once(to)
	bound(s, field, len(to), mostNames)
	return to
}

// once leaves out what was there before.
func once[T comparable](all []T) []T {
	var kept []T
	for _, one := range all {
		if !slices.Contains(kept, one) {
			kept = append(kept, one)
		}
	}
	return kept
}

// selectors converts label selectors.
func selectors(s *source, field string, from []metav1.LabelSelector) []v1beta1.LabelSelector {
	bound(s, field, len(from), mostSelectors)
	var to []v1beta1.LabelSelector
	for i := range from {
		to = append(to, selector(s, field, &from[i]))
	}
	return to
}

func selector(s *source, field string, from *metav1.LabelSelector) v1beta1.LabelSelector {
	bound(s, field+".matchLabels", len(from.MatchLabels), mostLabels)
	bound(s, field+".matchExpressions", len(from.MatchExpressions), mostExpressions)
	var to v1beta1.LabelSelector
	for key, value := range from.MatchLabels {
		if to.MatchLabels == nil {
			to.MatchLabels = map[string]v1beta1.LabelValue{}
		}
		to.MatchLabels[key] = v1beta1.LabelValue(value)
	}
	for _, e := range from.MatchExpressions {
		bound(s, field+".matchExpressions.values", len(e.Values), mostValues)
		requirement := v1beta1.LabelSelectorRequirement{Key: e.Key, Operator: e.Operator}
		for _, value := range e.Values {
			requirement.Values = append(requirement.Values, v1beta1.LabelValue(value))
		}
		to.MatchExpressions = append(to.MatchExpressions, requirement)
	}
	return to
}

var interfacePattern = regexp.MustCompile(`^[^\s/:]+$`)

// interfaceName checks the name of an interface, as the kernel does.
func interfaceName(s *source, field, name string) v1beta1.InterfaceName {
	if name != "" && (len(name) > mostInterface || !interfacePattern.MatchString(name) || name == "." || name == "..") {
		s.refuse(field, "%q is not the name of an interface", name)
	}
	return v1beta1.InterfaceName(name)
}

// number narrows an integer; what does not fit is refused.
func number(s *source, field string, from, least, most int64) int32 {
	if from < least || from > most {
		s.refuse(field, "%d is not from %d to %d", from, least, most)
		return 0
	}
	return int32(from)
}

// optional is number for what may be absent.
func optional(s *source, field string, from *int64, least, most int64) *int32 {
	if from == nil {
		return nil
	}
	return ptr.To(number(s, field, *from, least, most))
}

var durationPattern = regexp.MustCompile(`^([0-9]+([.][0-9]+)?(ms|s|m|h))+$`)

// duration converts a duration, which Berth wants in ms, s, m and h.
func duration(s *source, field string, from *string) v1beta1.Duration {
	if from == nil {
		return ""
	}
	text := strings.TrimSpace(*from)
	d, err := time.ParseDuration(text)
	if err != nil {
		s.refuse(field, "%q is not a duration such as 90s", text)
		return ""
	}
	if !durationPattern.MatchString(text) || len(text) > 32 {
		text = d.Round(time.Millisecond).String()
	}
	return v1beta1.Duration(text)
}
