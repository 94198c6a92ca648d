package bfd

import "time"

// never is later than any time that occurs.
var never = time.Unix(1<<40, 0)

// earliest returns the earliest of some times.
func earliest(first time.Time, more ...time.Time) time.Time {
	for _, t := range more {
		if t.Before(first) {
			first = t
		}
	}
	return first
}
