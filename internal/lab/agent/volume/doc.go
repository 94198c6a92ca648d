// Package volume makes the folders that a Pod's volumes are: from ConfigMaps,
// Secrets, ServiceAccount tokens and the Pod's own fields, empty, or the host's.
// What comes from the API is written so that a reader sees either all of the old
// or all of the new content.
package volume
