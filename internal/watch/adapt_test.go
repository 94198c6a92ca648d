package watch

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-lb/berth/internal/membership"
)

type fakeGroup struct{ view *membership.View }

func (g fakeGroup) View() *membership.View            { return g.view }
func (fakeGroup) Broadcast(membership.Verdict)        {}
func (fakeGroup) Verdicts() <-chan membership.Verdict { return nil }
func memberAt(name, addr string) membership.Member {
	return membership.Member{
		Node: name, Addr: netip.MustParseAddrPort(addr + ":7956"), Epoch: 7,
		Info: membership.Info{WatchPort: 7955, Abstains: name == "b", Links: []membership.Link{{
			Name: "eth0", ARP: true, MAC: membership.MAC{2, 1}, Addr4: netip.MustParseAddr(addr), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		}}},
	}
}

func TestFromMembership(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	got := FromMembership(fakeGroup{&membership.View{
		Members: []membership.Member{memberAt("a", "10.0.0.1"), memberAt("b", "10.0.0.2")},
		Gone:    []membership.Gone{{Member: memberAt("c", "10.0.0.3"), Since: at, Left: true, Returns: true}},
	}}, "a", nil).View()
	link := func(addr string) []Link {
		return []Link{{Name: "eth0", MAC: [6]byte{2, 1}, Addr4: netip.MustParseAddr(addr), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}}
	}
	want := View{Links: link("10.0.0.1"), Nodes: []Node{
		{Name: "b", Addr: netip.MustParseAddr("10.0.0.2"), WatchPort: 7955, Epoch: 7, Abstains: true, Links: link("10.0.0.2")},
		{Name: "c", Addr: netip.MustParseAddr("10.0.0.3"), WatchPort: 7955, Epoch: 7, Links: link("10.0.0.3"), Gone: true, Left: true, Returns: true, Since: at},
	}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
}
