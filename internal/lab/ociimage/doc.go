// Package ociimage unpacks image archives as the OCI image specification (image
// layout, in a tar file) has them, for the lab to run what a registry would be given.
package ociimage
