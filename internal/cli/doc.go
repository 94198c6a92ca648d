// Package cli is what kubectl-berth has to say: reports about a copy of the API
// objects, as tables for people and as JSON and YAML for programs. It reads
// nothing itself and decides nothing about the cluster: what is in force it asks
// package config, as the controller and the speakers do, and how things are going
// it takes from the statuses that these write. What a change would do it has package
// allocation rehearse.
package cli
