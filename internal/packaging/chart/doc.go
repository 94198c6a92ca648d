// Package chart has the tests of the Helm chart, deploy/chart, and of the
// kustomize overlays, config/overlays.
package chart
