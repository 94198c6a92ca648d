package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func opens() []Open {
	id := netip.MustParseAddr("192.0.2.1")
	var many []RestartFamily
	var hops []ExtendedNextHop
	for i := range uint16(63) {
		many = append(many, RestartFamily{Family: Family{AFI: i, SAFI: 1}, Forwarding: i%2 == 0})
		hops = append(hops, ExtendedNextHop{Family: Family{AFI: i, SAFI: 1}, NextHopAFI: 2})
	}
	return []Open{
		{ASN: 65000, HoldTime: 90, RouterID: id},
		{ASN: 4200000000, HoldTime: 3, RouterID: id, Capabilities: Capabilities{
			Families:        []Family{IPv4Unicast, IPv6Unicast},
			RouteRefresh:    true,
			ExtendedNextHop: []ExtendedNextHop{{IPv4Unicast, AFIIPv6}},
			GracefulRestart: &GracefulRestart{
				Restarting: true, Notification: true, Time: 120,
				Families: []RestartFamily{{IPv4Unicast, true}, {IPv6Unicast, false}},
			},
			FourOctetASN: true,
			Other:        []Capability{{Code: 73, Value: []byte("\x04host\x00")}, {Code: 70}},
		}},
		// More than fit into optional parameters with short lengths.
		{ASN: 65000, HoldTime: 0, RouterID: id, Capabilities: Capabilities{
			ExtendedNextHop: hops, GracefulRestart: &GracefulRestart{Time: 4095, Families: many},
		}},
	}
}

func TestOpenRoundTrip(t *testing.T) {
	t.Parallel()
	for _, o := range opens() {
		b, err := o.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseOpen(b[len("before"):])
		for i := range got.Capabilities.Other {
			if len(got.Capabilities.Other[i].Value) == 0 {
				got.Capabilities.Other[i].Value = nil
			}
		}
		if err != nil || !reflect.DeepEqual(got, o) {
			t.Errorf("%+v became %+v (%v)", o, got, err)
		}
	}
}

func TestOpenBytes(t *testing.T) {
	t.Parallel()
	// From RFC 4271 section 4.2, RFC 5492 section 4 and the capabilities' own.
	want := strings.Repeat("ff", 16) + "0043" + "01" +
		"04" + "5ba0" + "005a" + "c0000201" + "26" +
		"02" + "24" +
		"0104" + "00010001" + "0104" + "00020001" + "0200" +
		"0506" + "000100010002" +
		"4006" + "8078" + "00010180" +
		"4104" + "fa56ea00"
	o := opens()[1]
	o.HoldTime = 90
	o.Capabilities.Other = nil
	o.Capabilities.GracefulRestart.Notification = false
	o.Capabilities.GracefulRestart.Families = o.Capabilities.GracefulRestart.Families[:1]
	b, err := o.Append(nil)
	if got := hex.EncodeToString(b); err != nil || got != want {
		t.Errorf("got  %s (%v)\nwant %s", got, err, want)
	}
}

func TestOpenThatCannotBeSaid(t *testing.T) {
	t.Parallel()
	ok := opens()[0]
	for what, change := range map[string]func(*Open){
		"AS number":  func(o *Open) { o.ASN = 70000 },
		"router ID":  func(o *Open) { o.RouterID = netip.IPv6LinkLocalAllNodes() },
		"capability": func(o *Open) { o.Capabilities.Other = []Capability{{Code: 99, Value: make([]byte, 256)}} },
		"families": func(o *Open) {
			o.Capabilities.GracefulRestart = &GracefulRestart{Families: make([]RestartFamily, 64)}
		},
		"bytes": func(o *Open) { o.Capabilities.Other = make([]Capability, 2100) },
	} {
		o := ok
		change(&o)
		if _, err := o.Append(nil); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: error is %v", what, err)
		}
	}
}

// A bad body of an OPEN, and what is to be answered.
type openBody struct {
	name string
	body []byte
	want [2]uint8
	data []byte
}

func openBodies() []openBody {
	head := []byte{4, 0xfd, 0xe8, 0, 90, 192, 0, 2, 1} // AS 65000
	with := func(params ...byte) []byte { return append(append(bytes.Clone(head), byte(len(params))), params...) }
	capability := func(caps ...byte) []byte { return with(append([]byte{2, byte(len(caps))}, caps...)...) }
	set := func(at int, v ...byte) []byte {
		b := with()
		copy(b[at:], v)
		return b
	}
	return []openBody{
		{"version", set(0, 3), [2]uint8{CodeOpen, SubcodeVersion}, []byte{0, 4}},
		{"AS 0", set(1, 0, 0), [2]uint8{CodeOpen, SubcodeBadPeerAS}, nil},
		{"AS_TRANS alone", set(1, 0x5b, 0xa0), [2]uint8{CodeOpen, SubcodeBadPeerAS}, nil},
		{"hold time", set(3, 0, 2), [2]uint8{CodeOpen, SubcodeHoldTime}, nil},
		{"identifier", set(5, 0, 0, 0, 0), [2]uint8{CodeOpen, SubcodeBadIdentifier}, nil},
		{"authentication parameter", with(1, 0), [2]uint8{CodeOpen, SubcodeOptionalParameter}, nil},
		{"length too long", append(with(), 0), [2]uint8{CodeOpen, SubcodeUnspecific}, nil},
		{"length too short", set(9, 1), [2]uint8{CodeOpen, SubcodeUnspecific}, nil},
		{"parameter without length", with(2), [2]uint8{CodeOpen, SubcodeUnspecific}, nil},
		{"parameter cut off", with(2, 3, 0, 0), [2]uint8{CodeOpen, SubcodeUnspecific}, nil},
		{"extended parameter cut off", with(255, 0, 4, 2, 0, 3, 2), [2]uint8{CodeOpen, SubcodeUnspecific}, nil},
		{"extended length", with(255, 0, 4, 2, 0, 0), [2]uint8{CodeOpen, SubcodeUnspecific}, nil},
		{"capability without length", capability(2), [2]uint8{CodeOpen, SubcodeUnspecific}, []byte{2}},
		{"capability cut off", capability(1, 4, 0, 1), [2]uint8{CodeOpen, SubcodeUnspecific}, []byte{1, 4, 0, 1}},
		{"multiprotocol", capability(1, 3, 0, 1, 1), [2]uint8{CodeOpen, SubcodeUnspecific}, []byte{1, 3, 0, 1, 1}},
		{"route refresh", capability(2, 1, 0), [2]uint8{CodeOpen, SubcodeUnspecific}, []byte{2, 1, 0}},
		{"extended next hop", capability(5, 0), [2]uint8{CodeOpen, SubcodeUnspecific}, []byte{5, 0}},
		{"extended next hop's SAFI", capability(5, 6, 0, 1, 1, 1, 0, 2), [2]uint8{CodeOpen, SubcodeUnspecific}, []byte{5, 6, 0, 1, 1, 1, 0, 2}},
		{"graceful restart", capability(64, 3, 0, 1, 0), [2]uint8{CodeOpen, SubcodeUnspecific}, []byte{64, 3, 0, 1, 0}},
		{"short AS", capability(65, 2, 0, 1), [2]uint8{CodeOpen, SubcodeUnspecific}, []byte{65, 2, 0, 1}},
		{"AS 0 in capability", capability(65, 4, 0, 0, 0, 0), [2]uint8{CodeOpen, SubcodeBadPeerAS}, nil},
		{"other AS in capability", capability(65, 4, 0, 0, 0xfd, 0xe9), [2]uint8{CodeOpen, SubcodeBadPeerAS}, nil},
	}
}

func TestOpenRefused(t *testing.T) {
	t.Parallel()
	for _, c := range openBodies() {
		o, err := ParseOpen(frame(TypeOpen, c.body))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: parsed as %+v (%v)", c.name, o, err)
			continue
		}
		if got := [2]uint8{e.Notification.Code, e.Notification.Subcode}; got != c.want || !bytes.Equal(e.Notification.Data, c.data) {
			t.Errorf("%s: %v is answered with %v %x", c.name, err, got, e.Notification.Data)
		}
	}
}

func TestOpenOddButRight(t *testing.T) {
	t.Parallel()
	head := []byte{4, 0x5b, 0xa0, 0, 90, 192, 0, 2, 1}
	for name, params := range map[string][]byte{
		// A capability each in its parameter, as old routers send them; the
		// last of those that count once counts.
		"one by one": {26, 2, 2, 2, 0, 2, 6, 65, 4, 0, 0, 0, 1, 2, 6, 65, 4, 0, 0, 0, 7, 2, 4, 64, 2, 0, 9},
		// RFC 9072 section 2: the short length is ignored then.
		"extended":                           {255, 255, 0, 17, 2, 0, 14, 2, 0, 65, 4, 0, 0, 0, 7, 64, 2, 0, 9, 2, 0},
		"extended with another short length": {9, 255, 0, 15, 2, 0, 12, 2, 0, 65, 4, 0, 0, 0, 7, 64, 2, 0, 9},
	} {
		o, err := ParseOpen(frame(TypeOpen, append(bytes.Clone(head), params...)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c := o.Capabilities; o.ASN != 7 || !c.RouteRefresh || !c.FourOctetASN || c.GracefulRestart == nil || c.GracefulRestart.Time != 9 {
			t.Errorf("%s: parsed as %+v", name, o)
		}
	}
}

func TestNegotiatedFamilies(t *testing.T) {
	t.Parallel()
	none, both, six := Capabilities{}, Capabilities{Families: []Family{IPv4Unicast, IPv6Unicast}}, Capabilities{Families: []Family{IPv6Unicast}}
	for _, c := range []struct {
		a, b Capabilities
		want []Family
	}{
		{none, none, []Family{IPv4Unicast}},
		{none, both, []Family{IPv4Unicast}},
		{both, six, []Family{IPv6Unicast}},
		{six, none, nil},
	} {
		if got := NegotiatedFamilies(c.a, c.b); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v and %v have %v in common", c.a.Families, c.b.Families, got)
		}
	}
}

func TestCapabilityNames(t *testing.T) {
	t.Parallel()
	var names []string
	for _, code := range opens()[1].Capabilities.Codes() {
		names = append(names, CapabilityName(code))
	}
	want := "multiprotocol route-refresh extended-next-hop graceful-restart four-octet-asn enhanced-route-refresh hostname"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("capabilities are %s", got)
	}
	if got := CapabilityName(200); got != "capability-200" {
		t.Errorf("unknown capability is %q", got)
	}
}

func TestHeaderRefused(t *testing.T) {
	t.Parallel()
	header := func(length uint16, kind byte) []byte {
		b := AppendKeepalive(nil)
		b[16], b[17], b[18] = byte(length>>8), byte(length), kind
		return b
	}
	marker := AppendKeepalive(nil)
	marker[3] = 0
	for _, c := range []struct {
		name string
		b    []byte
		sub  uint8
		data []byte
	}{
		{"marker", marker, SubcodeNotSynchronized, nil},
		{"short", header(18, 4), SubcodeBadLength, []byte{0, 18}},
		{"long", header(4097, 2), SubcodeBadLength, []byte{0x10, 1}},
		{"long keepalive", header(20, 4), SubcodeBadLength, []byte{0, 20}},
		{"short open", header(28, 1), SubcodeBadLength, []byte{0, 28}},
		{"short update", header(22, 2), SubcodeBadLength, []byte{0, 22}},
		{"short notification", header(20, 3), SubcodeBadLength, []byte{0, 20}},
		{"long route refresh", header(24, 5), SubcodeBadLength, []byte{0, 24}},
		{"type 0", header(19, 0), SubcodeBadType, []byte{0}},
		{"type 6", header(19, 6), SubcodeBadType, []byte{6}},
	} {
		_, err := ParseHeader(c.b)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: error is %v", c.name, err)
			continue
		}
		if n := e.Notification; n.Code != CodeHeader || n.Subcode != c.sub || !bytes.Equal(n.Data, c.data) {
			t.Errorf("%s: answered with %v %x", c.name, n, n.Data)
		}
	}
}

type update struct {
	name string
	body []byte
	want Family
	is   bool
}

func updates() []update {
	return []update{
		{"IPv4", []byte{0, 0, 0, 0}, IPv4Unicast, true},
		{"IPv6", []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1}, IPv6Unicast, true},
		{"IPv4 in the long form", []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 1, 1}, IPv4Unicast, true},
		{"extended length", []byte{0, 0, 0, 7, 0x90, 15, 0, 3, 0, 2, 1}, IPv6Unicast, true},
		{"flow specification", []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 1, 133}, Family{1, 133}, true},
		{"withdrawal of a default route", []byte{0, 1, 0, 0, 0}, Family{}, false},
		{"withdrawal of an IPv6 default route", []byte{0, 0, 0, 7, 0x80, 15, 4, 0, 2, 1, 0}, Family{}, false},
		{"announcement of a default route", []byte{0, 0, 0, 0, 0}, Family{}, false},
		{"MP_REACH", []byte{0, 0, 0, 6, 0x80, 14, 3, 0, 2, 1}, Family{}, false},
		{"wrong flags", []byte{0, 0, 0, 6, 0xc0, 15, 3, 0, 2, 1}, Family{}, false},
		{"wrong length", []byte{0, 0, 0, 7, 0x80, 15, 3, 0, 2, 1}, Family{}, false},
		{"wrong attribute length", []byte{0, 0, 0, 6, 0x80, 15, 2, 0, 2, 1}, Family{}, false},
		{"extended length in short form", []byte{0, 0, 0, 6, 0x90, 15, 3, 0, 2, 1}, Family{}, false},
	}
}

func TestEndOfRIB(t *testing.T) {
	t.Parallel()
	for _, c := range updates() {
		if got, is := EndOfRIB(frame(TypeUpdate, c.body)); got != c.want || is != c.is {
			t.Errorf("%s: %s, %t", c.name, got, is)
		}
	}
	if got := hex.EncodeToString(AppendEndOfRIB(nil, IPv4Unicast)[16:]); got != "00170200000000" {
		t.Errorf("IPv4 is %s", got)
	}
	if got := hex.EncodeToString(AppendEndOfRIB(nil, IPv6Unicast)[16:]); got != "001d0200000006800f03000201" {
		t.Errorf("IPv6 is %s", got)
	}
}

func TestShutdownText(t *testing.T) {
	t.Parallel()
	n := Shutdown(SubcodeAdminShutdown, "node drained")
	if got := n.String(); got != "cease: administrative shutdown: node drained" {
		t.Errorf("shown as %q", got)
	}
	if got := hex.EncodeToString(n.Append(nil)[16:]); got != "0022"+"03"+"0602"+"0c"+hex.EncodeToString([]byte("node drained")) {
		t.Errorf("sent as %s", got)
	}
	long := Shutdown(SubcodeAdminReset, strings.Repeat("é", 200))
	if got := long.Text(); got != strings.Repeat("é", 127) {
		t.Errorf("long text is %q", got)
	}
	for name, n := range map[string]Notification{
		"length too long":  {Code: CodeCease, Subcode: SubcodeAdminShutdown, Data: []byte{3, 'o', 'h'}},
		"length too short": {Code: CodeCease, Subcode: SubcodeAdminShutdown, Data: []byte{1, 'o', 'h'}},
		"not UTF-8":        {Code: CodeCease, Subcode: SubcodeAdminShutdown, Data: []byte{1, 0xff}},
		"other subcode":    {Code: CodeCease, Subcode: SubcodeCollision, Data: []byte{1, 'o'}},
		"other code":       {Code: CodeOpen, Subcode: SubcodeAdminShutdown, Data: []byte{1, 'o'}},
	} {
		if got := n.Text(); got != "" {
			t.Errorf("%s: text is %q", name, got)
		}
		if c := n.Canonical(); c.Data != nil {
			t.Errorf("%s: canonical data is %x", name, c.Data)
		}
	}
	ugly := Shutdown(SubcodeAdminShutdown, "bye\x1b[2J\n")
	if got := ugly.String(); got != "cease: administrative shutdown: bye [2J " {
		t.Errorf("shown as %q", got)
	}
	if got := (Notification{Code: 99, Subcode: 3}).String(); got != "code 99: subcode 3" {
		t.Errorf("shown as %q", got)
	}
}

func TestMessagesOfAnotherType(t *testing.T) {
	t.Parallel()
	k := AppendKeepalive(nil)
	_, openErr := ParseOpen(k)
	_, notificationErr := ParseNotification(k)
	_, refreshErr := ParseRouteRefresh(append(RouteRefresh{Family: IPv4Unicast}.Append(nil), 0))
	_, isEnd := EndOfRIB(k)
	if openErr == nil || notificationErr == nil || refreshErr == nil || isEnd {
		t.Errorf("parsed: %v, %v, %v, %t", openErr, notificationErr, refreshErr, isEnd)
	}
}
