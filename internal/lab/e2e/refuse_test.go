package e2e

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"
)

// refusal is a custom resource that the API server must refuse, or accept where
// says is empty.
type refusal struct {
	name string
	// spec in YAML.
	spec string
	// says are parts of the message; the first names the field.
	says []string
}

// testInvalidObjects: what makes no sense is refused by the API server itself,
// with the name of the field. Everything is only tried, so it stays without
// effect.
func testInvalidObjects(e *env) {
	tables := bgpRefusals()
	tables["ipaddresspools"] = append(addressRefusals(), poolRefusals()...)
	tables["l2advertisements"] = advertisementRefusals()
	for plural, table := range tables {
		for _, r := range table {
			e.Run(plural+"/"+r.name, func(t *testing.T) {
				t.Parallel()
				r.check(t, e, plural)
			})
		}
	}
}

func (r refusal) check(t *testing.T, e *env, plural string) {
	t.Helper()
	kind := map[string]string{
		"ipaddresspools": "IPAddressPool", "l2advertisements": "L2Advertisement",
		"bgppeers": "BGPPeer", "bgpadvertisements": "BGPAdvertisement", "communities": "Community", "bfdprofiles": "BFDProfile",
	}[plural]
	manifest := fmt.Sprintf("apiVersion: berth.dev/v1beta1\nkind: %s\nmetadata: {name: tried}\nspec: %s\n", kind, r.spec)
	content, err := yaml.ToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	err = e.lab.berth.Post().Resource(plural).Param("dryRun", "All").Param("fieldValidation", "Strict").
		SetHeader("Content-Type", "application/json").Body(content).Do(t.Context()).Error()
	if len(r.says) == 0 {
		if err != nil {
			t.Errorf("refused %s: %v", r.spec, err)
		}
		return
	}
	if err == nil {
		t.Fatalf("accepted %s", r.spec)
	}
	for _, part := range r.says {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: the message lacks %q: %v", r.spec, part, err)
		}
	}
}

// addressRefusals are about one entry of spec.addresses.
func addressRefusals() []refusal {
	bad := func(name, address, says string) refusal {
		return refusal{name: name, spec: fmt.Sprintf("{addresses: [%q]}", address), says: []string{"spec.addresses[0]", says}}
	}
	good := func(name, address string) refusal {
		return refusal{name: name, spec: fmt.Sprintf("{addresses: [%q]}", address)}
	}
	const shape, family, order = "must be a CIDR", "same family", "is it reversed?"
	return []refusal{
		good("CIDR", "192.0.2.0/24"),
		good("CIDR with host bits", "192.0.2.1/24"),
		good("CIDR of one", "192.0.2.1/32"),
		good("IPv6 CIDR", "2001:db8::/64"),
		good("large IPv6 CIDR", "2001:db8::/32"),
		good("address", "192.0.2.1"),
		good("IPv6 address", "2001:db8::1"),
		good("range", "192.0.2.1-192.0.2.9"),
		good("range of one", "192.0.2.1-192.0.2.1"),
		good("range over a byte", "192.0.2.250-192.0.3.5"),
		good("range whose text is not in order", "192.0.2.9-192.0.2.10"),
		good("IPv6 range", "2001:db8::1-2001:db8::ffff"),
		good("IPv6 range whose text is not in order", "2001:db8::9-2001:db8::a"),
		good("IPv6 range over half the space", "::2-ffff::1"),
		bad("no address", "web", shape),
		bad("empty", "", "spec.addresses[0]"),
		bad("bad CIDR", "192.0.2.0/33", shape),
		bad("bad IPv6 CIDR", "2001:db8::/129", shape),
		bad("CIDR without length", "192.0.2.0/", shape),
		bad("octet too large", "192.0.2.256", shape),
		bad("leading zero", "192.0.2.01", shape),
		bad("zone", "fe80::1%eth0", shape),
		bad("mapped IPv4", "::ffff:192.0.2.1", shape),
		bad("half a range", "192.0.2.1-", shape),
		bad("three ends", "192.0.2.1-192.0.2.2-192.0.2.3", shape),
		bad("range of CIDRs", "192.0.2.0/28-192.0.2.16/28", shape),
		bad("short range", "192.0.2.1-9", shape),
		bad("spaces in a range", "192.0.2.1 - 192.0.2.9", shape),
		bad("mixed families", "192.0.2.1-2001:db8::1", family),
		bad("mixed families, IPv6 first", "2001:db8::1-192.0.2.1", family),
		bad("reversed", "192.0.2.9-192.0.2.1", order),
		bad("reversed whose text is in order", "192.0.2.10-192.0.2.9", order),
		bad("reversed by the first byte", "193.0.2.1-192.0.2.9", order),
		bad("reversed IPv6", "2001:db8::9-2001:db8::1", order),
		bad("reversed IPv6 by the first bit", "8000::-7fff::", order),
		bad("too long", strings.Repeat("1", 80), "spec.addresses[0]"),
	}
}

// selectorRefusals are about the label selector at path, for which spec gives
// the whole spec around it.
func selectorRefusals(path string, spec func(selector string) string) []refusal {
	bad := func(name, selector, field, says string) refusal {
		return refusal{name: path + " " + name, spec: spec(selector), says: []string{"spec." + path + field, says}}
	}
	good := func(name, selector string) refusal { return refusal{name: path + " " + name, spec: spec(selector)} }
	long := strings.Repeat("a", 64)
	return []refusal{
		good("labels", "{matchLabels: {app: web, example.com/tier: front}}"),
		good("empty", "{}"),
		good("in", "{matchExpressions: [{key: app, operator: In, values: [web, mail]}]}"),
		good("exists", "{matchExpressions: [{key: app, operator: Exists}]}"),
		bad("label key", `{matchLabels: {"a b": web}}`, ".matchLabels", "every key must be a label name"),
		bad("label value", `{matchLabels: {app: "a b"}}`, ".matchLabels", "should match"),
		bad("long label value", "{matchLabels: {app: "+long+"}}", ".matchLabels", "may not be more than 63"),
		bad("expression key", `{matchExpressions: [{key: "a b", operator: Exists}]}`, ".matchExpressions[0].key", "must be a label name"),
		bad("empty expression key", `{matchExpressions: [{key: "", operator: Exists}]}`, ".matchExpressions[0].key", "at least 1"),
		bad("no expression key", `{matchExpressions: [{operator: Exists}]}`, ".matchExpressions[0].key", "Required value"),
		bad("operator", "{matchExpressions: [{key: app, operator: Equals, values: [web]}]}", ".matchExpressions[0].operator", "Unsupported value"),
		bad("in without values", "{matchExpressions: [{key: app, operator: In}]}", ".matchExpressions[0].values", "In or NotIn needs values"),
		bad("not in without values", "{matchExpressions: [{key: app, operator: NotIn, values: []}]}", ".matchExpressions[0].values", "In or NotIn needs values"),
		bad("exists with values", "{matchExpressions: [{key: app, operator: Exists, values: [web]}]}", ".matchExpressions[0].values", "Exists or DoesNotExist takes none"),
		bad("expression value", `{matchExpressions: [{key: app, operator: In, values: ["a b"]}]}`, ".matchExpressions[0].values[0]", "should match"),
		bad("too many labels", "{matchLabels: {"+numbered("k%d: v", 33)+"}}", ".matchLabels", "must have at most 32 items"),
		bad("too many expressions", "{matchExpressions: ["+numbered("{key: k%d, operator: Exists}", 17)+"]}", ".matchExpressions", "must have at most 16 items"),
		bad("too many values", "{matchExpressions: [{key: app, operator: In, values: ["+numbered("v%d", 65)+"]}]}", ".matchExpressions[0].values", "must have at most 64 items"),
	}
}

// numbered repeats a format with its number, separated by commas.
func numbered(format string, n int) string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(texts, ", ")
}

// nameRefusals are about a list of object names.
func nameRefusals(path string, spec func(names string) string) []refusal {
	bad := func(name, names, field, says string) refusal {
		return refusal{name: path + " " + name, spec: spec(names), says: []string{"spec." + path + field, says}}
	}
	return []refusal{
		{name: path, spec: spec("[a, b.c-d]")},
		bad("none", "[]", "", "should have at least 1 items"),
		bad("empty", `[""]`, "[0]", "at least 1"),
		bad("upper case", "[Gold]", "[0]", "must be an object name"),
		bad("underscore", "[a_b]", "[0]", "must be an object name"),
		bad("twice", "[a, b, a]", "[2]", "Duplicate value"),
		bad("long", "["+strings.Repeat("a", 254)+"]", "[0]", "may not be more than 253"),
		bad("too many", "["+numbered("n%d", 257)+"]", "", "must have at most 256 items"),
	}
}

func poolRefusals() []refusal {
	with := func(field string) string { return "{addresses: [192.0.2.0/24], " + field + "}" }
	allocation := func(field string) string { return with("serviceAllocation: {" + field + "}") }
	table := []refusal{
		{name: "everything", spec: `{addresses: [192.0.2.0/24, "2001:db8::/64"], autoAssign: false, avoidBuggyIPs: true,
			serviceAllocation: {priority: 10, namespaces: [a], namespaceSelectors: [{matchLabels: {a: b}}], serviceSelectors: [{}]}}`},
		{name: "empty allocation", spec: allocation("")},
		{name: "no spec at all", spec: "null", says: []string{"spec", "Required value"}},
		{name: "no addresses", spec: "{}", says: []string{"spec.addresses", "Required value"}},
		{name: "empty addresses", spec: "{addresses: []}", says: []string{"spec.addresses", "should have at least 1 items"}},
		{name: "too many addresses", spec: "{addresses: [" + numbered("192.0.2.%d", 65) + "]}", says: []string{"spec.addresses", "must have at most 64 items"}},
		{name: "second address", spec: "{addresses: [192.0.2.0/24, x]}", says: []string{"spec.addresses[1]", "must be a CIDR"}},
		{name: "address is a number", spec: "{addresses: [7]}", says: []string{"spec.addresses[0]", "must be of type string"}},
		{name: "auto-assign is text", spec: with(`autoAssign: "yes"`), says: []string{"spec.autoAssign", "must be of type boolean"}},
		{name: "avoidBuggyIPs is text", spec: with(`avoidBuggyIPs: "yes"`), says: []string{"spec.avoidBuggyIPs", "must be of type boolean"}},
		{name: "unknown field", spec: with("autoassign: false"), says: []string{"spec.autoassign", "unknown field"}},
		{name: "negative priority", spec: allocation("priority: -1"), says: []string{"spec.serviceAllocation.priority", "greater than or equal to 0"}},
		{name: "huge priority", spec: allocation("priority: 2147483648"), says: []string{"spec.serviceAllocation.priority"}},
		{name: "no namespace selector", spec: allocation("namespaceSelectors: []"), says: []string{"spec.serviceAllocation.namespaceSelectors", "should have at least 1 items"}},
		{name: "no service selector", spec: allocation("serviceSelectors: []"), says: []string{"spec.serviceAllocation.serviceSelectors", "should have at least 1 items"}},
		{name: "too many service selectors", spec: allocation("serviceSelectors: [" + strings.Repeat("{}, ", 33) + "]"), says: []string{"spec.serviceAllocation.serviceSelectors", "must have at most 32 items"}},
		{name: "too many namespace selectors", spec: allocation("namespaceSelectors: [" + strings.Repeat("{}, ", 33) + "]"), says: []string{"spec.serviceAllocation.namespaceSelectors", "must have at most 32 items"}},
	}
	table = append(table, nameRefusals("serviceAllocation.namespaces", func(s string) string { return allocation("namespaces: " + s) })...)
	table = append(table, selectorRefusals("serviceAllocation.namespaceSelectors[0]", func(s string) string { return allocation("namespaceSelectors: [" + s + "]") })...)
	return append(table, selectorRefusals("serviceAllocation.serviceSelectors[0]", func(s string) string { return allocation("serviceSelectors: [" + s + "]") })...)
}

func advertisementRefusals() []refusal {
	bad := func(name, spec string, says ...string) refusal {
		return refusal{name: name, spec: spec, says: says}
	}
	interfaceName := func(name, value, says string) refusal {
		return bad("interface "+name, fmt.Sprintf("{interfaces: [%q]}", value), "spec.interfaces[0]", says)
	}
	preferred := func(weight string) string {
		return "{preferredNodeSelectors: [{weight: " + weight + ", preference: {}}]}"
	}
	table := []refusal{
		{name: "empty", spec: "{}"},
		{name: "everything", spec: `{ipAddressPools: [a], ipAddressPoolSelectors: [{}], nodeSelectors: [{}], interfaces: [eth0, bond0.100, "br-lan"],
			serviceSelectors: [{}], preferredNodeSelectors: [{weight: 1, preference: {}}, {weight: 100, preference: {matchLabels: {a: b}}}]}`},
		interfaceName("empty", "", "at least 1"),
		interfaceName("long", "sixteen-letters-", "may not be more than 15"),
		interfaceName("space", "eth 0", "must be an interface name"),
		interfaceName("slash", "eth/0", "must be an interface name"),
		interfaceName("colon", "eth0:1", "must be an interface name"),
		interfaceName("dot", ".", "must be an interface name"),
		interfaceName("dots", "..", "must be an interface name"),
		bad("no interface", "{interfaces: []}", "spec.interfaces", "should have at least 1 items"),
		bad("interface twice", "{interfaces: [eth0, eth0]}", "spec.interfaces[1]", "Duplicate value"),
		bad("too many interfaces", "{interfaces: ["+numbered("eth%d", 65)+"]}", "spec.interfaces", "must have at most 64 items"),
		bad("weight of zero", preferred("0"), "spec.preferredNodeSelectors[0].weight", "greater than or equal to 1"),
		bad("weight of 101", preferred("101"), "spec.preferredNodeSelectors[0].weight", "less than or equal to 100"),
		bad("no weight", "{preferredNodeSelectors: [{preference: {}}]}", "spec.preferredNodeSelectors[0].weight", "Required value"),
		bad("no preference", "{preferredNodeSelectors: [{weight: 1}]}", "spec.preferredNodeSelectors[0].preference", "Required value"),
		bad("unknown field", "{nodeSelector: {}}", "spec.nodeSelector", "unknown field"),
	}
	for _, field := range []string{"ipAddressPoolSelectors", "nodeSelectors", "serviceSelectors", "preferredNodeSelectors"} {
		item := "{}, "
		if field == "preferredNodeSelectors" {
			item = "{weight: 1, preference: {}}, "
		}
		table = append(table,
			bad("no "+field, "{"+field+": []}", "spec."+field, "should have at least 1 items"),
			bad("too many "+field, "{"+field+": ["+strings.Repeat(item, 33)+"]}", "spec."+field, "must have at most 32 items"))
	}
	table = append(table, nameRefusals("ipAddressPools", func(s string) string { return "{ipAddressPools: " + s + "}" })...)
	for _, field := range []string{"ipAddressPoolSelectors", "nodeSelectors", "serviceSelectors"} {
		table = append(table, selectorRefusals(field+"[0]", func(s string) string { return "{" + field + ": [" + s + "]}" })...)
	}
	return append(table, selectorRefusals("preferredNodeSelectors[0].preference", func(s string) string {
		return "{preferredNodeSelectors: [{weight: 1, preference: " + s + "}]}"
	})...)
}
