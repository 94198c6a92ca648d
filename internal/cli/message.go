package cli

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
)

// Announcement is who announces an address, as the condition berth.dev/Announced
// says.
type Announcement struct {
	// Address that is announced, or not.
	Address string `json:"address"`
	// Protocol, Node and Interfaces are those of the one that answers on layer 2.
	Protocol   string   `json:"protocol,omitempty"`
	Node       string   `json:"node,omitempty"`
	Interfaces []string `json:"interfaces,omitempty"`
	// BGPNodes is how many nodes tell routers, and BGPPeers which these are.
	BGPNodes int      `json:"bgpNodes,omitempty"`
	BGPPeers []string `json:"bgpPeers,omitempty"`
	// Message is all that is said of the address.
	Message string `json:"message"`
}

var (
	// "192.0.2.1 by ARP from node-1 (eth0, eth1)"
	byLayer2 = regexp.MustCompile(`^\S+ by (ARP|NDP) from (\S+) \(([^)]*)\)`)
	// "by BGP from 3 nodes to router-1, router-2"
	byRouters = regexp.MustCompile(`by BGP from (\d+) nodes? to ([^;]*?)(?:, but not on the network of the nodes: .*|, though .*)?$`)
)

// announcements reads what the condition of a Service says of each address.
func announcements(svc *corev1.Service) []Announcement {
	c := condition(svc.Status.Conditions, v1beta1.ConditionAnnounced)
	if c == nil {
		return nil
	}
	return parseAnnounced(c)
}

func parseAnnounced(c *metav1.Condition) []Announcement {
	var all []Announcement
	for sentence := range strings.SplitSeq(c.Message, "; ") {
		first, _, _ := strings.Cut(sentence, " ")
		addr, err := ipam.ParseAddr(first)
		if err != nil { // it goes on about the address before
			if n := len(all); n > 0 {
				all[n-1].Message += "; " + sentence
			}
			continue
		}
		a := Announcement{Address: addr.String(), Message: sentence}
		if m := byLayer2.FindStringSubmatch(sentence); m != nil {
			a.Protocol, a.Node, a.Interfaces = m[1], m[2], strings.Split(m[3], ", ")
		}
		if m := byRouters.FindStringSubmatch(sentence); m != nil {
			a.BGPNodes, _ = strconv.Atoi(m[1])
			a.BGPPeers = strings.Split(m[2], ", ")
		}
		all = append(all, a)
	}
	return all
}

// short renders who announces: "node-1 (ARP)", "3 nodes (BGP)".
func (a *Announcement) short() string {
	var parts []string
	if a.Node != "" {
		parts = append(parts, a.Node+" ("+a.Protocol+")")
	}
	if a.BGPNodes > 0 {
		parts = append(parts, plural(a.BGPNodes, "node")+" (BGP)")
	}
	return strings.Join(parts, " + ")
}

// announcementOf returns what is said of one address, nothing if that is nothing.
func announcementOf(svc *corev1.Service, addr netip.Addr) Announcement {
	all := announcements(svc)
	i := slices.IndexFunc(all, func(a Announcement) bool { return a.Address == addr.String() })
	if i < 0 {
		return Announcement{}
	}
	return all[i]
}

// isAnnounced says whether anybody announces the address.
func (a *Announcement) isAnnounced() bool { return a.Node != "" || a.BGPNodes > 0 }
