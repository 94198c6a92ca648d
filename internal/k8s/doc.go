// Package k8s is Berth's only way to the Kubernetes API. It holds clients,
// informers that keep no more of an object than Berth reads, one serial stream
// of the keys of changed objects (Cache), a background writer that sends the
// latest status of each object and nothing in between (Writer), events, leader
// election, and the rule that tells whose Service a Service is (Class). It
// knows nothing of pools, addresses or announcements.
package k8s
