package daemon

import (
	"fmt"
	"io"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// NewLogger returns a logger that writes lines in format ("logfmt" or "json")
// with a time, and drops what is below threshold ("debug", "info", "warn" or
// "error").
func NewLogger(w io.Writer, format, threshold string) (log.Logger, error) {
	w = log.NewSyncWriter(w)
	var logger log.Logger
	switch format {
	case "logfmt":
		logger = log.NewLogfmtLogger(w)
	case "json":
		logger = log.NewJSONLogger(w)
	default:
		return nil, fmt.Errorf("log format %q: must be logfmt or json", format)
	}
	parsed, err := level.Parse(threshold)
	if err != nil {
		return nil, fmt.Errorf("log level %q: must be debug, info, warn or error", threshold)
	}
	logger = level.NewFilter(logger, level.Allow(parsed))
	return log.With(logger, "ts", log.DefaultTimestampUTC), nil
}

// CaptureClientGo sends what client-go logs through klog to logger: errors as
// warnings, because client-go retries whatever it reports, and the rest at
// debug level. It is for main, once: klog is global.
func CaptureClientGo(logger log.Logger) {
	klog.SetLogger(logr.New(sink{logger: log.With(logger, "component", "client-go")}))
}

// sink is a logr.LogSink on a go-kit logger.
type sink struct{ logger log.Logger }

func (s sink) Init(logr.RuntimeInfo)      {}
func (s sink) Enabled(verbosity int) bool { return verbosity <= 1 }

func (s sink) Info(_ int, msg string, keyvals ...any) {
	level.Debug(s.logger).Log(append([]any{"msg", msg}, keyvals...)...)
}

func (s sink) Error(err error, msg string, keyvals ...any) {
	level.Warn(s.logger).Log(append([]any{"msg", msg, "err", err}, keyvals...)...)
}

func (s sink) WithValues(keyvals ...any) logr.LogSink {
	return sink{logger: log.With(s.logger, keyvals...)}
}

func (s sink) WithName(name string) logr.LogSink {
	return sink{logger: log.With(s.logger, "logger", name)}
}
