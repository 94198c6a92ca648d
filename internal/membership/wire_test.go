package membership

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func drawInfo(t *rapid.T) Info {
	link := rapid.Custom(func(t *rapid.T) Link {
		prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
			if rapid.Bool().Draw(t, "v4") {
				a := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")))
				return netip.PrefixFrom(a, rapid.IntRange(0, 32).Draw(t, "bits"))
			}
			a := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6")))
			return netip.PrefixFrom(a, rapid.IntRange(0, 128).Draw(t, "bits"))
		})
		return Link{
			Name:     rapid.StringMatching(`[a-z0-9.]{1,15}`).Draw(t, "name"),
			Prefixes: rapid.SliceOfN(prefix, 0, 5).Draw(t, "prefixes"),
			ARP:      rapid.Bool().Draw(t, "arp"),
			ARPFails: rapid.Bool().Draw(t, "arp fails"),
			NDPFails: rapid.Bool().Draw(t, "ndp fails"),
			NDP:      rapid.Bool().Draw(t, "ndp"),
			MAC:      MAC(rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac")),
			Addr4:    rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("192.0.2.1")}).Draw(t, "addr4"),
			Addr6:    rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")}).Draw(t, "addr6"),
		}
	})
	return Info{ProxyDown: rapid.Bool().Draw(t, "proxy down"), WatchPort: rapid.Uint16().Draw(t, "watch port"),
		Links: rapid.SliceOfN(link, 0, 6).Draw(t, "links"), Abstains: rapid.Bool().Draw(t, "abstains"),
		Sessions: rapid.SliceOfN(rapid.StringMatching("[a-z]{1,8}"), 0, 4).Draw(t, "sessions")}
}

func stateOf(records ...*record) []byte {
	var items [][]byte
	for _, r := range records {
		items = append(items, r.raw)
	}
	return stateMessage(items...)
}

func TestRecordSurvivesTheWire(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		info := drawInfo(t).normalized()
		sent := newRecord(rapid.StringMatching(`[a-z0-9.-]{1,40}`).Draw(t, "node"),
			rapid.Uint64Range(0, math.MaxUint64-1).Draw(t, "epoch"), rapid.Uint64Range(0, 1<<40).Draw(t, "seq"), info)
		for _, b := range [][]byte{recordMessage(sent), stateOf(sent)} {
			msg, err := decodeMessage(b, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := msg.records[0]
			if got.node != sent.node || got.epoch != sent.epoch || got.seq != sent.seq || !got.info.Equal(info) {
				t.Fatalf("sent %+v, got %+v", sent, got)
			}
			if string(got.raw) != string(sent.raw) {
				t.Fatal("the record would be passed on in another form")
			}
		}
	})
}

func TestNormalizedIsCanonical(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		info := drawInfo(t)
		seen := map[string]bool{}
		var distinct Info
		for _, l := range info.Links {
			if !seen[l.Name] {
				distinct.Links = append(distinct.Links, l)
			}
			seen[l.Name] = true
		}
		all := distinct.Links
		distinct = info
		distinct.Links = all
		shuffled := distinct
		shuffled.Sessions = rapid.Permutation(info.Sessions).Draw(t, "sessions in any order")
		shuffled.Links = rapid.Permutation(all).Draw(t, "shuffled")
		if a, b := distinct.normalized(), shuffled.normalized(); !a.Equal(b) {
			t.Fatalf("%+v and %+v", a, b)
		}
		if a := info.normalized(); !a.Equal(a.normalized()) {
			t.Fatal("normalizing twice is not the same as once")
		}
	})
}

func TestFromTheFuture(t *testing.T) {
	t.Parallel()
	now := newRecord("node-1", 5, 6, links("eth0"))

	extended := *now
	extended.raw = append(append([]byte(nil), now.raw...), 99, 3, 'a', 'b', 'c') // tag 99, three bytes
	msg, err := decodeMessage(recordMessage(&extended), nil)
	if err != nil || len(msg.records) != 1 || !msg.records[0].info.Equal(now.info) {
		t.Fatalf("record with an unknown field: %+v, %v", msg, err)
	}
	if string(msg.records[0].raw) != string(extended.raw) {
		t.Error("the unknown field is lost when the record is passed on")
	}

	var longLink []byte
	longLink = append(longLink, recordVersion)
	longLink = appendString(longLink, "node-1")
	longLink = append(longLink, 5, 6, tagLink)
	link := append(appendLink(nil, &now.info.Links[0]), "more"...)
	longLink = append(binary.AppendUvarint(longLink, uint64(len(link))), link...)
	msg, err = decodeMessage(append([]byte{kindRecord}, longLink...), nil)
	if err != nil || !msg.records[0].info.Equal(now.info) {
		t.Errorf("link with more behind it: %+v, %v", msg, err)
	}

	other := *now
	other.raw = append([]byte{recordVersion + 1}, "something else"...)
	msg, err = decodeMessage(stateOf(&other, now), nil)
	if err != nil || len(msg.records) != 1 || msg.records[0].node != "node-1" {
		t.Errorf("state with a record of another version: %+v, %v", msg, err)
	}
	if msg, err = decodeMessage(recordMessage(&other), nil); err != nil || len(msg.records) != 0 {
		t.Errorf("record of another version: %+v, %v", msg, err)
	}
	if msg, err = decodeMessage([]byte{200, 1, 2, 3}, nil); err != nil || msg.records != nil || msg.leave != nil {
		t.Errorf("message of an unknown kind: %+v, %v", msg, err)
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	whole := recordMessage(newRecord("node-1", 1, 1, links("eth0")))
	for name, tt := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":           {nil, "cut short"},
		"empty record":      {[]byte{kindRecord}, "cut short"},
		"cut short":         {whole[:len(whole)-1], "cut short"},
		"no node":           {recordMessage(newRecord("", 1, 1, Info{})), "not usable"},
		"last epoch":        {recordMessage(newRecord("n", math.MaxUint64, 1, Info{})), "not usable"},
		"node name":         {recordMessage(newRecord(strings.Repeat("n", 254), 1, 1, Info{})), "more than 253"},
		"link name":         {recordMessage(newRecord("n", 1, 1, Info{Links: []Link{{Name: "sixteen-chars-xx"}}})), "more than 15"},
		"too many links":    {recordMessage(newRecord("n", 1, 1, Info{Links: make([]Link, maxLinks+1)})), "more than 256 links"},
		"too many prefixes": {linkMessage("eth0", 0, maxPrefixes+1), "more than 1024"},
		"missing prefixes":  {linkMessage("eth0", 0, 3), "cut short"},
		"family":            {linkMessage("eth0", 0, 1, 5, 24, 10, 0, 0, 0), "unknown family 5"},
		"prefix length":     {linkMessage("eth0", 0, 1, 4, 33, 10, 0, 0, 0), "prefix length 33"},
		"huge length":       {append([]byte{kindState}, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1), "more than 10"},
		"short leave":       {[]byte{kindLeave, 3, 'a'}, "cut short"},
		"too large":         {append([]byte{kindRecord, recordVersion}, make([]byte, maxRecord)...), "more than 65536"},
	} {
		if _, err := decodeMessage(tt.b, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one about %q", name, err, tt.want)
		}
	}
}

// linkMessage is a record with one link, made by hand.
func linkMessage(name string, flags, prefixes uint64, rest ...byte) []byte {
	link := binary.AppendUvarint(binary.AppendUvarint(appendString(nil, name), flags), prefixes)
	link = append(link, rest...)
	b := append(appendString([]byte{kindRecord, recordVersion}, "node-1"), 1, 1, tagLink)
	return append(binary.AppendUvarint(b, uint64(len(link))), link...)
}

// A speaker whose record cannot be read must not keep the others from being heard.
func TestOneBadRecordDoesNotSpoilAState(t *testing.T) {
	t.Parallel()
	before, after := newRecord("before", 1, 1, links("eth0")), newRecord("zafter", 1, 1, links("eth1"))
	for name, bad := range map[string]*record{
		"too many links":   newRecord("bad", 1, 1, Info{Links: make([]Link, maxLinks+1)}),
		"too large":        {raw: append([]byte{recordVersion}, make([]byte, maxRecord)...)},
		"no node":          newRecord("", 1, 1, Info{}),
		"ends in a string": {raw: []byte{recordVersion, 200}},
		"empty":            {},
	} {
		msg, err := decodeMessage(stateOf(before, bad, after), nil)
		if err == nil {
			t.Errorf("%s: the bad record is not counted", name)
		}
		if len(msg.records) != 2 || msg.records[0].node != "before" || msg.records[1].node != "zafter" {
			t.Errorf("%s: %d records are left of the two good ones", name, len(msg.records))
		}
	}
	whole := stateOf(before, after)
	if msg, err := decodeMessage(whole[:len(whole)-1], nil); err == nil || len(msg.records) != 1 {
		t.Errorf("state that is cut short: %d records, %v", len(msg.records), err)
	}
}

// What a speaker says of itself has to be readable for the others, however many interfaces it has.
func TestBounded(t *testing.T) {
	t.Parallel()
	many := func(count, prefixes int) (info Info) {
		for i := range count {
			l := Link{Name: fmt.Sprintf("cali%d", i), ARP: true}
			for p := range prefixes {
				l.Prefixes = append(l.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(p >> 8), byte(p), 0}), 24))
			}
			info.Links = append(info.Links, l)
		}
		return info
	}
	eth := links("eth0").Links[0]
	for name, tt := range map[string]struct {
		info Info
		left int // how many links; -1 for some
	}{
		"few links":           {many(20, 3), 0},
		"as many as there go": {many(maxLinks-1, 0), 0},
		"many links":          {many(300, 0), 300 + 1 - maxLinks},
		"many prefixes":       {many(1, 3000), 1},
		"many of both":        {many(100, 200), -1},
		"a long name":         {Info{Links: []Link{{Name: "sixteen-chars-xx", ARP: true}}}, 1},
	} {
		tt.info.Links = append(tt.info.Links, eth)
		tt.info.Abstains = true
		got, left := tt.info.normalized().bounded()
		if tt.left >= 0 && len(left) != tt.left || tt.left < 0 && len(left) == 0 {
			t.Errorf("%s: %d links left out or cut short, want %d", name, len(left), tt.left)
		}
		if !slices.ContainsFunc(got.Links, func(l Link) bool { return l.Name == "eth0" && len(l.Prefixes) == 2 }) && name != "many of both" {
			t.Errorf("%s: the link with subnets is left out", name)
		}
		sent := newRecord(strings.Repeat("n", maxNodeName), math.MaxUint64-1, math.MaxUint64-1, got)
		if read, err := decodeRecord(sent.raw); err != nil || !read.info.Equal(got) {
			t.Errorf("%s: others read %v", name, err)
		}
		slices.Reverse(tt.info.Links)
		if again, _ := tt.info.normalized().bounded(); !again.Equal(got) {
			t.Errorf("%s: the choice depends on the order of the links", name)
		}
	}
}

func TestTooManyLinksAreToldInPartAndReportedOnce(t *testing.T) {
	t.Parallel()
	speakers := newNetwork().startAll(t, 2)
	var names []string
	for i := range maxLinks + 10 {
		names = append(names, fmt.Sprintf("l%d", i))
	}
	for _, abstains := range []bool{false, true, false} {
		info := links(names...)
		info.Abstains = abstains
		speakers[0].SetLocal(info)
		await(t, "the other reads it", func() bool {
			m := speakers[1].View().Member("node-1")
			return m != nil && len(m.Info.Links) == maxLinks && m.Info.Abstains == abstains
		})
	}
	if n := speakers[0].logged("more interfaces or subnets"); n != 1 {
		t.Errorf("%d lines about what is left out, want 1", n)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add(recordMessage(newRecord("node-1", 1, 2, links("eth0", "eth1"))))
	f.Add(stateOf(newRecord("a", 1, 1, links("eth0")), newRecord("b", 2, 2, Info{})))
	f.Add(leaveMessage(notice{node: "node-1", epoch: 77, returns: true, standIn: "node-2"}))
	f.Add(linkMessage("eth0", 3, 1, 6, 64, 1, 2, 3))
	f.Add(verdictMessage(Verdict{Node: "node-1", Epoch: 5, Silent: true, By: "node-2"}))
	one := newChunk(chunk{node: "node-1", epoch: 5, seq: 6, whole: 1}, []entry{
		{netip.MustParseAddr("192.0.2.1"), Claim{Term: 300, To: "node-2"}}, {netip.MustParseAddr("2001:db8::1"), Claim{Provisional: true}},
	})
	f.Add(chunkMessage(one))
	f.Add(stateMessage(one.raw, departureItem(notice{node: "node-3", epoch: 4, left: true, age: time.Minute})))
	f.Fuzz(func(t *testing.T, b []byte) {
		msg, err := decodeMessage(b, nil)
		if err != nil {
			return
		}
		checkClaims(t, msg)
		for _, r := range msg.records {
			// What was understood must be passed on so that it is understood in the same way.
			again, err := decodeMessage(recordMessage(r), nil)
			if err != nil || len(again.records) != 1 {
				t.Fatalf("not readable when passed on: %v", err)
			}
			if a := again.records[0]; a.node != r.node || a.epoch != r.epoch || a.seq != r.seq || !a.info.Equal(r.info) {
				t.Fatalf("%+v became %+v", r, a)
			}
			// And what this release would say itself must mean the same.
			own, err := decodeRecord(newRecord(r.node, r.epoch, r.seq, r.info).raw)
			if err != nil || !own.info.Equal(r.info) {
				t.Fatalf("re-encoded: %+v, %v", own, err)
			}
		}
	})
}

// checkClaims checks what fuzzing has found to be readable beside records.
func checkClaims(t *testing.T, msg message) {
	for _, c := range msg.chunks {
		again, err := decodeMessage(chunkMessage(c), nil)
		if err != nil || len(again.chunks) != 1 || !sameChunk(again.chunks[0], c) || len(chunkMessage(c)) > maxGossip {
			t.Fatalf("%+v is not readable in the same way when passed on: %v", c, err)
		}
		own, err := decodeChunk(newChunk(*c, slices.Clone(c.entries)).raw, nil)
		if err != nil && len(own.raw) <= maxChunk || err == nil && !sameChunk(own, c) {
			t.Fatalf("re-encoded: %+v, %v", own, err)
		}
		s := newStore("self", 5, time.Unix(0, 0))
		s.mergeChunk(c)
		if s.bytes > maxClaimBytes || s.claims(c.node).Len() > len(c.entries) {
			t.Fatalf("%d entries became %d", len(c.entries), s.claims(c.node).Len())
		}
	}
	for _, n := range msg.departures {
		if again, err := decodeDeparture(departureItem(n)); err != nil || *again != n {
			t.Fatalf("%+v became %+v, %v", n, again, err)
		}
	}
	if msg.leave != nil {
		if again, err := decodeMessage(leaveMessage(*msg.leave), nil); err != nil || *again.leave != *msg.leave {
			t.Fatalf("%+v became %+v, %v", msg.leave, again.leave, err)
		}
	}
	if msg.verdict != nil {
		if again, err := decodeMessage(verdictMessage(*msg.verdict), nil); err != nil || *again.verdict != *msg.verdict {
			t.Fatalf("%+v became %+v, %v", msg.verdict, again.verdict, err)
		}
	}
}

func TestStoreKeepsTheNewest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newStore("self", 100, time.Unix(0, 0))
		var newest *record
		for range rapid.IntRange(1, 30).Draw(t, "records") {
			r := newRecord("node", rapid.Uint64Range(1, 4).Draw(t, "epoch"), rapid.Uint64Range(1, 4).Draw(t, "seq"), Info{})
			news := newest == nil || r.newerThan(newest)
			if got := s.merge(r, time.Unix(1, 0)); got != news {
				t.Fatalf("merge of (%d,%d) reported %v, want %v", r.epoch, r.seq, got, news)
			}
			if news {
				newest = r
			}
			if got := s.records["node"].record; got.epoch != newest.epoch || got.seq != newest.seq {
				t.Fatalf("holds (%d,%d), newest is (%d,%d)", got.epoch, got.seq, newest.epoch, newest.seq)
			}
		}
	})
}

func TestStoreStepsOverItsFormerLife(t *testing.T) {
	t.Parallel()
	s := newStore("self", 100, time.Unix(0, 0))
	s.setOwn(links("eth0"))
	if s.merge(newRecord("self", 100, 1, Info{}), time.Unix(1, 0)) {
		t.Error("an echo of this life was taken for news")
	}
	if !s.merge(newRecord("self", 500, 9, links("eth9")), time.Unix(1, 0)) {
		t.Fatal("a former life with a later epoch was ignored; others will ignore this one")
	}
	own := s.own()
	if own.epoch <= 500 || !own.info.Equal(links("eth0")) {
		t.Errorf("own record is now %+v", own)
	}
	sent, err := decodeRecord(own.raw)
	if err != nil || !sent.newerThan(newRecord("self", 500, 9, Info{})) || !sent.info.Equal(links("eth0")) {
		t.Errorf("what is sent is %+v, %v", sent, err)
	}
}

func TestStoreIsBounded(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	s := newStore("self", 1, start)
	for i := range 2 * maxRecords {
		s.merge(newRecord(fmt.Sprintf("node-%d", i), 1, 1, Info{}), start)
	}
	if len(s.records) > maxRecords {
		t.Errorf("%d records, want at most %d", len(s.records), maxRecords)
	}
	s.merge(newRecord("node-1", 1, 1, Info{}), start.Add(keepRecords)) // heard again, though it was nothing new
	alive := func(node string) bool { return node == "node-0" }
	s.expire(alive, start.Add(keepRecords+time.Second))
	for node, want := range map[string]bool{"self": true, "node-0": true, "node-1": true, "node-2": false} {
		if _, ok := s.records[node]; ok != want {
			t.Errorf("record of %s kept: %v, want %v", node, ok, want)
		}
	}
}

func TestSettling(t *testing.T) {
	t.Parallel()
	var s settling
	if !s.settled() {
		t.Error("in doubt without a reason")
	}
	s.doubt(startLimit)
	s.doubt(aloneLimit)
	round, limit := s.begin()
	if s.settled() || limit != startLimit {
		t.Errorf("settled %v, limit %s; the longer one stays", s.settled(), limit)
	}
	s.doubt(aloneLimit) // while the round is under way
	s.finish(round)
	if s.settled() {
		t.Error("a round has answered a doubt that came up after it began")
	}
	round, _ = s.begin()
	s.finish(round)
	if !s.settled() {
		t.Error("still in doubt after the round")
	}
	s.doubt(aloneLimit)
	if _, limit := s.begin(); limit != aloneLimit {
		t.Errorf("limit %s left over from before", limit)
	}
}
