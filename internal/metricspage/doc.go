// Package metricspage writes the reference of a program's metrics from what the
// program registers, so that neither can say what the other does not.
package metricspage
