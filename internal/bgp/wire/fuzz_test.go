package wire

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"
	"unicode/utf8"
)

// frame makes a message with a right header out of a body.
func frame(t Type, body []byte) []byte {
	b, at := appendHeader(nil, t)
	return finish(append(b, body...), at)
}

func FuzzParseHeader(f *testing.F) {
	f.Add(AppendKeepalive(nil))
	f.Add(frame(TypeUpdate, []byte{0, 0, 0, 0}))
	f.Add(frame(9, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			checkError(t, err)
			return
		}
		if h.Len < HeaderLen || h.Len > MaxLen {
			t.Fatalf("length %d let pass", h.Len)
		}
		if got, _ := appendHeader(nil, h.Type); !bytes.Equal(got[:markerLen], b[:markerLen]) || got[18] != b[18] {
			t.Fatalf("%x let pass", b[:HeaderLen])
		}
	})
}

// checkError demands that an error can be told to the peer.
func checkError(t *testing.T, err error) {
	t.Helper()
	e, ok := err.(*Error) //nolint:errorlint // parsers return it unwrapped
	if !ok {
		t.Fatalf("%T: %v", err, err)
	}
	if e.Notification.Code == 0 || e.Error() == "" {
		t.Fatalf("error says nothing: %#v", e)
	}
	if n, err := ParseNotification(e.Notification.Append(nil)); err != nil || n.Code != e.Notification.Code {
		t.Fatalf("notification %v cannot be sent: %v", e.Notification, err)
	}
}

func FuzzOpen(f *testing.F) {
	for _, o := range opens() {
		b, err := o.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[HeaderLen:])
	}
	for _, b := range openBodies() {
		f.Add(b.body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > MaxLen-HeaderLen {
			return
		}
		o, err := ParseOpen(frame(TypeOpen, body))
		if err != nil {
			checkError(t, err)
			return
		}
		if o.ASN == 0 || o.ASN == asTrans || o.HoldTime == 1 || o.HoldTime == 2 || o.RouterID == netip.IPv4Unspecified() {
			t.Fatalf("%+v let pass", o)
		}
		b, err := o.Append(nil)
		if err != nil {
			t.Fatalf("%+v cannot be encoded: %v", o, err)
		}
		again, err := ParseOpen(b)
		if err != nil || !reflect.DeepEqual(o, again) {
			t.Fatalf("%+v became %+v (%v)", o, again, err)
		}
		if twice, err := again.Append(nil); err != nil || !bytes.Equal(b, twice) {
			t.Fatalf("%x became %x (%v)", b, twice, err)
		}
		if len(b) > HeaderLen+len(body) {
			t.Fatalf("canonical form has %d bytes, the original %d", len(b), HeaderLen+len(body))
		}
		if clone := o.Clone(); !reflect.DeepEqual(o, clone) {
			t.Fatalf("%+v cloned is %+v", o, clone)
		}
		_ = o.Capabilities.Codes()
		_ = NegotiatedFamilies(o.Capabilities, again.Capabilities)
	})
}

func FuzzNotification(f *testing.F) {
	f.Add([]byte{6, 2})
	f.Add(Shutdown(SubcodeAdminReset, "see you").Append(nil)[HeaderLen:])
	f.Add([]byte{6, 2, 4, 'o', 'h', 0xff, 0})
	f.Add([]byte{6, 4, 9, 'c', 'u', 't'})
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > MaxLen-HeaderLen {
			return
		}
		msg := frame(TypeNotification, body)
		n, err := ParseNotification(msg)
		if err != nil {
			checkError(t, err)
			return
		}
		if got := n.Append(nil); !bytes.Equal(got, msg) {
			t.Fatalf("%x became %x", msg, got)
		}
		for _, r := range n.String() {
			if r < ' ' || r == 0x7f || r == utf8.RuneError && !bytes.ContainsRune(body, utf8.RuneError) {
				t.Fatalf("%q is not fit to be shown", n.String())
			}
		}
		c := n.Canonical()
		if c.Text() != n.Text() || len(c.Data) > 256 || !reflect.DeepEqual(c, c.Canonical()) {
			t.Fatalf("%+v has the canonical form %+v", n, c)
		}
	})
}

func FuzzRouteRefresh(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1})
	f.Add([]byte{0, 2, 1, 1})
	f.Add([]byte{0, 2, 0, 1, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > MaxLen-HeaderLen {
			return
		}
		msg := frame(TypeRouteRefresh, body)
		r, err := ParseRouteRefresh(msg)
		if err != nil {
			checkError(t, err)
			return
		}
		if got := r.Append(nil); !bytes.Equal(got, msg) {
			t.Fatalf("%x became %x", msg, got)
		}
	})
}

func FuzzEndOfRIB(f *testing.F) {
	for _, family := range []Family{IPv4Unicast, IPv6Unicast, {AFI: 25, SAFI: 70}} {
		f.Add(AppendEndOfRIB(nil, family)[HeaderLen:])
	}
	for _, u := range updates() {
		f.Add(u.body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > MaxLen-HeaderLen {
			return
		}
		family, ok := EndOfRIB(frame(TypeUpdate, body))
		if !ok {
			return
		}
		if again, ok := EndOfRIB(AppendEndOfRIB(nil, family)); !ok || again != family {
			t.Fatalf("%s became %s", family, again)
		}
	})
}
