package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lookout asks who has each of many addresses, until it is stopped, over one socket
// per family, and remembers everything that is said about them.
type lookout struct {
	e       *env
	every   time.Duration
	stopped context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	answers map[netip.Addr][]answer
	stalls  []stall
	err     error
}

// stall is a time in which the lookout itself did not get its turn: nobody can say
// what others did or would have done then.
type stall struct{ from, to time.Time }

// stalling is what a machine that works does not exceed.
const stalling = 150 * time.Millisecond

// lookOut starts a lookout that asks from a host for each of the addresses at every
// interval.
func (e *env) lookOut(host string, every time.Duration, addresses ...netip.Addr) *lookout {
	e.Helper()
	ctx, cancel := context.WithCancel(e.ctx)
	w := &lookout{e: e, every: every, stopped: cancel, answers: map[netip.Addr][]answer{}}
	e.Cleanup(cancel)
	for _, is6 := range []bool{false, true} {
		some := slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return a.Is6() != is6 })
		if len(some) == 0 {
			continue
		}
		ear, err := e.lab.newEar(host, some)
		if err != nil {
			e.Fatal(err)
		}
		w.running.Go(func() {
			defer ear.close()
			w.fail(ear.run(ctx, every, w))
		})
	}
	return w
}

func (w *lookout) note(address netip.Addr, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[address] = append(w.answers[address], a)
}

func (w *lookout) stalled(from, to time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stalls = append(w.stalls, stall{from, to})
}

// stalledSince says whether the machine stood still for a while since a moment.
func (w *lookout) stalledSince(moment time.Time) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	longest := time.Duration(0)
	for _, s := range w.stalls {
		if s.to.After(moment) {
			longest = max(longest, s.to.Sub(s.from))
		}
	}
	return longest, longest > 0
}

func (w *lookout) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(w.err, err)
}

// stop ends the lookout. What it has heard can still be asked for.
func (w *lookout) stop() {
	w.e.Helper()
	w.stopped()
	w.running.Wait()
	if w.err != nil {
		w.e.Error(w.err)
	}
}

// heard returns what was said about an address between two moments.
func (w *lookout) heard(address netip.Addr, from, to time.Time) []answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	var some []answer
	for _, a := range w.answers[address] {
		if !a.at.Before(from) && a.at.Before(to) {
			some = append(some, a)
		}
	}
	return some
}

// claims are the nodes that answered for an address between two moments.
func (w *lookout) claims(address netip.Addr, from, to time.Time) claims {
	found := claims{}
	for _, a := range w.heard(address, from, to) {
		found[w.e.lab.node(a.claimed)]++
	}
	return found
}

// settled is how long after a moment it took until only one node answered for an
// address, as it did until the end: the last answer of another, or the first of
// that one, whichever came later. The owner is empty if nobody answers.
func (w *lookout) settled(address netip.Addr, from, to time.Time) (owner string, took time.Duration) {
	answers := w.heard(address, from, to)
	if len(answers) == 0 {
		return "", 0
	}
	final := answers[len(answers)-1].claimed
	first := slices.IndexFunc(answers, func(a answer) bool { return a.claimed == final })
	at := answers[first].at
	for _, a := range answers {
		if a.claimed != final && a.at.After(at) {
			at = a.at
		}
	}
	return w.e.lab.node(final), at.Sub(from)
}

// ear is an asker for many addresses of one family.
type ear struct {
	*asker
	askers map[netip.Addr]*asker
}

// newEar opens the socket, on which only ARP or ICMPv6 is heard.
func (l *testLab) newEar(host string, addresses []netip.Addr) (*ear, error) {
	first, err := l.newAsker(host, addresses[0])
	if err != nil {
		return nil, err
	}
	e := &ear{first, map[netip.Addr]*asker{}}
	for _, address := range addresses {
		one := *first
		one.target = address
		e.askers[address] = &one
	}
	if addresses[0].Is6() {
		if err := onlyICMPv6(e.fd); err != nil {
			e.close()
			return nil, err
		}
	}
	const room = 4 << 20 // for the answers about many addresses at once
	if err := unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// onlyICMPv6 filters everything else out in the kernel, so that connections to the
// addresses do not fill the socket.
func onlyICMPv6(fd int) error {
	const nextHeader = etherHeader + 6
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: nextHeader},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMPV6, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// run asks until ctx ends: evenly, so that many questions are no burst.
func (e *ear) run(ctx context.Context, every time.Duration, w *lookout) error {
	order := slices.Collect(func(yield func(*asker) bool) {
		for _, a := range e.askers {
			if !yield(a) {
				return
			}
		}
	})
	pace := every / time.Duration(len(order))
	buffer := make([]byte, 2048)
	next, nth := time.Now(), 0
	for ctx.Err() == nil {
		now := time.Now()
		if late := now.Sub(next); late > stalling {
			w.stalled(next, now)
		}
		if now.Sub(next) > every {
			next = now // what was missed is not made up for by a burst
		}
		for ; !time.Now().Before(next); nth++ {
			if err := order[nth%len(order)].ask(); err != nil {
				return err
			}
			next = next.Add(pace)
		}
		if err := e.await(next); err != nil {
			return err
		}
		n, _, err := unix.Recvfrom(e.fd, buffer, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		if a := e.askers[subject(buffer[:n], e.protocol)]; a != nil {
			if found, ok := a.parse(buffer[:n]); ok {
				w.note(a.target, found)
			}
		}
	}
	return nil
}

// await returns when there is something to read, or at the given moment.
func (e *ear) await(until time.Time) error {
	wait := unix.NsecToTimespec(max(0, min(readInterval, time.Until(until))).Nanoseconds())
	_, err := unix.Ppoll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}, &wait, nil)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

// subject is the address that an ARP reply or a neighbor advertisement is about.
func subject(frame []byte, protocol uint16) netip.Addr {
	const sender, target = etherHeader + 14, etherHeader + ipv6Header + 8
	at, size := sender, 4
	if protocol == unix.ETH_P_IPV6 {
		at, size = target, 16
	}
	if len(frame) < at+size || binary.BigEndian.Uint16(frame[12:]) != protocol {
		return netip.Addr{}
	}
	address, _ := netip.AddrFromSlice(frame[at : at+size])
	return address
}
