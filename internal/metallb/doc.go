// Package metallb reads the configuration of MetalLB and turns it into Berth's. It
// is pure: objects in, objects and remarks out. Where Berth means the same by a
// field of the same name, nothing is said; where it does something else, the object
// carries a remark; and what has no counterpart is a gap, which the caller decides
// about.
package metallb
