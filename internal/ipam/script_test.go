package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestScripts runs the decision tables in testdata. Each file is a list of stories, "== TITLE" and then lines
// "COMMAND => RESULT"; a story starts with a new allocator. Commands:
//
//	pools NAME=RANGE,RANGE NAME+=RANGE   SetPools (+ shares across namespaces; a range may also be off, delay:DURATION,
//	                                     addresses:QUOTA or services:QUOTA); the result is the owners it reports
//	get OWNER FAMILIES POOLS [OPTION..]  Allocate; families 4, 6, 46, 64, or 4?6 if partial; pools a,b or - for none, named
//	                                     with a leading !, those after a / on request only; options ask=ADDR,.. key=KEY ports=tcp80,.. backend=B across renew;
//	                                     the result is ADDR@POOL .. [released ADDR ..] [freed] [missing: ERROR], or an error
//	restore OWNER ADDR,.. [OPTION..]     Restore, or RestoreFrom if the addresses are ADDR@POOL
//	moves OWNER                          AsksToMove
//	reshare OWNER [OPTION..]             Reshare
//	from OWNER                           Allocation: which pools its addresses came from
//	reserve NAME[~GROUP]=OWNER:RANGE,..  SetReservations; NAME=OWNER:COUNTxPOOL/FAMILY[,ADDR..] counts and held ADDR..;
//	                                     the result is RANGE,.. [(ERROR)]; ..
//	time DURATION                        Expire, so much later; the first call is at 12:00:00
//	rest OWNER ADDR AGO                  RestoreRest
//	rests                                Rests: ADDR for OWNER until TIME; ..
//	next                                 NextExpiry
//	outside                              OutOfPoolAddresses: ADDR@POOL of OWNERS; ..
//	release OWNER                        Release
//	show OWNER                           Allocation
//	owners ADDR                          Owners
//	stats NAME                           StatsOf: per family assigned/available/total, those out of pool, and if there are
//	                                     any those reserved and resting
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s *script
		for i, line := range strings.Split(string(text), "\n") {
			line = strings.TrimSpace(line)
			switch {
			case line == "" || strings.HasPrefix(line, "#"):
			case strings.HasPrefix(line, "== "):
				s = newScript()
			default:
				s.line(t, fmt.Sprintf("%s:%d", file, i+1), line)
			}
		}
	}
}

type script struct {
	a   *Allocator
	now time.Time
}

func newScript() *script {
	s := &script{a: New(), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	s.a.Expire(s.now)
	return s
}

func (s *script) line(t *testing.T, at, line string) {
	command, want, ok := strings.Cut(line, "=>")
	if !ok {
		t.Fatalf("%s: no =>", at)
	}
	words := strings.Fields(command)
	if got := s.run(t, words[0], words[1:]); got != strings.TrimSpace(want) {
		t.Errorf("%s: %s\n got %s\nwant %s", at, command, got, strings.TrimSpace(want))
	}
}

func (s *script) run(t *testing.T, command string, args []string) string {
	switch command {
	case "pools":
		return s.pools(t, args)
	case "get":
		return s.get(t, args)
	case "restore":
		return s.restore(t, args)
	case "release":
		return join(s.a.Release(owner(args[0])))
	case "show":
		return join(s.a.Allocation(owner(args[0])))
	case "reshare":
		var req Request
		options(t, &req, args[1:])
		return fmt.Sprint(s.a.Reshare(owner(args[0]), req.Sharing))
	case "moves":
		s.a.AsksToMove(owner(args[0]))
		return "ok"
	case "from":
		var from []string
		for _, a := range s.a.Allocation(owner(args[0])) {
			from = append(from, cmp.Or(a.From, "unknown"))
		}
		return strings.Join(from, " ")
	case "owners":
		return join(s.a.Owners(netip.MustParseAddr(args[0])))
	case "stats":
		return s.stats(args[0])
	}
	return s.runTimed(t, command, args)
}

// runTimed runs the commands about time and reservations.
func (s *script) runTimed(t *testing.T, command string, args []string) string {
	clock := func(at time.Time) string { return at.Format(time.TimeOnly) }
	var out []string
	switch command {
	case "reserve":
		return s.reserve(t, args)
	case "time":
		s.now = s.now.Add(duration(t, args[0]))
		return fmt.Sprintf("freed %v", s.a.Expire(s.now))
	case "rest":
		return fmt.Sprint(s.a.RestoreRest(owner(args[0]), netip.MustParseAddr(args[1]), s.now.Add(-duration(t, args[2]))))
	case "rests":
		for _, r := range s.a.Rests() {
			out = append(out, fmt.Sprintf("%s for %s until %s", r.Address, r.Owner, clock(r.Until)))
		}
		return cmp.Or(strings.Join(out, "; "), "none")
	case "next":
		if at, ok := s.a.NextExpiry(); ok {
			return clock(at)
		}
		return "none"
	case "outside":
		for _, o := range s.a.OutOfPoolAddresses() {
			out = append(out, fmt.Sprintf("%s@%s of %s", o.Address, o.Pool, join(o.Owners)))
		}
		return cmp.Or(strings.Join(out, "; "), "none")
	}
	t.Fatalf("unknown command %s", command)
	return ""
}

func (s *script) pools(t *testing.T, args []string) string {
	var pools []Pool
	for _, arg := range args {
		name, list, _ := strings.Cut(arg, "=")
		p := Pool{Name: strings.TrimSuffix(name, "+"), ShareAcrossNamespaces: strings.HasSuffix(name, "+")}
		for _, part := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
			poolPart(t, &p, part)
		}
		pools = append(pools, p)
	}
	moved, err := s.a.SetPools(pools)
	if err != nil {
		return err.Error()
	}
	return join(moved)
}

func poolPart(t *testing.T, p *Pool, part string) {
	name, value, _ := strings.Cut(part, ":")
	switch name {
	case "off":
		p.Disabled = true
	case "delay":
		p.ReuseDelay = duration(t, value)
	case "addresses":
		p.Quota.Addresses = count(t, value)
	case "services":
		p.Quota.Services = count(t, value)
	default:
		p.Ranges = append(p.Ranges, mustRange(t, part))
	}
}

func (s *script) restore(t *testing.T, args []string) string {
	var req Request
	options(t, &req, args[2:])
	if !strings.Contains(args[1], "@") {
		return say(s.a.Restore(owner(args[0]), addrs(t, args[1]), req.Sharing))
	}
	var assigned []Assigned
	for _, part := range strings.Split(args[1], ",") {
		addr, pool, _ := strings.Cut(part, "@")
		assigned = append(assigned, Assigned{Address: netip.MustParseAddr(addr), Pool: pool})
	}
	return say(s.a.RestoreFrom(owner(args[0]), assigned, req.Sharing))
}

func (s *script) reserve(t *testing.T, args []string) string {
	var reservations []Reservation
	for _, arg := range args {
		name, what, _ := strings.Cut(arg, "=")
		who, list, _ := strings.Cut(what, ":")
		name, group, _ := strings.Cut(name, "~")
		r := Reservation{Name: name, Group: group, Namespace: owner(who).Namespace, Service: owner(who).Name}
		for _, part := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
			number, pool, counts := strings.Cut(part, "x")
			switch {
			case counts:
				pool, family, _ := strings.Cut(pool, "/")
				r.Count, r.Pool, r.Family = count(t, number), pool, map[string]Family{"4": IPv4, "6": IPv6}[family]
			case r.Count > 0:
				r.Held = append(r.Held, netip.MustParseAddr(part))
			default:
				r.Addresses = append(r.Addresses, mustRange(t, part))
			}
		}
		reservations = append(reservations, r)
	}
	held, _ := s.a.SetReservations(reservations)
	var out []string
	for _, h := range held {
		text := h.Name + " " + join(h.Held)
		if h.Err != nil {
			text += " (" + h.Err.Error() + ")"
		}
		out = append(out, text)
	}
	return cmp.Or(strings.Join(out, "; "), "none")
}

func (s *script) get(t *testing.T, args []string) string {
	req := Request{Owner: owner(args[0]), Partial: strings.Contains(args[1], "?")}
	for _, c := range strings.ReplaceAll(args[1], "?", "") {
		req.Families = append(req.Families, map[rune]Family{'4': IPv4, '6': IPv6}[c])
	}
	pools, named := strings.CutPrefix(args[2], "!")
	req.Named = named
	pools, onRequest, some := strings.Cut(pools, "/")
	if pools != "-" {
		req.Pools = strings.Split(pools, ",")
	}
	if some {
		req.OnRequest = strings.Split(onRequest, ",")
	}
	options(t, &req, args[3:])
	res, err := s.a.Allocate(req)
	if err != nil {
		if !slices.Equal(res.Addresses, s.a.Allocation(req.Owner)) {
			t.Errorf("failed Allocate(%+v) says %v, but Allocation says %v", req, res.Addresses, s.a.Allocation(req.Owner))
		}
		return err.Error()
	}
	out := join(res.Addresses)
	if len(res.Released) > 0 {
		out += " released " + join(res.Released)
	}
	if res.Freed {
		out += " freed"
	}
	if res.Missing != nil {
		out += " missing: " + res.Missing.Error()
	}
	return out
}

func (s *script) stats(name string) string {
	st, ok := s.a.StatsOf(name)
	if !ok {
		return "no such pool"
	}
	family := func(f FamilyStats) string {
		text := fmt.Sprintf("%d/%s/%s out %d", f.Assigned, f.Available, f.Total, f.OutOfPool)
		if !f.Reserved.IsZero() || f.Resting > 0 {
			text += fmt.Sprintf(" reserved %s resting %d", f.Reserved, f.Resting)
		}
		return text
	}
	return family(st.IPv4) + ", " + family(st.IPv6)
}

func options(t *testing.T, req *Request, args []string) {
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		if req.Sharing == nil && name != "ask" && name != "renew" {
			req.Sharing = &Sharing{}
		}
		switch name {
		case "ask":
			req.Addresses = addrs(t, value)
		case "key":
			req.Sharing.Key = value
		case "renew":
			req.Renew = true
		case "across":
			req.Sharing.AcrossNamespaces = true
		case "backend":
			req.Sharing.Backend = value
		case "ports":
			for _, p := range strings.Split(value, ",") {
				digits := strings.IndexAny(p, "0123456789")
				protocol, err1 := ParseProtocol(strings.ToUpper(p[:digits]))
				number, err2 := strconv.ParseUint(p[digits:], 10, 16)
				if err := cmp.Or(err1, err2); err != nil {
					t.Fatal(err)
				}
				req.Sharing.Ports = append(req.Sharing.Ports, Port{protocol, uint16(number)})
			}
		default:
			t.Fatalf("unknown option %s", arg)
		}
	}
}

func owner(s string) Owner {
	namespace, name, _ := strings.Cut(s, "/")
	return Owner{namespace, name}
}

func addrs(t *testing.T, list string) []netip.Addr {
	var out []netip.Addr
	for _, s := range strings.Split(list, ",") {
		a, err := netip.ParseAddr(s) // not ours: invalid ones must reach the allocator
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func duration(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func count(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func say(err error) string {
	if err == nil {
		return "ok"
	}
	return strings.ReplaceAll(err.Error(), "\n", " | ")
}

func join[T any](list []T) string {
	if len(list) == 0 {
		return "none"
	}
	var out []string
	for _, v := range list {
		switch v := any(v).(type) {
		case Assigned:
			out = append(out, v.Address.String()+"@"+v.Pool)
		default:
			out = append(out, fmt.Sprint(v))
		}
	}
	return strings.Join(out, " ")
}
