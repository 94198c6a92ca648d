package cli

import (
	"fmt"
	"math"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Pools is the report of the IPAddressPools.
type Pools struct {
	Pools []Pool `json:"pools"`
}

// Pool is one IPAddressPool.
type Pool struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
	// Accepted says whether it is in force, Reason and Message why not.
	Accepted bool   `json:"accepted"`
	Reason   string `json:"reason"`
	Message  string `json:"message,omitempty"`
	// IPv4 and IPv6 count its addresses; nil where it has none of the family, or
	// the controller has not counted yet.
	IPv4 *v1beta1.PoolFamilyStatus `json:"ipv4,omitempty"`
	IPv6 *v1beta1.PoolFamilyStatus `json:"ipv6,omitempty"`
	// Quarantined are addresses that other hosts have.
	Quarantined []v1beta1.QuarantinedAddress `json:"quarantined,omitempty"`
	// QuarantinedCount is how many there are of them.
	QuarantinedCount int32 `json:"quarantinedCount,omitempty"`
	// OutOfPool are addresses that Services keep though the pool has them no more.
	OutOfPool  []v1beta1.OutOfPoolAddress `json:"outOfPool,omitempty"`
	AutoAssign bool                       `json:"autoAssign"`
	Disabled   bool                       `json:"disabled,omitempty"`
	Priority   int32                      `json:"priority,omitempty"`
	// State is the worst that is to be said of it, and Note what that is.
	State State  `json:"state"`
	Note  string `json:"note,omitempty"`
}

// nearlyFull is the share of a pool's addresses of a family that are gone when
// that is worth a word.
const nearlyFull = 0.9

// ReportPools reports on the pools.
func ReportPools(c *Cluster) Pools {
	r := Pools{Pools: []Pool{}}
	for _, object := range byName(c.Pools) {
		r.Pools = append(r.Pools, poolOf(object))
	}
	return r
}

func poolOf(object *v1beta1.IPAddressPool) Pool {
	p := Pool{
		Name: object.Name, AutoAssign: object.Spec.AutoAssign == nil || *object.Spec.AutoAssign, Disabled: object.Spec.Disabled,
		IPv4: object.Status.IPv4, IPv6: object.Status.IPv6,
		Quarantined: object.Status.Quarantined, QuarantinedCount: object.Status.QuarantinedCount, OutOfPool: object.Status.OutOfPool,
		State: StateOK,
	}
	for _, r := range object.Spec.Addresses {
		p.Addresses = append(p.Addresses, string(r))
	}
	if a := object.Spec.ServiceAllocation; a != nil {
		p.Priority = a.Priority
	}
	accepted := verdictOf(object.Status.Conditions, object.Generation)
	p.Accepted, p.Reason, p.Message = accepted.Accepted, accepted.Reason, accepted.Message
	p.judge()
	return p
}

func (p *Pool) judge() {
	switch {
	case !p.Accepted && p.Reason == reasonPending:
		p.State, p.Note = StateWarning, p.Message
	case !p.Accepted:
		p.State, p.Note = StateError, "not in force: "+p.Message
	case p.Disabled:
		p.Note = "disabled: it hands out nothing new"
	case len(p.OutOfPool) > 0:
		p.State, p.Note = StateWarning, fmt.Sprintf("%s in use that the pool has no more", plural(len(p.OutOfPool), "address"))
		if len(p.OutOfPool) > 1 {
			p.Note = fmt.Sprintf("%d addresses in use that the pool has no more", len(p.OutOfPool))
		}
	}
	for _, f := range []struct {
		name   string
		counts *v1beta1.PoolFamilyStatus
	}{{"IPv4", p.IPv4}, {"IPv6", p.IPv6}} {
		if p.State != StateOK || f.counts == nil || p.Disabled || f.counts.Total == 0 {
			continue
		}
		switch gone := 1 - float64(f.counts.Available)/float64(f.counts.Total); {
		case f.counts.Available == 0:
			p.State, p.Note = StateWarning, "no "+f.name+" address is left"
		case gone >= nearlyFull:
			p.State, p.Note = StateWarning, fmt.Sprintf("nearly full: %d of %d %s addresses are left", f.counts.Available, f.counts.Total, f.name)
		}
	}
	if p.State == StateOK && p.QuarantinedCount > 0 {
		p.State = StateWarning
		p.Note = fmt.Sprintf("other hosts have %d of its addresses", p.QuarantinedCount)
	}
}

// verdict is what the condition Accepted of an object says.
type verdict struct {
	Accepted bool
	// Current is false where the condition is about an earlier form of the object.
	Current         bool
	Reason, Message string
}

// reasonPending stands for what the controller has not looked at.
const reasonPending = "Pending"

func verdictOf(conditions []metav1.Condition, generation int64) verdict {
	c := condition(conditions, v1beta1.ConditionAccepted)
	if c == nil {
		return verdict{Reason: reasonPending, Message: "the controller has not looked at it yet"}
	}
	return verdict{
		Accepted: c.Status == metav1.ConditionTrue, Reason: c.Reason, Message: c.Message,
		Current: c.ObservedGeneration == 0 || c.ObservedGeneration >= generation,
	}
}

func (r Pools) text(p *Printer) {
	if len(r.Pools) == 0 {
		p.printf("There are no IPAddressPools.\n")
		return
	}
	t := table{columns: []column{
		{name: "NAME"}, {name: "ACCEPTED"}, {name: "ASSIGNED"}, {name: "RESERVED", wide: true}, {name: "RESTING", wide: true},
		{name: "QUARANTINED"}, {name: "AVAILABLE"}, {name: "AUTO-ASSIGN", wide: true}, {name: "PRIORITY", wide: true}, {name: "ADDRESSES"}, {name: "NOTE"},
	}}
	for _, pool := range r.Pools {
		count := func(of func(*v1beta1.PoolFamilyStatus) int64) cell {
			return plain(families(pool.IPv4, pool.IPv6, of))
		}
		accepted := cell{text: pool.Reason, state: StateOK}
		if !pool.Accepted {
			accepted.state = pool.State
		}
		t.add(plain(pool.Name), accepted,
			count(func(s *v1beta1.PoolFamilyStatus) int64 { return s.Assigned }),
			count(func(s *v1beta1.PoolFamilyStatus) int64 { return s.Reserved }),
			count(func(s *v1beta1.PoolFamilyStatus) int64 { return s.Resting }),
			quarantineCell(pool.QuarantinedCount),
			count(func(s *v1beta1.PoolFamilyStatus) int64 { return s.Available }),
			plain(strconv.FormatBool(pool.AutoAssign)), plain(strconv.Itoa(int(pool.Priority))),
			plain(few(pool.Addresses, 3)), cell{text: pool.Note, state: pool.State})
	}
	t.print(p)
}

func quarantineCell(n int32) cell {
	if n == 0 {
		return plain("0")
	}
	return cell{text: strconv.Itoa(int(n)), state: StateWarning}
}

// families renders a count of both families: "3", or "3 IPv4, 1 IPv6".
func families(four, six *v1beta1.PoolFamilyStatus, of func(*v1beta1.PoolFamilyStatus) int64) string {
	switch {
	case four == nil && six == nil:
		return ""
	case six == nil:
		return large(of(four))
	case four == nil:
		return large(of(six))
	}
	return large(of(four)) + " IPv4, " + large(of(six)) + " IPv6"
}

// large renders a number that may be too large to read as a power of two.
func large(n int64) string {
	switch {
	case n == math.MaxInt64:
		return "2^63 or more"
	case n > 1_000_000:
		return "2^" + strconv.Itoa(int(math.Log2(float64(n))+0.5))
	}
	return strconv.FormatInt(n, 10)
}
