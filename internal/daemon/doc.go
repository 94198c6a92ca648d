// Package daemon is what every long-running program of Berth has in common:
// tasks that start and stop together, signals, the logger, the HTTP server of
// metrics and health, and a health that means "queued work was applied in
// time" rather than "the process answers".
package daemon
