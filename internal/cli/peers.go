package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Peers is the report of the BGP sessions of all nodes.
type Peers struct {
	Sessions []Session `json:"sessions"`
	// Idle are BGPPeers without any session.
	Idle []IdlePeer `json:"idle,omitempty"`
	now  time.Time
}

// Session is one BGP session.
type Session struct {
	Node string `json:"node"`
	v1beta1.BGPSessionStatus
}

// IdlePeer is a BGPPeer that no node has a session with, and why.
type IdlePeer struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// ReportPeers reports on the BGP sessions.
func ReportPeers(c *Cluster) Peers {
	r := Peers{Sessions: []Session{}, now: c.Now}
	seen := map[string]bool{}
	for _, state := range byName(c.NodeStates) {
		for _, s := range state.Status.BGPSessions {
			r.Sessions = append(r.Sessions, Session{Node: state.Name, BGPSessionStatus: s})
			seen[s.Peer] = true
		}
	}
	for _, peer := range byName(c.BGPPeers) {
		if seen[peer.Name] {
			continue
		}
		v := verdictOf(peer.Status.Conditions, peer.Generation)
		why := "no node has reported a session"
		if !v.Accepted || v.Reason != v1beta1.ReasonAccepted {
			why = v.Message
		}
		r.Idle = append(r.Idle, IdlePeer{Name: peer.Name, Why: why})
	}
	return r
}

// trouble says what is wrong with a session; "" if nothing is.
func (s *Session) trouble() string {
	var texts []string
	if s.State != v1beta1.BGPEstablished {
		text := string(s.State)
		if s.LastError != nil {
			text += ": " + s.LastError.Message
		}
		texts = append(texts, text)
	}
	if s.BFD != nil && s.BFD.State != "Up" && s.State == v1beta1.BGPEstablished {
		text := "BFD is " + s.BFD.State
		if s.BFD.Diagnostic != "" {
			text += ": " + s.BFD.Diagnostic
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

func (s *Session) state() State {
	switch {
	case s.State != v1beta1.BGPEstablished:
		return StateError
	case s.BFD != nil && s.BFD.State != "Up":
		return StateWarning
	}
	return StateOK
}

func (r Peers) text(p *Printer) {
	if len(r.Sessions)+len(r.Idle) == 0 {
		p.printf("There are no BGP sessions, and no BGPPeers.\n")
		return
	}
	if len(r.Sessions) > 0 {
		t := table{columns: []column{
			{name: "NODE"}, {name: "PEER"}, {name: "ADDRESS"}, {name: "ASN"}, {name: "STATE"}, {name: "SINCE"}, {name: "BFD"}, {name: "ROUTES"},
			{name: "LOCAL ADDRESS", wide: true}, {name: "FAMILIES", wide: true}, {name: "HOLD TIME", wide: true}, {name: "NOTE"},
		}}
		for i := range r.Sessions {
			s := &r.Sessions[i]
			bfd := cell{}
			if s.BFD != nil {
				bfd = cell{text: s.BFD.State, state: StateOK}
				if s.BFD.State != "Up" {
					bfd.state = StateError
				}
			}
			t.add(plain(s.Node), plain(s.Name), plain(s.Address), plain(asn(s.PeerASN)), cell{text: string(s.State), state: worse(StateOK, s.bgpState())},
				plain(age(r.now, s.Since)), bfd, plain(strconv.Itoa(int(s.AnnouncedPrefixes))),
				plain(s.LocalAddress), plain(strings.Join(s.Families, ",")), plain(s.HoldTime), cell{text: s.trouble(), state: s.state()})
		}
		t.print(p)
	}
	for i, idle := range r.Idle {
		if i == 0 && len(r.Sessions) > 0 {
			p.printf("\n")
		}
		p.printf("%s\n", p.paint(StateWarning, fmt.Sprintf("BGPPeer %s has no session: %s", idle.Name, idle.Why)))
	}
}

func (s *Session) bgpState() State {
	if s.State != v1beta1.BGPEstablished {
		return StateError
	}
	return StateOK
}

func asn(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// age renders for how long something has been so.
func age(now time.Time, since *metav1.Time) string {
	if since == nil || since.IsZero() {
		return ""
	}
	return duration.HumanDuration(max(0, now.Sub(since.Time)))
}
