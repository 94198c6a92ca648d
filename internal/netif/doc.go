// Package netif knows the network interfaces of the host and the addresses on
// them, and tells when either changes. It listens to rtnetlink events and never
// polls: a Watcher subscribes first, lists second, and lists again whenever the
// kernel says that events were lost. Readers see immutable snapshots.
package netif
