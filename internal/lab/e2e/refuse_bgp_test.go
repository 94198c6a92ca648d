package e2e

import (
	"fmt"
	"strings"
)

// bgpRefusals are about the kinds of BGP, by their plural.
func bgpRefusals() map[string][]refusal {
	return map[string][]refusal{
		"bgppeers":          append(append(peerRefusals(), peerAddressRefusals()...), peerTimeRefusals()...),
		"bgpadvertisements": bgpAdvertisementRefusals(),
		"communities":       communityRefusals(),
		"bfdprofiles":       profileRefusals(),
	}
}

// badSpec and goodSpec are specs that are refused and accepted.
func badSpec(name, spec string, says ...string) refusal {
	return refusal{name: name, spec: spec, says: says}
}

func goodSpec(name, spec string) refusal { return refusal{name: name, spec: spec} }

func peerRefusals() []refusal {
	const base = "myASN: 64500, peerASN: 64501, peerAddress: 192.0.2.1"
	with := func(fields string) string { return "{" + base + ", " + fields + "}" }
	onLink := func(fields string) string {
		return "{myASN: 64500, dynamicASN: external, interface: eth0, " + fields + "}"
	}
	from := func(what string) string { return "{myASN: 64500, peerASN: 64501, peerAddressFrom: " + what + "}" }
	const reserved = "must be an AS number"
	table := []refusal{
		goodSpec("least", "{"+base+"}"),
		goodSpec("everything", with(`localASN: 64999, sourceInterface: lo, peerPort: 1179, holdTime: 30s, keepaliveTime: 10s, connectTime: 5s,
			routerID: 10.0.0.1, nodeSelectors: [{}], passwordSecret: {name: router}, bfdProfile: fast, enableGracefulRestart: true, gracefulRestartTime: 60s,
			ebgpMultiHop: true, passive: true, listenPort: 1790, vrf: red, families: [IPv4, IPv6]`)),
		goodSpec("interface", "{myASN: 64500, dynamicASN: external, interface: eth0}"),
		goodSpec("from an annotation", from("{nodeAnnotation: example.com/tor}")),
		goodSpec("from a label", from("{nodeLabel: tor}")),
		goodSpec("from the default gateway", from("{defaultGateway: IPv6}")),
		goodSpec("AS numbers from the node", "{myASNFrom: {nodeLabel: asn}, peerASNFrom: {nodeAnnotation: example.com/asn}, peerAddress: 192.0.2.1}"),
		goodSpec("largest AS number", "{myASN: 4294967294, peerASN: 1, peerAddress: 192.0.2.1}"),
		goodSpec("TTL security", with("ttlSecurity: 1")),
		goodSpec("TTL security beside multihop that is off", with("ttlSecurity: 1, ebgpMultiHop: false")),
		goodSpec("password", with("password: hunter2")),
		goodSpec("both families", with("dualStackAddressFamily: true")),

		badSpec("no spec", "null", "spec", "Required value"),
		badSpec("no AS number of ours", "{peerASN: 1, peerAddress: 192.0.2.1}", "spec.myASN", "give either myASN or myASNFrom"),
		badSpec("two AS numbers of ours", with("myASNFrom: {nodeLabel: a}"), "spec.myASN", "give either myASN or myASNFrom"),
		badSpec("no AS number of the peer", "{myASN: 1, peerAddress: 192.0.2.1}", "spec.peerASN", "give exactly one of peerASN, dynamicASN and peerASNFrom"),
		badSpec("two AS numbers of the peer", with("dynamicASN: internal"), "spec.peerASN", "give exactly one of"),
		badSpec("ASN 0", "{myASN: 0, peerASN: 0, peerAddress: 192.0.2.1}", "spec.peerASN", reserved),
		badSpec("ASN 0 of ours", "{myASN: 0, peerASN: 1, peerAddress: 192.0.2.1}", "spec.myASN", reserved),
		badSpec("AS_TRANS", with("localASN: 23456"), "spec.localASN", reserved),
		badSpec("last 16-bit ASN", with("localASN: 65535"), "spec.localASN", reserved),
		badSpec("last ASN", with("localASN: 4294967295"), "spec.localASN", reserved),
		badSpec("negative ASN", with("localASN: -1"), "spec.localASN", reserved),
		badSpec("unknown dynamic ASN", "{myASN: 1, dynamicASN: any, peerAddress: 192.0.2.1}", "spec.dynamicASN", "Unsupported value"),
		badSpec("no address", "{myASN: 1, peerASN: 2}", "spec.peerAddress", "give exactly one of peerAddress, interface and peerAddressFrom"),
		badSpec("address and interface", with("interface: eth0"), "spec.peerAddress", "give exactly one of"),
		badSpec("local ASN of the peer", with("localASN: 64501"), "spec.localASN", "cannot be the AS number of the peer"),
		badSpec("local ASN of an internal peer", "{myASN: 1, localASN: 2, dynamicASN: internal, peerAddress: 192.0.2.1}", "spec.localASN", "does not go with dynamicASN internal"),
		badSpec("two sources", with("sourceAddress: 192.0.2.9, sourceInterface: lo"), "spec.sourceAddress", "give either sourceAddress or sourceInterface"),
		badSpec("source of the other family", with(`sourceAddress: "2001:db8::1"`), "spec.sourceAddress", "same family"),
		badSpec("source on a link", onLink("sourceInterface: lo"), "spec.interface", "spoken to from the link-local address"),
		badSpec("VRF on a link", onLink("vrf: red"), "spec.vrf", "the interface decides about the VRF"),
		badSpec("multihop on a link", onLink("ebgpMultiHop: true"), "spec.ebgpMultiHop", "one hop away"),
		badSpec("passive on a link", onLink("passive: true"), "spec.passive", "nothing is known of the peer"),
		badSpec("two passwords", with("password: a, passwordSecret: {name: b}"), "spec.password", "give either password or passwordSecret"),
		badSpec("long password", with("password: "+strings.Repeat("x", 81)), "spec.password", "may not be more than 80"),
		badSpec("empty password", with(`password: ""`), "spec.password", "at least 1"),
		badSpec("Secret without a name", with("passwordSecret: {}"), "spec.passwordSecret.name", "Required value"),
		badSpec("Secret of another namespace", with("passwordSecret: {name: a, namespace: b}"), "spec.passwordSecret.namespace", "unknown field"),
		badSpec("Secret's name", with("passwordSecret: {name: A_b}"), "spec.passwordSecret.name", "must be an object name"),
		badSpec("profile's name", with("bfdProfile: A_b"), "spec.bfdProfile", "must be an object name"),
		badSpec("restart time without restart", with("gracefulRestartTime: 60s"), "spec.gracefulRestartTime", "goes with enableGracefulRestart"),
		badSpec("TTL security and multihop", with("ttlSecurity: 2, ebgpMultiHop: true"), "spec.ttlSecurity", "goes without ebgpMultiHop"),
		badSpec("TTL security of 0", with("ttlSecurity: 0"), "spec.ttlSecurity", "greater than or equal to 1"),
		badSpec("TTL security of 255", with("ttlSecurity: 255"), "spec.ttlSecurity", "less than or equal to 254"),
		badSpec("listen port without passive", with("listenPort: 1790"), "spec.listenPort", "goes with passive"),
		badSpec("listen port 0", with("passive: true, listenPort: 0"), "spec.listenPort", "greater than or equal to 1"),
		badSpec("listen port 65536", with("passive: true, listenPort: 65536"), "spec.listenPort", "less than or equal to 65535"),
		badSpec("peer port 0", with("peerPort: 0"), "spec.peerPort", "greater than or equal to 1"),
		badSpec("peer port 65536", with("peerPort: 65536"), "spec.peerPort", "less than or equal to 65535"),
		badSpec("families twice over", with("families: [IPv4], dualStackAddressFamily: true"), "spec.families", "give either families or dualStackAddressFamily"),
		badSpec("unknown family", with("families: [IPv5]"), "spec.families[0]", "Unsupported value"),
		badSpec("no family", with("families: []"), "spec.families", "should have at least 1 items"),
		badSpec("family twice", with("families: [IPv4, IPv4]"), "spec.families[1]", "Duplicate value"),
		badSpec("interface name", "{myASN: 1, peerASN: 2, interface: eth/0}", "spec.interface", "must be an interface name"),
		badSpec("VRF's name", with("vrf: sixteen-letters-"), "spec.vrf", "may not be more than 15"),
		badSpec("nothing in the source of addresses", from("{}"), "spec.peerAddressFrom", "give exactly one of nodeAnnotation, nodeLabel and defaultGateway"),
		badSpec("two sources of addresses", from("{nodeLabel: a, defaultGateway: IPv4}"), "spec.peerAddressFrom", "give exactly one of nodeAnnotation"),
		badSpec("unknown family of gateways", from("{defaultGateway: any}"), "spec.peerAddressFrom.defaultGateway", "Unsupported value"),
		badSpec("annotation's name", from(`{nodeAnnotation: "a b"}`), "spec.peerAddressFrom.nodeAnnotation", "must be the name of a label or an annotation"),
		badSpec("nothing in the source of ASNs", "{myASNFrom: {}, peerASN: 1, peerAddress: 192.0.2.1}", "spec.myASNFrom", "give either nodeAnnotation or nodeLabel"),
		badSpec("two sources of ASNs", "{myASN: 1, peerASNFrom: {nodeLabel: a, nodeAnnotation: b}, peerAddress: 192.0.2.1}", "spec.peerASNFrom", "give either nodeAnnotation or nodeLabel"),
		badSpec("unknown field", with("peerASNs: [1]"), "spec.peerASNs", "unknown field"),
		badSpec("no node selector", with("nodeSelectors: []"), "spec.nodeSelectors", "should have at least 1 items"),
		badSpec("too many node selectors", with("nodeSelectors: ["+strings.Repeat("{}, ", 33)+"]"), "spec.nodeSelectors", "must have at most 32 items"),
	}
	return append(table, selectorRefusals("nodeSelectors[0]", func(s string) string { return with("nodeSelectors: [" + s + "]") })...)
}

// peerAddressRefusals are about addresses.
func peerAddressRefusals() []refusal {
	field := func(name, value string) string {
		if name == "peerAddress" {
			return fmt.Sprintf("{myASN: 1, peerASN: 2, peerAddress: %q}", value)
		}
		return fmt.Sprintf("{myASN: 1, peerASN: 2, interface: eth0, %s: %q}", name, value)
	}
	var table []refusal
	for _, address := range []string{"192.0.2.1", "2001:db8::1", "fe80::1%eth0", "fe80::1%bond0.100", "127.0.0.1", "169.254.1.1"} {
		table = append(table, goodSpec("address "+address, field("peerAddress", address)))
	}
	for address, says := range map[string]string{
		"router": "must be an IP address", "192.0.2.256": "must be an IP address", "192.0.2.1/24": "must be an IP address", "::ffff:192.0.2.1": "must be an IP address",
		"fe80::1%": "must be an IP address", "fe80::1%eth0%eth1": "must be an IP address", "fe80::1%eth 0": "must be an IP address",
		"fe80::1":          "a link-local address needs the interface",
		"2001:db8::1%eth0": "only a link-local IPv6 address goes with an interface", "192.0.2.1%eth0": "only a link-local IPv6 address goes with an interface",
		"0.0.0.0": "must be the address of one host", "224.0.0.5": "must be the address of one host", "ff02::1": "must be the address of one host", "::": "must be the address of one host",
		"": "at least 2",
	} {
		table = append(table, badSpec("address "+address, field("peerAddress", address), "spec.peerAddress", says))
	}
	return append(table,
		badSpec("router ID of IPv6", field("routerID", "2001:db8::1"), "spec.routerID", "must be in the form of an IPv4 address"),
		badSpec("router ID of zeros", field("routerID", "0.0.0.0"), "spec.routerID", "must be in the form of an IPv4 address"),
		badSpec("router ID in words", field("routerID", "router"), "spec.routerID", "must be an IP address"),
		badSpec("source in words", "{myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, sourceAddress: lo}", "spec.sourceAddress", "must be an IP address"))
}

// peerTimeRefusals are about durations.
func peerTimeRefusals() []refusal {
	with := func(fields string) string {
		return "{myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, enableGracefulRestart: true, " + fields + "}"
	}
	bad := func(field, value, says string) refusal {
		return badSpec(field+" "+value, with(fmt.Sprintf("%s: %q", field, value)), "spec."+field, says)
	}
	const shape = "must be a duration"
	return []refusal{
		goodSpec("no hold time", with("holdTime: 0s, keepaliveTime: 0s")),
		goodSpec("least hold time", with("holdTime: 3s, keepaliveTime: 1s")),
		goodSpec("greatest hold time", with("holdTime: 65535s, keepaliveTime: 21845s")),
		goodSpec("keepalive like the hold time", with("keepaliveTime: 90s")),
		goodSpec("minutes", with("holdTime: 1m30s, connectTime: 2m, gracefulRestartTime: 1h")),
		bad("holdTime", "2s", "must be 0s or from 3s to 65535s"),
		bad("holdTime", "65536s", "must be 0s or from 3s to 65535s"),
		bad("holdTime", "-3s", shape),
		bad("holdTime", "90", shape),
		bad("holdTime", "soon", shape),
		bad("keepaliveTime", "500ms", "must be 0s or from 1s to 21845s"),
		bad("keepaliveTime", "30000s", "must be 0s or from 1s to 21845s"),
		bad("keepaliveTime", "91s", "must not be above holdTime"),
		bad("keepaliveTime", "30", shape),
		badSpec("keepalive above hold time", with("holdTime: 9s, keepaliveTime: 10s"), "spec.keepaliveTime", "must not be above holdTime"),
		badSpec("keepalive without hold time", with("holdTime: 0s, keepaliveTime: 10s"), "spec.keepaliveTime", "must not be above holdTime"),
		bad("connectTime", "0s", "must be from 1s to 65535s"),
		bad("connectTime", "65536s", "must be from 1s to 65535s"),
		bad("connectTime", "10", shape),
		bad("gracefulRestartTime", "0s", "must be from 1s to 4095s"),
		bad("gracefulRestartTime", "4096s", "must be from 1s to 4095s"),
		bad("gracefulRestartTime", "2 minutes", shape),
	}
}

func bgpAdvertisementRefusals() []refusal {
	table := []refusal{
		goodSpec("empty", "{}"),
		goodSpec("everything", `{aggregationLength: 24, aggregationLengthV6: 64, includeSpecificRoutes: true, localPref: 4294967295, med: 0, asPathPrepend: 15,
			communities: ["65000:100", "0:0", "65535:65535", "large:4294967295:0:1", no-export, blackhole, from-kubernetes], ipAddressPools: [a], ipAddressPoolSelectors: [{}],
			nodeSelectors: [{}], peers: [a], peerSelectors: [{}], serviceSelectors: [{}]}`),
		goodSpec("specific routes beside an IPv6 aggregate", "{aggregationLengthV6: 64, includeSpecificRoutes: true}"),
		badSpec("specific routes without an aggregate", "{includeSpecificRoutes: true}", "spec.includeSpecificRoutes", "goes with an aggregationLength below 32"),
		badSpec("aggregate of 0", "{aggregationLength: 0}", "spec.aggregationLength", "greater than or equal to 1"),
		badSpec("aggregate of 33", "{aggregationLength: 33}", "spec.aggregationLength", "less than or equal to 32"),
		badSpec("IPv6 aggregate of 0", "{aggregationLengthV6: 0}", "spec.aggregationLengthV6", "greater than or equal to 1"),
		badSpec("IPv6 aggregate of 129", "{aggregationLengthV6: 129}", "spec.aggregationLengthV6", "less than or equal to 128"),
		badSpec("negative localPref", "{localPref: -1}", "spec.localPref", "greater than or equal to 0"),
		badSpec("localPref of 33 bits", "{localPref: 4294967296}", "spec.localPref", "less than or equal to 4294967295"),
		badSpec("negative MED", "{med: -1}", "spec.med", "greater than or equal to 0"),
		badSpec("MED of 33 bits", "{med: 4294967296}", "spec.med", "less than or equal to 4294967295"),
		badSpec("negative prepending", "{asPathPrepend: -1}", "spec.asPathPrepend", "greater than or equal to 0"),
		badSpec("prepending of 16", "{asPathPrepend: 16}", "spec.asPathPrepend", "less than or equal to 15"),
		badSpec("no community", "{communities: []}", "spec.communities", "should have at least 1 items"),
		badSpec("64 communities", "{communities: ["+numbered(`"65000:%d"`, 64)+"]}", "spec.communities", "must have at most 63 items"),
		badSpec("community twice", "{communities: [no-export, no-export]}", "spec.communities[1]", "Duplicate value"),
		badSpec("unknown field", "{nodeSelector: {}}", "spec.nodeSelector", "unknown field"),
	}
	for _, text := range []string{"65536:1", "1:65536", "1:2:3", "1:", ":1", "large:1:2", "large:1:2:4294967296", "large:1:2:3:4", "extended:1:2", "-1:2", "a b", "1a", "no-export-"} {
		table = append(table, badSpec("community "+text, fmt.Sprintf("{communities: [%q]}", text), "spec.communities[0]", "must be two numbers up to 65535"))
	}
	for _, text := range []string{"llgr-stale", "65535:6", "65535:00006"} {
		table = append(table, badSpec("community "+text, fmt.Sprintf("{communities: [%q]}", text), "spec.communities[0]", "no router would be told the route"))
	}
	for _, field := range []string{"ipAddressPoolSelectors", "nodeSelectors", "peerSelectors", "serviceSelectors"} {
		table = append(table,
			badSpec("no "+field, "{"+field+": []}", "spec."+field, "should have at least 1 items"),
			badSpec("too many "+field, "{"+field+": ["+strings.Repeat("{}, ", 33)+"]}", "spec."+field, "must have at most 32 items"))
		table = append(table, selectorRefusals(field+"[0]", func(s string) string { return "{" + field + ": [" + s + "]}" })...)
	}
	for _, field := range []string{"ipAddressPools", "peers"} {
		table = append(table, nameRefusals(field, func(s string) string { return "{" + field + ": " + s + "}" })...)
	}
	return table
}

func communityRefusals() []refusal {
	one := func(name, value string) string {
		return fmt.Sprintf("{communities: [{name: %q, value: %q}]}", name, value)
	}
	table := []refusal{
		goodSpec("one", one("a", "65000:100")),
		goodSpec("large", one("Customer_7.blue-1", "large:4294967295:0:1")),
		badSpec("no spec", "null", "spec", "Required value"),
		badSpec("none", "{communities: []}", "spec.communities", "should have at least 1 items"),
		badSpec("too many", "{communities: ["+numbered(`{name: c%d, value: "1:1"}`, 257)+"]}", "spec.communities", "must have at most 256 items"),
		badSpec("no name", `{communities: [{value: "1:1"}]}`, "spec.communities[0].name", "Required value"),
		badSpec("no value", "{communities: [{name: a}]}", "spec.communities[0].value", "Required value"),
		badSpec("name twice", `{communities: [{name: a, value: "1:1"}, {name: a, value: "1:2"}]}`, "spec.communities[1]", "Duplicate value"),
		badSpec("name with a space", one("a b", "1:1"), "spec.communities[0].name", "must be a name"),
		badSpec("name like a community", one("1:1", "1:1"), "spec.communities[0].name", "must be a name"),
		badSpec("empty name", one("", "1:1"), "spec.communities[0].name", "at least 1"),
		badSpec("long name", one(strings.Repeat("a", 64), "1:1"), "spec.communities[0].name", "may not be more than 63"),
	}
	for _, name := range []string{"no-export", "no-advertise", "no-export-subconfed", "no-peer", "graceful-shutdown", "blackhole", "accept-own", "accept-own-nexthop", "llgr-stale", "no-llgr"} {
		table = append(table, badSpec("name "+name, one(name, "1:1"), "spec.communities[0].name", "is a well-known community"))
	}
	for _, value := range []string{"65536:1", "1:65536", "111", "1:2:3", "large:1:2", "large:1:2:4294967296", "no-export", "LARGE:1:2:3"} {
		table = append(table, badSpec("value "+value, one("a", value), "spec.communities[0].value", "must be two numbers up to 65535"))
	}
	table = append(table, badSpec("value of llgr-stale", one("a", "65535:6"), "spec.communities[0].value", "no router would be told the route"))
	return table
}

func profileRefusals() []refusal {
	table := []refusal{
		goodSpec("empty", "{}"),
		goodSpec("everything", "{receiveInterval: 10, transmitInterval: 60000, echoInterval: 10, detectMultiplier: 255, minimumTtl: 1, echoMode: true, passiveMode: true}"),
		badSpec("unknown field", "{minimumTTL: 1}", "spec.minimumTTL", "unknown field"),
	}
	for field, bounds := range map[string][2]int{
		"receiveInterval": {10, 60000}, "transmitInterval": {10, 60000}, "echoInterval": {10, 60000}, "detectMultiplier": {2, 255}, "minimumTtl": {1, 254},
	} {
		table = append(table,
			badSpec("low "+field, fmt.Sprintf("{%s: %d}", field, bounds[0]-1), "spec."+field, fmt.Sprintf("greater than or equal to %d", bounds[0])),
			badSpec("high "+field, fmt.Sprintf("{%s: %d}", field, bounds[1]+1), "spec."+field, fmt.Sprintf("less than or equal to %d", bounds[1])))
	}
	return table
}
