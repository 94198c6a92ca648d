package config

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
)

// aliases are MetalLB's names of the annotations that Berth reads, newest
// first. Berth's own name goes before them.
func aliases(annotation string) []string {
	switch annotation {
	case v1beta1.AnnotationAddressPool:
		return []string{"metallb.io/address-pool", "metallb.universe.tf/address-pool"}
	case v1beta1.AnnotationLoadBalancerIPs:
		return []string{"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"}
	case v1beta1.AnnotationAllowSharedIP:
		return []string{"metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"}
	}
	return nil
}

// Wishes are what a Service asks for in its annotations and its spec.
type Wishes struct {
	// Pool is the name of the one pool it wants; "" for none.
	Pool string
	// Addresses it wants; none for any.
	Addresses []netip.Addr
	// SharingKey is the key under which it shares its address; "" for not.
	SharingKey string
	// Retain is how long its addresses stay reserved when it is deleted; 0 is not
	// at all, RetainForever until somebody deletes the reservation.
	Retain time.Duration
	// Renew asks for other addresses when it is not what Berth has acted on.
	Renew string
	// Unknown are annotations with Berth's prefix that mean nothing to it, most
	// likely misspelt, in order.
	Unknown []string
}

// isKnown says that an annotation of a Service with Berth's prefix means something.
func isKnown(annotation string) bool {
	switch annotation {
	case v1beta1.AnnotationAddressPool, v1beta1.AnnotationLoadBalancerIPs, v1beta1.AnnotationAllowSharedIP,
		v1beta1.AnnotationRetain, v1beta1.AnnotationRenew, v1beta1.AnnotationRenewed, v1beta1.AnnotationSharedIPKey,
		v1beta1.AnnotationIPAllocatedFromPool:
		return true
	}
	return false
}

// RetainForever is the value of Wishes.Retain for "forever".
const RetainForever = time.Duration(math.MaxInt64)

// WishError says that a Service asks for something that makes no sense.
type WishError struct {
	// Field is the annotation, or the path of the field.
	Field string
	// Problem says what is wrong with it and what it should be.
	Problem string
}

func (e *WishError) Error() string { return e.Field + ": " + e.Problem }

// ReadWishes reads the annotations of a Service and its
// spec.loadBalancerIP. An error is a *WishError; the sharing key is there all
// the same.
func ReadWishes(annotations map[string]string, loadBalancerIP string) (Wishes, error) {
	var w Wishes
	// What cannot be wrong comes first, so that it is known also when the rest is.
	_, w.SharingKey, _ = find(annotations, v1beta1.AnnotationAllowSharedIP)
	_, w.Renew, _ = find(annotations, v1beta1.AnnotationRenew)
	for key := range annotations {
		if strings.HasPrefix(key, v1beta1.GroupName+"/") && !isKnown(key) {
			w.Unknown = append(w.Unknown, key)
		}
	}
	slices.Sort(w.Unknown)
	field, value, _ := find(annotations, v1beta1.AnnotationLoadBalancerIPs)
	if loadBalancerIP != "" {
		if field != "" && value != loadBalancerIP {
			return w, &WishError{Field: field, Problem: fmt.Sprintf("asks for %q while spec.loadBalancerIP asks for %q; remove one of the two", value, loadBalancerIP)}
		}
		field, value = "spec.loadBalancerIP", loadBalancerIP
	}
	if field != "" {
		addresses, err := parseAddresses(value)
		if err != nil {
			return w, &WishError{Field: field, Problem: err.Error()}
		}
		w.Addresses = addresses
	}
	if field, value, found := find(annotations, v1beta1.AnnotationAddressPool); found {
		if value == "" {
			return w, &WishError{Field: field, Problem: "is empty; give the name of an IPAddressPool or remove it"}
		}
		w.Pool = value
	}
	if field, value, found := find(annotations, v1beta1.AnnotationRetain); found {
		retain, err := ParseRetain(value)
		if err != nil {
			return w, &WishError{Field: field, Problem: err.Error()}
		}
		w.Retain = retain
	}
	return w, nil
}

// ParseRetain parses the value of the annotation berth.dev/retain.
func ParseRetain(value string) (time.Duration, error) {
	if value == "forever" {
		return RetainForever, nil
	}
	retain, err := time.ParseDuration(value)
	if err != nil || retain <= 0 {
		return 0, fmt.Errorf("%q is neither a duration such as 24h nor forever", value)
	}
	return retain, nil
}

// find looks for an annotation under its own name and its aliases.
func find(annotations map[string]string, annotation string) (key, value string, found bool) {
	for _, key := range append([]string{annotation}, aliases(annotation)...) {
		if value, found := annotations[key]; found {
			return key, strings.TrimSpace(value), true
		}
	}
	return "", "", false
}

func parseAddresses(text string) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			return nil, fmt.Errorf("%q has an empty address; separate addresses by single commas", text)
		}
		addr, err := ipam.ParseAddr(part)
		if err != nil {
			return nil, err
		}
		if slices.Contains(addresses, addr) {
			return nil, fmt.Errorf("%s is there twice", addr)
		}
		addresses = append(addresses, addr)
	}
	return addresses, nil
}
