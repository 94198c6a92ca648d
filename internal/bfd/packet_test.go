package bfd

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// good is a control packet of a session that is up.
func good() []byte {
	return []byte{
		0x20, 0xc0, 3, 24,
		0, 0, 0, 1, 0, 0, 0, 2,
		0, 4, 0x93, 0xe0, 0, 0, 0xc3, 0x50, 0, 0, 0, 0,
	}
}

func TestPacketWire(t *testing.T) {
	t.Parallel()
	var p Packet
	if err := p.Parse(good()); err != nil {
		t.Fatal(err)
	}
	want := Packet{
		State: Up, DetectMultiplier: 3, MyDiscriminator: 1, YourDiscriminator: 2,
		DesiredMinTx: 300 * time.Millisecond, RequiredMinRx: 50 * time.Millisecond,
	}
	if d := cmp.Diff(want, p); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(good(), p.AppendTo(nil)); d != "" {
		t.Error(d)
	}
}

// TestPacketChecks: the checks of RFC 5880 section 6.8.6, in its order.
func TestPacketChecks(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(b []byte) []byte
		err    error
	}{
		"good":                  {func(b []byte) []byte { return b }, nil},
		"empty":                 {func([]byte) []byte { return nil }, errShort},
		"short":                 {func(b []byte) []byte { return b[:23] }, errShort},
		"version 0":             {func(b []byte) []byte { b[0] = 0; return b }, errVersion},
		"version 2":             {func(b []byte) []byte { b[0] = 2 << 5; return b }, errVersion},
		"length below 24":       {func(b []byte) []byte { b[3] = 23; return b }, errLength},
		"length beyond payload": {func(b []byte) []byte { b[3] = 25; return b }, errLength},
		"payload beyond length": {func(b []byte) []byte { return append(b, 0) }, nil},
		"multiplier 0":          {func(b []byte) []byte { b[2] = 0; return b }, errMultiplier},
		"multipoint":            {func(b []byte) []byte { b[1] |= 1; return b }, errMultipoint},
		"my discriminator 0":    {func(b []byte) []byte { b[7] = 0; return b }, errDiscriminator},
		"your 0 in Up":          {func(b []byte) []byte { b[11] = 0; return b }, errUnexpected},
		"your 0 in Init":        {func(b []byte) []byte { b[11], b[1] = 0, 0x80; return b }, errUnexpected},
		"your 0 in Down":        {func(b []byte) []byte { b[11], b[1] = 0, 0x40; return b }, nil},
		"your 0 in AdminDown":   {func(b []byte) []byte { b[11], b[1] = 0, 0; return b }, nil},
		"authentication": {func(b []byte) []byte {
			b[1] |= bitAuthentication
			b[3] = 28
			return append(b, 1, 4, 1, 'x')
		}, errAuthentication},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p Packet
			if err := p.Parse(tc.change(good())); !errors.Is(err, tc.err) {
				t.Errorf("got %v, want %v", err, tc.err)
			}
		})
	}
}

func TestPacketRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPacket(t)
		var q Packet
		if err := q.Parse(p.AppendTo(nil)); err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		if d := cmp.Diff(p, q); d != "" {
			t.Fatal(d)
		}
	})
}

// drawPacket draws any packet that passes Parse.
func drawPacket(t *rapid.T) Packet {
	interval := rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.Uint32().Draw(t, "microseconds")) * time.Microsecond
	})
	p := Packet{
		Diagnostic:              Diagnostic(rapid.IntRange(0, 31).Draw(t, "diagnostic")),
		State:                   State(rapid.IntRange(0, 3).Draw(t, "state")),
		Poll:                    rapid.Bool().Draw(t, "poll"),
		Final:                   rapid.Bool().Draw(t, "final"),
		ControlPlaneIndependent: rapid.Bool().Draw(t, "independent"),
		Demand:                  rapid.Bool().Draw(t, "demand"),
		DetectMultiplier:        rapid.Uint8Range(1, 255).Draw(t, "multiplier"),
		MyDiscriminator:         rapid.Uint32Range(1, 1<<32-1).Draw(t, "my"),
		YourDiscriminator:       rapid.Uint32().Draw(t, "your"),
		DesiredMinTx:            interval.Draw(t, "tx"),
		RequiredMinRx:           interval.Draw(t, "rx"),
		RequiredMinEchoRx:       interval.Draw(t, "echo"),
	}
	if p.YourDiscriminator == 0 && p.State > Down {
		p.State = Down
	}
	return p
}

// FuzzPacket: no input makes Parse panic, and what it accepts is what
// AppendTo writes, but for what the form allows and we do not use.
func FuzzPacket(f *testing.F) {
	f.Add(good())
	f.Add(append(good(), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, q Packet
		if p.Parse(b) != nil {
			return
		}
		out := p.AppendTo(nil)
		if err := q.Parse(out); err != nil || p != q {
			t.Fatalf("%x became %x: %v", b, out, err)
		}
		want := append([]byte(nil), b[:packetSize]...)
		want[3] = packetSize
		if d := cmp.Diff(want, out); d != "" {
			t.Fatal(d)
		}
	})
}
