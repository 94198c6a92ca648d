package metallb

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// How MetalLB was configured before v0.13: by AddressPools that say how they are
// announced, and before there were custom resources by a ConfigMap.
const (
	legacyPool = "AddressPool"
	legacyName = "config"
)

// withoutLegacy replaces AddressPools and the ConfigMap by what they would be today.
func (c *conversion) withoutLegacy(objects []*unstructured.Unstructured) []*unstructured.Unstructured {
	var today []*unstructured.Unstructured
	for _, object := range objects {
		switch object.GetKind() {
		case "ConfigMap":
			today = append(today, c.withoutLegacy(c.configMap(object))...)
		case legacyPool:
			today = append(today, c.addressPool(object)...)
		default:
			today = append(today, object)
		}
	}
	return today
}

// made returns an object of today that comes of an older one.
func made(from *unstructured.Unstructured, kind, name string, spec map[string]any) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	object.SetAPIVersion(Group + "/v1beta1")
	object.SetKind(kind)
	object.SetName(name)
	object.SetNamespace(from.GetNamespace())
	if from.GetKind() == legacyPool {
		object.SetLabels(from.GetLabels())
	}
	return object
}

// addressPool splits an AddressPool into a pool and its advertisements, which have
// its name.
func (c *conversion) addressPool(object *unstructured.Unstructured) []*unstructured.Unstructured {
	s := &source{object: object}
	from := decode[addressPoolSpec](s)
	pool := map[string]any{}
	content, _, _ := unstructured.NestedMap(object.Object, "spec")
	maps.Copy(pool, content)
	delete(pool, "protocol")
	delete(pool, "bgpAdvertisements")
	name := object.GetName()
	all := []*unstructured.Unstructured{made(object, "IPAddressPool", name, pool)}
	selection := func() map[string]any { return map[string]any{"ipAddressPools": []any{name}} }
	switch from.Protocol {
	case "layer2":
		all = append(all, made(object, "L2Advertisement", name, selection()))
	case "bgp":
		advertisements, _, _ := unstructured.NestedSlice(object.Object, "spec", "bgpAdvertisements")
		if len(advertisements) == 0 {
			advertisements = []any{map[string]any{}}
		}
		for i, advertisement := range advertisements {
			spec, numbered := selection(), name
			if i > 0 {
				numbered = name + "-" + strconv.Itoa(i+1)
			}
			fields, _ := advertisement.(map[string]any)
			maps.Copy(spec, fields)
			all = append(all, made(object, "BGPAdvertisement", numbered, spec))
		}
	default:
		s.refuse("spec.protocol", "%q is neither layer2 nor bgp", from.Protocol)
	}
	if s.refused {
		c.Gaps = append(c.Gaps, nameOf(object)+": "+s.gaps[len(s.gaps)-1])
		return nil
	}
	return all
}

// configMap reads the ConfigMap of before v0.13.
func (c *conversion) configMap(object *unstructured.Unstructured) []*unstructured.Unstructured {
	text, _, _ := unstructured.NestedString(object.Object, "data", legacyName)
	var parsed map[string]any
	if err := yaml.Unmarshal([]byte(text), &parsed); err != nil || len(parsed) == 0 {
		c.Gaps = append(c.Gaps, fmt.Sprintf("%s: data.config is not the configuration of MetalLB (%v)", nameOf(object), err))
		return nil
	}
	parsed, _ = modernised(parsed).(map[string]any)
	var all []*unstructured.Unstructured
	for _, section := range slices.Sorted(maps.Keys(parsed)) {
		content := parsed[section]
		items, isList := content.([]any)
		switch {
		case section == "bgpCommunities":
			all = append(all, made(object, "Community", "communities", communitiesOf(content)))
		case section == "addressPools" && isList:
			all = append(all, named(object, legacyPool, items)...)
		case section == "bfdProfiles" && isList:
			all = append(all, named(object, "BFDProfile", items)...)
		case section == "peers" && isList:
			for i, item := range items {
				spec, _ := item.(map[string]any)
				all = append(all, made(object, "BGPPeer", "peer-"+strconv.Itoa(i+1), spec))
			}
		default:
			c.Gaps = append(c.Gaps, fmt.Sprintf("%s: data.config has %s, which this program does not know", nameOf(object), section))
		}
	}
	return all
}

// named makes objects of the items of a list, which have their names in them.
func named(from *unstructured.Unstructured, kind string, items []any) []*unstructured.Unstructured {
	var all []*unstructured.Unstructured
	for _, item := range items {
		spec, _ := item.(map[string]any)
		name, _ := spec["name"].(string)
		delete(spec, "name")
		all = append(all, made(from, kind, name, spec))
	}
	return all
}

func communitiesOf(content any) map[string]any {
	values, _ := content.(map[string]any)
	var aliases []any
	for _, name := range slices.Sorted(maps.Keys(values)) {
		aliases = append(aliases, map[string]any{"name": name, "value": fmt.Sprint(values[name])})
	}
	return map[string]any{"communities": aliases}
}

// modernised gives the fields of the ConfigMap the names that they have today.
func modernised(content any) any {
	switch old := content.(type) {
	case map[string]any:
		today := map[string]any{}
		for key, value := range old {
			switch key {
			case "bgp-communities", "match-labels": // whose keys are the user's
				today[camel(key)] = value
			default:
				today[camel(key)] = modernised(value)
			}
		}
		return today
	case []any:
		for i, item := range old {
			old[i] = modernised(item)
		}
	}
	return content
}

// irregular are fields whose present name does not follow from the former one.
var irregular = map[string]string{
	"my-asn": "myASN", "peer-asn": "peerASN", "router-id": "routerID", "ebgp-multihop": "ebgpMultiHop",
	"localpref": "localPref", "avoid-buggy-ips": "avoidBuggyIPs", "minimum-ttl": "minimumTtl",
}

// camel turns "hold-time" into "holdTime".
func camel(key string) string {
	if name, is := irregular[key]; is {
		return name
	}
	parts := strings.Split(key, "-")
	for i, part := range parts[1:] {
		if part != "" {
			parts[i+1] = strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return strings.Join(parts, "")
}
