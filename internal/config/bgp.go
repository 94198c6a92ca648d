package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/ipam"
)

// Times that hold where a BGPPeer names none.
const (
	DefaultHoldTime            = 90 * time.Second
	DefaultConnectTime         = 10 * time.Second
	DefaultGracefulRestartTime = 120 * time.Second
)

// BGPPeer is a BGPPeer that is in force, before it is resolved for a node (see
// SessionsOf).
type BGPPeer struct {
	Name string
	// session is what is the same on all nodes.
	session bgp.Peer
	// myASN and peerASN are zero where the value of a node counts.
	myASN, peerASN         uint32
	myASNFrom, peerASNFrom *v1beta1.NodeValue
	localASN               uint32
	addressFrom            *v1beta1.PeerAddressSource
	sourceInterface        string
	dualStack              *bool
	nodeSelectors          []labels.Selector
	// noPassword says why the peer cannot be spoken to: the password that it asks
	// for is not known.
	noPassword string
	bfd        *BFDProfile
	// object is what the peer was made from.
	object *v1beta1.BGPPeer
}

// String returns the name. It keeps the password out of logs: fmt prints
// unexported fields without asking them.
func (p BGPPeer) String() string { return "BGPPeer " + p.Name }

// GoString is String for %#v.
func (p BGPPeer) GoString() string { return p.String() }

// String tells how much is in force, without any password.
func (s Snapshot) String() string {
	return fmt.Sprintf("%d pools, %d reservations, %d L2Advertisements, %d BGPPeers, %d BGPAdvertisements",
		len(s.Pools), len(s.Reservations), len(s.L2Advertisements), len(s.BGPPeers), len(s.BGPAdvertisements))
}

// GoString is String for %#v.
func (s Snapshot) GoString() string { return s.String() }

// BGPAdvertisement is a BGPAdvertisement that is in force.
type BGPAdvertisement struct {
	Name string
	PoolSelection
	// AllPeers says that no peer is chosen by name or selector, which means all;
	// Peers are the names of the chosen ones, sorted.
	AllPeers bool
	Peers    []string
	// NodeSelectors, ServiceSelectors: one match is enough; none at all matches
	// everything.
	NodeSelectors    []labels.Selector
	ServiceSelectors []labels.Selector
	// Length of the prefixes that are announced, by family.
	Length map[bgp.Family]int
	// Specific announces the addresses beside their aggregates.
	Specific bool
	// Attributes of the routes.
	LocalPref, MED   *uint32
	Prepend          uint8
	Communities      []bgp.Community
	LargeCommunities []bgp.LargeCommunity
	// object is what the advertisement was made from.
	object *v1beta1.BGPAdvertisement
}

// SelectsPeer says whether the BGPPeer of that name is told.
func (a *BGPAdvertisement) SelectsPeer(name string) bool {
	if a.AllPeers {
		return true
	}
	_, found := slices.BinarySearch(a.Peers, name)
	return found
}

// BFDProfile is a BFDProfile that is in force.
type BFDProfile struct {
	Name string
	// Receive, Transmit and Echo are the least times between two packets.
	Receive, Transmit, Echo time.Duration
	DetectMultiplier        uint8
	EchoMode, Passive       bool
	// MinimumTTL of packets from peers that are more than one hop away.
	MinimumTTL uint8
}

// Secret is a Secret of Berth's namespace as far as peers are concerned.
type Secret struct {
	Name     string
	Password bgp.Password
	// Problem says why there is no password; it never quotes one.
	Problem string
}

// maxPassword is how long a TCP MD5 key may be on Linux (TCP_MD5SIG_MAXKEYLEN).
const maxPassword = 80

// NewSecret reads the password of a peer out of a Secret.
func NewSecret(object *corev1.Secret) Secret {
	s := Secret{Name: object.Name}
	// A file that a Secret was made from ends with a line break, which is no part
	// of the password.
	password := strings.TrimRight(string(object.Data[corev1.BasicAuthPasswordKey]), "\r\n")
	switch {
	case object.Type != corev1.SecretTypeBasicAuth:
		s.Problem = fmt.Sprintf("is of type %s and must be of type %s", object.Type, corev1.SecretTypeBasicAuth)
	case password == "":
		s.Problem = "has no password in its field " + corev1.BasicAuthPasswordKey
	case len(password) > maxPassword:
		s.Problem = fmt.Sprintf("has a password of %d bytes; TCP MD5 takes %d at most", len(password), maxPassword)
	default:
		s.Password = bgp.Password(password)
	}
	return s
}

// Node is what matters of a Node to BGP.
type Node struct {
	Name                string
	Labels, Annotations map[string]string
	// Addresses of the node, as its status has them.
	Addresses []netip.Addr
	// Local says that what follows is known, because it is this very machine.
	Local      bool
	Interfaces []Interface
	// Gateways are the next hops of the default routes; those that are link-local
	// have a zone. Of other machines they are those that are known.
	Gateways []netip.Addr
}

// NewNode reads what a Node says about itself. Its addresses are the internal
// ones, in the order of its status.
func NewNode(object *corev1.Node) Node {
	n := Node{Name: object.Name, Labels: object.Labels, Annotations: object.Annotations}
	for _, a := range object.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			n.Addresses = append(n.Addresses, addr.Unmap())
		}
	}
	return n
}

// Interface is a network interface of a node and its addresses with their
// subnets.
type Interface struct {
	Name      string
	Addresses []netip.Prefix
}

// memory is what names meant when they were last in force. A session or a route
// that uses one goes on when the object behind it is deleted.
type memory struct {
	profiles    map[string]*BFDProfile
	passwords   map[string]bgp.Password
	communities map[string]v1beta1.CommunityValue
}

// known is what names mean now, and meant before.
type known struct {
	now, before memory
	// former are the objects that are in force.
	former former
	// problems are those of Secrets, by name.
	problems map[string]string
	// kept is what is used of both: the memory of the next snapshot.
	kept memory
}

// former is how objects were when all that they named was there. One that is
// changed to name what is not there stays in force like that: nobody loses a
// session or a route by doing things in the other order.
type former struct {
	peers          map[string]*v1beta1.BGPPeer
	advertisements map[string]*v1beta1.BGPAdvertisement
}

func newFormer(before *Snapshot) former {
	f := former{peers: map[string]*v1beta1.BGPPeer{}, advertisements: map[string]*v1beta1.BGPAdvertisement{}}
	if before == nil {
		return f
	}
	for _, p := range before.BGPPeers {
		if p.noPassword == "" {
			f.peers[p.Name] = p.object
		}
	}
	for _, a := range before.BGPAdvertisements {
		f.advertisements[a.Name] = a.object
	}
	return f
}

func newMemory() memory {
	return memory{profiles: map[string]*BFDProfile{}, passwords: map[string]bgp.Password{}, communities: map[string]v1beta1.CommunityValue{}}
}

// recall finds what name means; fresh is false if it only did so before.
func recall[V any](now, before, kept map[string]V, name string) (value V, found, fresh bool) {
	value, fresh = now[name]
	found = fresh
	if !fresh {
		value, found = before[name]
	}
	if found {
		kept[name] = value
	}
	return value, found, fresh
}

// bgp judges all that has to do with BGP.
func (b *builder) bgp(objects Objects) {
	k := &known{now: newMemory(), kept: newMemory(), former: newFormer(objects.Before), problems: map[string]string{}}
	if objects.Before != nil {
		k.before = objects.Before.memory
	}
	for _, s := range objects.Secrets {
		if s.Problem != "" {
			k.problems[s.Name] = s.Problem
			continue
		}
		k.now.passwords[s.Name] = s.Password
	}
	b.profiles(objects.BFDProfiles, k)
	b.communities(objects.Communities, k)
	b.peers(objects.BGPPeers, objects.Nodes, k)
	b.bgpAdvertisements(objects, k)
	b.disputes(objects.Nodes)
	b.snapshot.memory = k.kept
}

// profiles accepts BFDProfiles. Their schema leaves little to be wrong.
func (b *builder) profiles(objects []*v1beta1.BFDProfile, k *known) {
	for _, object := range objects {
		profile, errs := newBFDProfile(object)
		if len(errs) > 0 {
			b.verdicts.BFDProfiles[object.Name] = invalid(errs)
			continue
		}
		k.now.profiles[object.Name] = profile
		b.verdicts.BFDProfiles[object.Name] = accepted("the profile is in force")
	}
}

// communities accepts Communities from the oldest to the youngest, so that a name
// that two give to different communities is that of the older.
func (b *builder) communities(objects []*v1beta1.Community, k *known) {
	owner := map[string]string{}
	for _, object := range byAge(objects) {
		if errs := checkAliases(object); len(errs) > 0 {
			b.verdicts.Communities[object.Name] = invalid(errs)
			continue
		}
		var refused []string
		for i, alias := range object.Spec.Communities {
			name := string(alias.Name)
			value, had := k.now.communities[name]
			switch {
			case !had:
				owner[name], k.now.communities[name] = object.Name, alias.Value
			case value != alias.Value:
				refused = append(refused, fmt.Sprintf("spec.communities[%d]: %s is %s in the older Community %s", i, name, value, owner[name]))
			}
		}
		b.verdicts.Communities[object.Name] = communityVerdict(refused, len(object.Spec.Communities))
	}
}

func communityVerdict(refused []string, all int) Verdict {
	switch message := few(refused) + "; choose another name"; len(refused) {
	case 0:
		return accepted("the names are in force")
	case all:
		return Verdict{Reason: v1beta1.ReasonConflict, Message: message}
	default:
		return Verdict{Accepted: true, Reason: v1beta1.ReasonPartlyAccepted, Message: "the other names are in force; " + message}
	}
}

// bgpAdvertisements accepts BGPAdvertisements.
func (b *builder) bgpAdvertisements(objects Objects, k *known) {
	for _, object := range objects.BGPAdvertisements {
		adv, errs := newBGPAdvertisement(object, objects.IPAddressPools, objects.BGPPeers)
		if len(errs) > 0 {
			b.verdicts.BGPAdvertisements[object.Name] = invalid(errs)
			continue
		}
		unknown, usable := adv.addCommunities(object.Spec.Communities, k)
		verdict := b.judgeBGPAdvertisement(object, adv, objects.BGPPeers)
		if len(unknown) > 0 {
			verdict = Verdict{Reason: v1beta1.ReasonUnknownCommunity, Message: few(unknown) +
				"; correct the name or give it to a community in a Community object. What speakers have announced meanwhile stays"}
		}
		b.verdicts.BGPAdvertisements[object.Name] = verdict
		if !usable {
			// Without a community that may keep a route where it belongs, the route
			// is better not announced, or as it was.
			adv = formerAdvertisement(object.Name, objects, k)
		}
		if adv != nil {
			b.snapshot.BGPAdvertisements = append(b.snapshot.BGPAdvertisements, adv)
		}
	}
	slices.SortFunc(b.snapshot.BGPAdvertisements, func(x, y *BGPAdvertisement) int { return strings.Compare(x.Name, y.Name) })
}

// formerAdvertisement makes the advertisement as it was, with the pools and peers
// that it selects now; nil if it was not in force.
func formerAdvertisement(name string, objects Objects, k *known) *BGPAdvertisement {
	object, was := k.former.advertisements[name]
	if !was {
		return nil
	}
	adv, errs := newBGPAdvertisement(object, objects.IPAddressPools, objects.BGPPeers)
	if _, usable := adv.addCommunities(object.Spec.Communities, k); !usable || len(errs) > 0 {
		return nil
	}
	return adv
}

// judgeBGPAdvertisement finds what an advertisement speaks of and is not there.
// It is in force for the rest.
func (b *builder) judgeBGPAdvertisement(object *v1beta1.BGPAdvertisement, adv *BGPAdvertisement, peers []*v1beta1.BGPPeer) Verdict {
	if v := b.judgePools(object.Spec.IPAddressPools, len(object.Spec.IPAddressPoolSelectors) > 0); !v.Accepted {
		return v
	}
	var notes []string
	missing := 0
	for i, name := range object.Spec.Peers {
		if !slices.ContainsFunc(peers, func(p *v1beta1.BGPPeer) bool { return p.Name == string(name) }) {
			notes = append(notes, fmt.Sprintf("spec.peers[%d]: there is no BGPPeer %s", i, name))
			missing++
		}
	}
	if missing > 0 && missing == len(object.Spec.Peers) && len(object.Spec.PeerSelectors) == 0 {
		return Verdict{Reason: v1beta1.ReasonUnknownPeer, Message: few(notes) + "; create it or correct the name"}
	}
	for i, name := range object.Spec.IPAddressPools {
		if _, found := b.snapshot.Pool(string(name)); !found {
			notes = append(notes, fmt.Sprintf("spec.ipAddressPools[%d]: no pool %s is in force", i, name))
		}
	}
	notes = append(notes, b.tooWide(adv)...)
	if len(notes) > 0 {
		return Verdict{Accepted: true, Reason: v1beta1.ReasonPartlyAccepted, Message: "the advertisement is in force otherwise; " + few(notes)}
	}
	return accepted("the advertisement is in force")
}

// tooWide says where aggregates are larger than the pool's ranges.
func (b *builder) tooWide(adv *BGPAdvertisement) []string {
	var notes []string
	for _, pool := range b.snapshot.Pools {
		if !adv.SelectsPool(pool.Name) {
			continue
		}
		for _, r := range merged(pool.Ranges) {
			family, name := bgp.IPv4, "spec.aggregationLength"
			if r.Family() == ipam.IPv6 {
				family, name = bgp.IPv6, "spec.aggregationLengthV6"
			}
			length := adv.Length[family]
			if !covers([]ipam.Range{r}, netip.PrefixFrom(r.From, length).Masked()) || !covers([]ipam.Range{r}, netip.PrefixFrom(r.To, length).Masked()) {
				notes = append(notes, fmt.Sprintf("%s: a prefix of /%d at an end of %s of pool %s reaches beyond the pool, so addresses there are announced by themselves",
					name, length, r, pool.Name))
			}
		}
	}
	return notes
}

// merged returns ranges in order with those that touch made one.
func merged(ranges []ipam.Range) []ipam.Range {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b ipam.Range) int { return a.From.Compare(b.From) })
	var out []ipam.Range
	for _, r := range sorted {
		if n := len(out); n > 0 && out[n-1].Family() == r.Family() && (r.From.Compare(out[n-1].To) <= 0 || out[n-1].To.Next() == r.From) {
			if r.To.Compare(out[n-1].To) > 0 {
				out[n-1].To = r.To
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// covers says whether the merged ranges have all of a prefix.
func covers(ranges []ipam.Range, prefix netip.Prefix) bool {
	whole := ipam.RangeOf(prefix)
	return slices.ContainsFunc(ranges, func(r ipam.Range) bool { return r.Contains(whole.From) && r.Contains(whole.To) })
}

// few joins texts, leaving out those beyond the first some.
func few(texts []string) string { return strings.Join(firstOf(texts), "; ") }

func firstOf(texts []string) []string {
	const some = 4
	if more := len(texts) - some; more > 0 {
		return append(slices.Clone(texts[:some]), fmt.Sprintf("and %d more", more))
	}
	return texts
}
