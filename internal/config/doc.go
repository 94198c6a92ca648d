// Package config turns the custom resources, as they are in the API server,
// into one immutable Snapshot that the rest of Berth works with, and a Verdict
// for every object. An object that is wrong, or that contradicts an older one,
// is left out of the snapshot alone, with the reason in its verdict; all others
// are in force. It also reads what a Service asks for in its annotations.
package config
