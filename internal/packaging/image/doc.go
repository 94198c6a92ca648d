// Package image makes OCI image archives of static Go binaries, without a
// container engine. The same binaries make the same bytes, whenever and wherever.
package image
