// Package monitoring has the tests of what is there to watch Berth with: the
// alerts and dashboards of config/monitoring, against the metrics that
// docs/metrics.md lists and the runbooks of docs/runbooks.md.
package monitoring
