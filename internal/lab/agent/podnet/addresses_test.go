package podnet

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPool(t *testing.T) {
	t.Parallel()
	p := newPool(netip.MustParsePrefix("10.0.0.5/29")) // the host part is ignored
	var got []string
	for range 5 {
		a, err := p.take()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.String())
	}
	want := []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if a, err := p.take(); err == nil {
		t.Errorf("a full pool gives %s", a)
	}
	for _, text := range []string{"10.0.0.3", "10.0.0.5"} {
		p.release(netip.MustParseAddr(text))
	}
	for _, want := range []string{"10.0.0.3", "10.0.0.5"} {
		if a, err := p.take(); err != nil || a.String() != want {
			t.Errorf("got %s, %v; want %s", a, err, want)
		}
	}
}

func TestPoolDoesNotReuseAtOnce(t *testing.T) {
	t.Parallel()
	p := newPool(netip.MustParsePrefix("fd00::/64"))
	first, err := p.take()
	if err != nil || first != netip.MustParseAddr("fd00::2") {
		t.Fatalf("got %s, %v", first, err)
	}
	p.release(first)
	if next, err := p.take(); err != nil || next != netip.MustParseAddr("fd00::3") {
		t.Errorf("got %s, %v", next, err)
	}
}

func TestPoolTooSmall(t *testing.T) {
	t.Parallel()
	p := newPool(netip.MustParsePrefix("10.0.0.0/31"))
	if a, err := p.take(); err == nil {
		t.Errorf("got %s", a)
	}
}

func TestPortName(t *testing.T) {
	t.Parallel()
	const longest = 15 // IFNAMSIZ without the final zero
	a, b := portName("lab-node-1-pod-a"), portName("lab-node-1-pod-b")
	if len(a) > longest || a == b {
		t.Errorf("names %s and %s", a, b)
	}
}
