package bfd

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An echoPort is an echo socket and the sessions that use it. Its fields belong
// to the Monitor's mu.
type echoPort struct {
	key     echoKey
	socket  *echoSocket
	users   int
	checks  []*link
	stopped bool
}

// check is what port.check is, for echo packets.
func (p *echoPort) check(l *link) bool {
	if p.stopped {
		return false
	}
	p.checks = append(p.checks, l)
	p.socket.interrupt()
	return true
}

// wantsEcho reports whether a session could send echo packets if it had what it
// takes. Link-local addresses cannot be forwarded.
func (l *link) wantsEcho() bool {
	s := l.session
	return s.cfg.EchoMode && !l.key.multihop && !s.echo.ready && l.conn != nil && !l.conn.local.IsLinkLocalUnicast() &&
		s.state == Up && s.remoteState == Up && s.remoteEcho != 0
}

// readyEcho gives a session what it takes to send echo packets.
func (m *Monitor) readyEcho(now time.Time, l *link, readers *sync.WaitGroup) {
	if err := m.tryEcho(l, readers); err != nil {
		l.echoRetry = now.Add(reopen)
		if l.echoErr == nil || l.echoErr.Error() != err.Error() {
			m.logger.Log("msg", "cannot send BFD echo packets", "peer", l.key, "err", err)
		}
		l.echoErr = err
		return
	}
	l.echoErr = nil
	l.session.setEchoReady(now, true)
}

func (m *Monitor) tryEcho(l *link, readers *sync.WaitGroup) error {
	ifindex := l.ifindex
	if ifindex == 0 {
		ifi, err := interfaceOf(l.conn.local)
		if err != nil {
			return err
		}
		ifindex = ifi.Index
	}
	mac, err := neighbour(ifindex, l.key.peer)
	if err != nil {
		return err
	}
	k := echoKey{ifindex: ifindex, ipv6: l.key.peer.Is6()}
	p := m.echoPorts[k]
	if p == nil {
		socket, err := openEcho(k)
		if err != nil {
			return err
		}
		p = &echoPort{key: k, socket: socket}
		m.echoPorts[k] = p
		readers.Go(func() { m.readEchoes(p) })
	}
	p.users++
	l.echoPort = p
	l.echoTo = unix.SockaddrLinklayer{Protocol: bigEndian(k.ethertype()), Ifindex: ifindex, Halen: uint8(len(mac))}
	copy(l.echoTo.Addr[:], mac)
	return nil
}

// closeEcho takes from a session what readyEcho gave it, so that it looks for
// its peer's hardware address anew next time.
func (m *Monitor) closeEcho(now time.Time, l *link) {
	p := l.echoPort
	if p == nil {
		return
	}
	l.echoPort = nil
	l.session.setEchoReady(now, false)
	if p.users--; p.users == 0 {
		p.stopped = true
		p.socket.close()
		if m.echoPorts[p.key] == p {
			delete(m.echoPorts, p.key)
		}
	}
}

// sendEchoes sends the echo packet that is due, if any.
func (m *Monitor) sendEchoes(now time.Time, l *link) {
	if l.echoPort == nil || l.conn == nil {
		return
	}
	b := appendEchoHeaders(m.buf[:0], l.conn.local)
	b, due := l.session.transmitEcho(now, b)
	if !due {
		return
	}
	finishEcho(b)
	if err := l.echoPort.socket.send(b, &l.echoTo); err != nil {
		l.metrics.sendErrors.Inc()
		return
	}
	l.metrics.echoSent.Inc()
}

// readEchoes reads echo packets until the socket is closed or breaks.
func (m *Monitor) readEchoes(p *echoPort) {
	buf := make([]byte, 256)
	for {
		payload, err := p.socket.read(buf)
		switch {
		case err == nil:
			m.receiveEcho(payload)
		case errors.Is(err, os.ErrDeadlineExceeded):
			m.drainEchoes(p, buf)
		default:
			m.brokenEcho(p)
			return
		}
	}
}

// drainEchoes reads what had arrived before a verdict was asked for.
func (m *Monitor) drainEchoes(p *echoPort, buf []byte) {
	m.mu.Lock()
	checks := p.checks
	p.checks = nil
	p.socket.resume()
	m.mu.Unlock()
	raw, err := p.socket.file.SyscallConn()
	for n := 0; err == nil && n < drainLimit; n++ {
		size := 0
		if rerr := raw.Read(func(fd uintptr) bool {
			size, err = unix.Read(int(fd), buf)
			return true
		}); rerr != nil || err != nil {
			break
		}
		m.receiveEcho(udpPayload(buf[:size]))
	}
	m.mu.Lock()
	m.settle(checks)
	m.mu.Unlock()
}

// brokenEcho handles the end of a socket: its sessions go on without echo until
// there is another one.
func (m *Monitor) brokenEcho(p *echoPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Now()
	checks := p.checks
	p.checks = nil
	for _, l := range m.links {
		if l.echoPort == p {
			l.echoRetry = now.Add(reopen)
			m.closeEcho(now, l)
			m.attend(now, l)
		}
	}
	m.settle(checks)
}

func (m *Monitor) receiveEcho(payload []byte) {
	number, ok := parseEcho(payload)
	if !ok {
		return // a peer's, on its way back to it
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.byNumber[number]
	if l == nil {
		return
	}
	now, proven := m.clock.Now(), l.session.echo.proven
	if !l.session.receiveEcho(now, payload) {
		return
	}
	l.metrics.echoReceived.Inc()
	if !proven {
		m.logger.Log("msg", "BFD echo packets return", "peer", l.key)
		notify(m.changes)
	}
	m.attend(now, l)
}
