package membership

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func sameChunk(a, b *chunk) bool {
	return a.node == b.node && a.epoch == b.epoch && a.index == b.index && a.seq == b.seq && a.whole == b.whole &&
		slices.Equal(a.entries, b.entries)
}

// drawAddr draws one of few addresses, so that several draws meet.
func drawAddr(t *rapid.T, many int) netip.Addr {
	i := rapid.IntRange(0, many-1).Draw(t, "address")
	if i%3 == 0 {
		return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 14: byte(i >> 8), 15: byte(i)})
	}
	return netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
}

func drawClaim(t *rapid.T) Claim {
	return Claim{
		Term:        rapid.SampledFrom([]uint64{0, 1, 127, 128, 1 << 20, math.MaxUint64}).Draw(t, "term"),
		Provisional: rapid.Bool().Draw(t, "provisional"),
		To:          rapid.SampledFrom([]string{"", "", "n", "node-with-a-name", strings.Repeat("long", 60)}).Draw(t, "to"),
	}
}

func TestChunkSurvivesTheWire(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		claims := map[netip.Addr]Claim{}
		for range rapid.IntRange(0, 20).Draw(t, "claims") {
			claims[drawAddr(t, 1000)] = drawClaim(t)
		}
		var entries []entry
		for a, c := range claims {
			entries = append(entries, entry{a, c})
		}
		sent := newChunk(chunk{
			node: rapid.StringMatching(`[a-z0-9.-]{1,40}`).Draw(t, "node"), epoch: rapid.Uint64Max(math.MaxUint64-1).Draw(t, "epoch"),
			seq: rapid.Uint64().Draw(t, "seq"), index: rapid.IntRange(0, maxChunks-1).Draw(t, "index"),
			whole: rapid.IntRange(0, maxChunks).Draw(t, "whole"),
		}, entries)
		for _, b := range [][]byte{chunkMessage(sent), stateMessage(sent.raw)} {
			msg, err := decodeMessage(b, nil)
			if err != nil || len(msg.chunks) != 1 {
				t.Fatalf("%d chunks, %v", len(msg.chunks), err)
			}
			if got := msg.chunks[0]; !sameChunk(got, sent) || string(got.raw) != string(sent.raw) {
				t.Fatalf("sent %+v, got %+v", sent, got)
			}
		}
	})
}

// What speakers of other releases say, or hear, of all this.
func TestOtherReleases(t *testing.T) {
	t.Parallel()
	// The first release: an Info in which only links and abstention can be told.
	link := append(appendString(nil, "eth0"), flagARP, 0)
	first := append(appendString([]byte{kindRecord, recordVersion}, "node-1"), 5, 6)
	first = appendField(first, tagLink, link)
	msg, err := decodeMessage(first, nil)
	if err != nil || len(msg.records) != 1 {
		t.Fatalf("record of the first release: %v", err)
	}
	if r := msg.records[0]; r.claims || !r.info.Equal(Info{Links: []Link{{Name: "eth0", ARP: true}}}) {
		t.Errorf("record of the first release: %+v", r)
	}
	if !newRecord("node-1", 5, 6, Info{}).claims {
		t.Error("this release does not say that it tells claims")
	}
	msg, err = decodeMessage(append(appendString([]byte{kindLeave}, "node-1"), 5), nil)
	if err != nil || *msg.leave != (notice{node: "node-1", epoch: 5, left: true}) {
		t.Errorf("leave of the first release: %+v, %v", msg.leave, err)
	}
	// It takes an item for a record of another version if it does not begin as one, and must never read it.
	c := newChunk(chunk{node: "node-1", epoch: 1, seq: 1}, nil)
	for _, raw := range [][]byte{c.raw, departureItem(notice{node: "node-1"})} {
		if raw[0] <= recordVersion {
			t.Errorf("an item begins with %d", raw[0])
		}
	}

	// A later one.
	a := netip.MustParseAddr("192.0.2.1")
	claim := append(appendClaim(nil, entry{a, Claim{Term: 7}}, 0), "more"...)
	later := appendField(appendField(slices.Clone(c.raw), 99, []byte("unknown")), tagClaim, claim)
	msg, err = decodeMessage(append([]byte{kindChunk}, later...), nil)
	if err != nil || len(msg.chunks) != 1 || !slices.Equal(msg.chunks[0].entries, []entry{{a, Claim{Term: 7}}}) {
		t.Fatalf("chunk of a later release: %+v, %v", msg, err)
	}
	if string(msg.chunks[0].raw) != string(later) {
		t.Error("what is unknown is lost when the chunk is passed on")
	}
	msg, err = decodeMessage(stateMessage([]byte{200, 1, 2, 3}, c.raw), nil)
	if err != nil || len(msg.chunks) != 1 {
		t.Errorf("unknown item: %+v, %v", msg, err)
	}
	for _, b := range [][]byte{
		append(leaveMessage(notice{node: "n", left: true}), "more"...), append(verdictMessage(Verdict{Node: "n", By: "m"}), "more"...),
		stateMessage(append(departureItem(notice{node: "n"}), "more"...)),
	} {
		if _, err := decodeMessage(b, nil); err != nil {
			t.Errorf("message with more behind it: %v", err)
		}
	}
}

func TestMalformedClaims(t *testing.T) {
	t.Parallel()
	head := func(index, whole uint64) []byte {
		b := append(appendString([]byte{kindChunk, chunkVersion}, "n"), 1)
		return binary.AppendUvarint(append(binary.AppendUvarint(b, index), 1), whole)
	}
	with := func(fields ...[]byte) []byte {
		b := head(0, 0)
		for _, f := range fields {
			b = appendField(b, tagClaim, f)
		}
		return b
	}
	a := appendClaim(nil, entry{netip.MustParseAddr("192.0.2.1"), Claim{}}, 0)
	mapped := netip.MustParseAddr("::ffff:192.0.2.1").As16()
	for name, tt := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":         {[]byte{kindChunk}, "cut short"},
		"no node":         {chunkMessage(newChunk(chunk{}, nil)), "not usable"},
		"last epoch":      {chunkMessage(newChunk(chunk{node: "n", epoch: math.MaxUint64}, nil)), "not usable"},
		"index":           {head(maxChunks, 0), "not usable"},
		"whole":           {head(0, maxChunks+1), "not usable"},
		"too large":       {append(head(0, 0), make([]byte, maxChunk)...), "more than"},
		"name":            {appendField(head(0, 0), tagName, make([]byte, maxNodeName+1)), "name of 254 bytes"},
		"claim cut short": {with(a[:3]), "cut short"},
		"to nobody":       {with(slices.Concat(a[:len(a)-1], []byte{1})), "no name 1"},
		"twice":           {with(a, a), "not in order"},
		"mapped":          {with(slices.Concat([]byte{flagIPv6}, mapped[:], []byte{1, 0})), "in the form of IPv6"},
		"departure":       {stateMessage(departureItem(notice{node: "n"})[:4]), "cut short"},
		"verdict":         {verdictMessage(Verdict{Node: "n"}), "a name is missing"},
	} {
		if _, err := decodeMessage(tt.b, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one about %q", name, err, tt.want)
		}
	}
}

func TestFarewellsSurviveTheWire(t *testing.T) {
	t.Parallel()
	left := notice{node: "node-1", epoch: 1 << 60, left: true, returns: true, standIn: "node-2"}
	msg, err := decodeMessage(leaveMessage(left), nil)
	if err != nil || msg.leave == nil || *msg.leave != left {
		t.Errorf("%+v, %v", msg.leave, err)
	}
	left.age = 90 * time.Second
	failed := notice{node: "node-3", epoch: 9, age: 10 * time.Millisecond}
	msg, err = decodeMessage(stateMessage(departureItem(left), departureItem(failed)), nil)
	if err != nil || !slices.Equal(msg.departures, []notice{left, failed}) {
		t.Errorf("%+v, %v", msg.departures, err)
	}
	verdict := Verdict{Node: "node-1", Epoch: 1 << 60, Silent: true, By: "node-2"}
	msg, err = decodeMessage(verdictMessage(verdict), nil)
	if err != nil || *msg.verdict != verdict {
		t.Errorf("%+v, %v", msg.verdict, err)
	}
}

func TestMACString(t *testing.T) {
	t.Parallel()
	if got := (MAC{0x02, 0, 0x5e, 0x10, 0, 0xff}).String(); got != "02:00:5e:10:00:ff" {
		t.Error(got)
	}
}
