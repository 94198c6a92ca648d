package membership

import (
	"time"

	"github.com/hashicorp/memberlist"
)

// The failure detector. Each speaker probes one other every probeInterval, in turn; a speaker that does not answer
// within probeTimeout is probed through up to indirectChecks others and over TCP until the interval is over, and is then
// suspected. A suspected speaker is told so and can refute; it is declared dead after suspicionMult intervals, or up to
// suspicionMaxMult times that if not enough others came to suspect it too.
//
// A speaker starved of CPU has to miss a probe and then everything for suspicionMult intervals before it is given up.
//
// Measured on loopback on a machine with 2 cores that did other work too. From falling silent until all others have
// acted, median and maximum of 12 (BenchmarkDetection): 1.2 s and 1.4 s with 3 speakers, 1.5 s and 2.0 s with 30. With 16
// busy processes beside them (BenchmarkFalsePositives), 10 speakers saw nobody fail wrongly in 12 s; with a
// suspicionMult of 3, detection was 0.2 s faster, and there were 43 false alarms in 20 s. From the end of a partition of
// one against the rest until all see each other (BenchmarkHeal): 0.2 s and 0.4 s.
const (
	probeInterval    = 200 * time.Millisecond
	probeTimeout     = 80 * time.Millisecond
	indirectChecks   = 3
	suspicionMult    = 4
	suspicionMaxMult = 2
	// awarenessMax lets a speaker that itself misses acknowledgements stretch its probes up to so many intervals.
	awarenessMax = 4

	gossipInterval = 100 * time.Millisecond
	gossipNodes    = 3
	retransmitMult = 4
	// streamTimeout bounds connecting, reading and writing of every TCP exchange.
	streamTimeout = time.Second
	// pushPullInterval is the time between full state exchanges with a random member; they repair what gossip lost.
	pushPullInterval = 15 * time.Second
	// gossipToDead is how long a dead speaker is still told that it is thought dead.
	gossipToDead = 30 * time.Second
	// dialTimeout bounds connecting. It is shorter than TCP's first retransmission (1 s, RFC 6298 section 2), because a new
	// attempt does what that would, earlier.
	dialTimeout = 300 * time.Millisecond
	// reclaimTime is how long a name has to be dead before it may come back with another address.
	reclaimTime = time.Second

	packetSize = 1400
	// maxGossip is the largest message left to gossip in packets; packetSize less what memberlist and encryption add.
	maxGossip = 1200
)

// Joining.
const (
	// reachInterval is the time between attempts to reach known peers that are not members: up to reachPeers of them, by
	// a ping over UDP, so that a healed partition is noticed by the first packet that gets through. Every joinEvery-th
	// attempt is a TCP join too, for networks that lose UDP.
	reachInterval = 400 * time.Millisecond
	reachPeers    = 4
	joinEvery     = 4
	// joinWorkers bounds the joins that are under way at the same time.
	joinWorkers = 16
	// joinPasses and passDelay: two speakers that hold each other dead learn that by one exchange, and refute it in the
	// next, a moment later. A third is for when that moment was not enough, or the first found the link not yet working.
	joinPasses = 3
	passDelay  = 25 * time.Millisecond

	// reportAfter is how long a peer has to be out of reach before that is reported: at a rollout it may just not be up yet.
	reportAfter = 5 * time.Second

	// departureHold is how long a speaker that said it leaves is taken for gone while the failure detector still sees it.
	departureHold = 10 * time.Second
	// resendInterval and resendTries are for records that are too large for a packet and could not be delivered.
	resendInterval = 500 * time.Millisecond
	resendTries    = 10

	// lateInterval is half of how long an address is told in two chunks when it has outgrown one: the packet with the new
	// one may get lost, and gossip takes a moment.
	lateInterval = 500 * time.Millisecond

	// label keeps packets of other users of memberlist out.
	label = "berth"
)

func (m *Membership) listConfig(transport memberlist.NodeAwareTransport, port int) *memberlist.Config {
	d := &delegate{m}
	c := memberlist.DefaultLANConfig()
	c.Name = m.cfg.Node
	c.Transport = transport
	c.BindPort, c.AdvertisePort = port, port
	c.AdvertiseAddr = m.cfg.Advertise.String()
	c.Label = label
	c.Keyring = m.ring
	c.Delegate, c.Events, c.Conflict = d, d, d
	c.Logger = m.listLogger()
	c.ProbeInterval, c.ProbeTimeout = probeInterval, probeTimeout
	c.IndirectChecks = indirectChecks
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = suspicionMult, suspicionMaxMult
	c.AwarenessMaxMultiplier = awarenessMax
	c.GossipInterval, c.GossipNodes = gossipInterval, gossipNodes
	c.GossipToTheDeadTime = gossipToDead
	c.RetransmitMult = retransmitMult
	c.TCPTimeout = streamTimeout
	c.PushPullInterval = pushPullInterval
	c.DeadNodeReclaimTime = reclaimTime
	c.UDPBufferSize = packetSize
	// LZW saves little on packets this small and allocates a table for each.
	c.EnableCompression = false
	return c
}
