package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

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
)

// refusal is why a Service does not have what it asks for: a reason for
// machines, a message for people.
type refusal struct {
	reason, message string
}

func (r *refusal) Error() string { return r.message }

// explain turns an error of the allocator, or of newRequest, into a refusal
// that also says which pools were not even tried, and why.
func explain(err error, req request, snapshot *config.Snapshot) *refusal {
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
	)
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &exhausted):
		return explainExhausted(exhausted, req, snapshot)
	case errors.As(err, &notInPool):
		return &refusal{reason: reasonAddressNotInPool, message: notInPool.Error() + excludedBy(notInPool.Pool, req.service, snapshot)}
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
	case errors.As(err, &disabled):
		return &refusal{reason: reasonPoolDisabled, message: disabled.Error()}
	}
	return &refusal{reason: reasonInvalidRequest, message: err.Error()}
}

func explainExhausted(err *ipam.ExhaustedError, req request, snapshot *config.Snapshot) *refusal {
	if len(snapshot.Pools) == 0 {
		return &refusal{reason: reasonNoPool, message: "no IPAddressPool is in force; create one"}
	}
	message, reason := err.Error(), reasonPoolExhausted
	if len(err.Tried) == 0 {
		message, reason = "no pool is for this Service", reasonNoPool
	}
	if untried := untriedPools(req, snapshot); len(untried) > 0 {
		message += "; not tried: " + strings.Join(untried, ", ")
	}
	return &refusal{reason: reason, message: message}
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

func excludedBy(name string, svc config.Service, snapshot *config.Snapshot) string {
	pool, found := snapshot.Pool(name)
	if !found {
		return ""
	}
	if why := pool.Excludes(svc); why != "" {
		return ": " + why
	}
	return ""
}
