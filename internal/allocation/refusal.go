package allocation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
)

// Reasons of the condition berth.dev/AddressAllocated.
const (
	reasonAllocated        = "Allocated"
	reasonInvalidRequest   = "InvalidRequest"
	reasonFamilyMismatch   = "FamilyMismatch"
	reasonUnknownPool      = "UnknownPool"
	reasonPoolNotAllowed   = "PoolNotAllowed"
	reasonNoPool           = "NoPool"
	reasonPoolExhausted    = "PoolExhausted"
	reasonAddressNotInPool = "AddressNotInPool"
	reasonAddressInUse     = "AddressInUse"
	reasonAddressLeaving   = "AddressLeaving"
	reasonAddressReserved  = "AddressReserved"
	reasonAddressResting   = "AddressResting"
	reasonQuotaExceeded    = "QuotaExceeded"
	reasonPoolDisabled     = "PoolDisabled"
	reasonOutOfPool        = "OutOfPool"
	reasonContested        = "Contested"
	reasonAddressConflict  = v1beta1.ReasonAddressConflict
)

// refusal is why a Service does not have what it asks for: a reason for
// machines, a message for people.
type refusal struct {
	reason, message string
}

func (r *refusal) Error() string { return r.message }

// explain turns an error of the allocator, or of newRequest, into a refusal
// that also says which pools were not even tried, and why.
func explain(err error, req request, snapshot *config.Snapshot, verdicts config.Verdicts) *refusal {
	var (
		refused   *refusal
		exhausted *ipam.ExhaustedError
		notInPool *ipam.NotInPoolError
		inUse     *ipam.InUseError
		family    *ipam.FamilyError
		reserved  *ipam.ReservedError
		resting   *ipam.RestingError
		quota     *ipam.QuotaError
		disabled  *ipam.DisabledError
		foreign   *ipam.QuarantinedError
	)
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &exhausted):
		return explainExhausted(exhausted, req, snapshot, verdicts)
	case errors.As(err, &notInPool):
		return &refusal{reason: reasonAddressNotInPool, message: notInPool.Error() + whyNot(notInPool, req.service, snapshot, verdicts)}
	case errors.As(err, &inUse):
		return &refusal{reason: reasonAddressInUse, message: inUse.Error()}
	case errors.As(err, &family):
		return &refusal{reason: reasonFamilyMismatch, message: family.Error()}
	case errors.As(err, &reserved):
		return &refusal{reason: reasonAddressReserved, message: reserved.Error()}
	case errors.As(err, &resting):
		return &refusal{reason: reasonAddressResting, message: resting.Error()}
	case errors.As(err, &quota):
		return &refusal{reason: reasonQuotaExceeded, message: quota.Error()}
	case errors.As(err, &foreign):
		return &refusal{reason: reasonAddressConflict, message: foreign.Error()}
	case errors.As(err, &disabled):
		return &refusal{reason: reasonPoolDisabled, message: disabled.Error()}
	}
	return &refusal{reason: reasonInvalidRequest, message: err.Error()}
}

// notTried introduces the pools that are for others.
const notTried = "; not tried: "

func explainExhausted(err *ipam.ExhaustedError, req request, snapshot *config.Snapshot, verdicts config.Verdicts) *refusal {
	refused := refusedPools(verdicts)
	if len(snapshot.Pools) == 0 && len(refused) == 0 {
		return &refusal{reason: reasonNoPool, message: "there is no IPAddressPool; create one"}
	}
	message, reason := err.Error(), reasonOf(err)
	if len(err.Tried) == 0 {
		message, reason = "no pool is for this Service", reasonNoPool
	}
	if untried := append(untriedPools(req, snapshot), refused...); len(untried) > 0 && !req.Named {
		message += notTried + some(untried)
	}
	return &refusal{reason: reason, message: message}
}

// some joins texts, leaving out those beyond the first few.
func some(texts []string) string {
	const few = 32
	if more := len(texts) - few; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(texts[:few], ", "), more)
	}
	return strings.Join(texts, ", ")
}

// reasonOf returns what stands against all pools that were tried, if that is one
// thing.
func reasonOf(err *ipam.ExhaustedError) string {
	all := func(lack ipam.Lack) bool {
		return len(err.Tried) > 0 && !slices.ContainsFunc(err.Tried, func(t ipam.PoolTried) bool { return t.Lack != lack })
	}
	switch {
	case all(ipam.LackQuota):
		return reasonQuotaExceeded
	case all(ipam.LackDisabled):
		return reasonPoolDisabled
	}
	return reasonPoolExhausted
}

// refusedPools says which pools are not in force, and why.
func refusedPools(verdicts config.Verdicts) []string {
	var refused []string
	for name, verdict := range verdicts.IPAddressPools {
		if !verdict.Accepted {
			refused = append(refused, fmt.Sprintf("pool %s (not in force: %s)", name, verdict.Message))
		}
	}
	slices.Sort(refused)
	return refused
}

// untriedPools says of each pool that the request does not include, why not.
func untriedPools(req request, snapshot *config.Snapshot) []string {
	if req.Named {
		return nil
	}
	var untried []string
	for _, pool := range snapshot.Pools {
		if slices.Contains(req.Pools, pool.Name) {
			continue
		}
		why := pool.Excludes(req.service)
		if why == "" {
			why = "autoAssign is false"
		}
		untried = append(untried, fmt.Sprintf("pool %s (%s)", pool.Name, why))
	}
	return untried
}

// whyNot says why a Service cannot have an address that it asks for, though a pool
// has it.
func whyNot(err *ipam.NotInPoolError, svc config.Service, snapshot *config.Snapshot, verdicts config.Verdicts) string {
	name := err.Pool
	if name == "" { // nobody may have it
		pool, found := snapshot.PoolOf(err.Address)
		if !found {
			return ""
		}
		return fmt.Sprintf("; pool %s has it but gives it to nobody: it is excluded, ends in .0 or .255 with avoidBuggyIPs, or is the cluster's own (%s)",
			pool.Name, verdicts.IPAddressPools[pool.Name].Message)
	}
	pool, found := snapshot.Pool(name)
	if !found {
		return ""
	}
	if why := pool.Excludes(svc); why != "" {
		return ": " + why
	}
	return ""
}
