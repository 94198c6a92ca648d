package bfd

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// A key is what makes two sessions different ones. Several Configs with the same
// key share a session (RFC 5882 section 2).
type key struct {
	peer, local    netip.Addr
	ifname, device string
	multihop       bool
}

func keyOf(c Config) key {
	return key{peer: c.Peer, local: c.Local, ifname: c.Interface, device: c.VRF, multihop: c.Multihop}
}

// String returns the peer, with its interface as zone, as a user would write it.
func (k key) String() string {
	if k.ifname == "" {
		return k.peer.String()
	}
	return k.peer.String() + "%" + k.ifname
}

// port is the key of the socket that receives the session's packets.
func (k key) port() portKey {
	return portKey{ipv6: k.peer.Is6(), multihop: k.multihop, device: k.device}
}

// A match is how the first packets of a peer find their session, before they
// carry its discriminator (RFC 5880 section 6.3, RFC 5881 section 3, RFC 5883
// section 4). ifindex is 0 and local not valid if the session does not care.
type match struct {
	port        portKey
	peer, local netip.Addr
	ifindex     int
}

// A link is a session with its sockets: all that a Monitor knows of it.
type link struct {
	key     key
	names   []string // of the Configs, sorted
	session *session
	metrics linkMetrics

	port     *port     // that receives its packets
	ifindex  int       // of key.ifname, 0 if it has none or is not open
	conn     *sender   // nil if it is not open
	source   uint16    // the UDP port that is sent from, 0 before the first time
	echoPort *echoPort // nil if no echo packets can be sent
	echoTo   unix.SockaddrLinklayer
	echoErr  error
	// echoRetry is when to see again whether they can be sent.
	echoRetry time.Time
	err       error
	lowTTL    int       // of the peer's packets that were discarded for it, see noteTTL
	retry     time.Time // when to open it again, never if it is open
	leaving   time.Time // when to drop it, never if it is wanted

	// checking: the session has expired unless the port has unread packets.
	checking bool
	since    time.Time
	failures uint64
	// doubt is when a session that went down for no reason is taken for one that
	// failed, never if there is none.
	doubt time.Time

	due   time.Time // see queue
	index int
}

// nextDue is when the link needs attention without an event.
func (l *link) nextDue() time.Time {
	due := earliest(l.session.sendAt(), l.retry, l.leaving, l.doubt)
	if !l.checking {
		due = earliest(due, l.session.expireAt())
	}
	if l.wantsEcho() {
		due = earliest(due, l.echoRetry)
	}
	return due
}

func (l *link) match() match {
	return match{port: l.key.port(), peer: l.key.peer, local: l.key.local, ifindex: l.ifindex}
}

// status describes the link to those who have configured it as name.
func (l *link) status(name string) Status {
	s := l.session
	st := Status{
		Name: name, Peer: l.key.peer, Local: l.key.local,
		State: s.state, RemoteState: s.remoteState, Diagnostic: s.diag, RemoteDiagnostic: s.remoteDiag,
		Since: l.since, Failures: l.failures,
		TransmitInterval: s.transmitInterval(), DetectionTime: s.detectionTime(),
		Echo: s.echo.proven, Err: l.err,
	}
	if l.key.peer.Is6() && l.key.peer.IsLinkLocalUnicast() {
		st.Peer = st.Peer.WithZone(l.key.ifname)
	}
	if l.conn != nil {
		st.Local = l.conn.local
	}
	if st.Err == nil && l.lowTTL != 0 && s.state != Up {
		st.Err = fmt.Errorf("the peer's packets come with a TTL of %d, below the minimum of %d", l.lowTTL, s.cfg.MinimumTTL)
	}
	return st
}
