package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/berth-lb/berth/internal/lab/agent/crilog"
)

// logQuery is what a request for logs asks for. virtual-kubelet's own parser takes
// a tail of no lines for one of all.
type logQuery struct {
	options          crilog.Options
	follow, previous bool
}

func parseLogQuery(values url.Values, now time.Time) (logQuery, error) {
	var q logQuery
	var errs []error
	number := func(name string) *int64 {
		text := values.Get(name)
		if text == "" {
			return nil
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			errs = append(errs, fmt.Errorf("%s: %q is not a number from 0", name, text))
			return nil
		}
		return &n
	}
	flag := func(name string) bool {
		set, err := strconv.ParseBool(values.Get(name))
		if err != nil && values.Get(name) != "" {
			errs = append(errs, fmt.Errorf("%s: %q is neither true nor false", name, values.Get(name)))
		}
		return set
	}
	q.options.Tail = number("tailLines")
	if limit := number("limitBytes"); limit != nil {
		q.options.LimitBytes = *limit
	}
	if ago := number("sinceSeconds"); ago != nil {
		q.options.Since = now.Add(-time.Duration(*ago) * time.Second)
	}
	if text := values.Get("sinceTime"); text != "" {
		since, err := time.Parse(time.RFC3339, text)
		if err != nil {
			errs = append(errs, fmt.Errorf("sinceTime: %w", err))
		}
		q.options.Since = since
	}
	q.options.Timestamps, q.follow, q.previous = flag("timestamps"), flag("follow"), flag("previous")
	return q, errors.Join(errs...)
}

// serveLogs serves kubectl logs.
func (a *agent) serveLogs(w http.ResponseWriter, request *http.Request) {
	query, err := parseLogQuery(request.URL.Query(), a.clock.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r, err := a.pods.runner(request.PathValue("namespace"), request.PathValue("pod"), request.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	r.pod.mu.Lock()
	count, ran, ended := r.status.RestartCount, r.status.ContainerID != "", r.ended
	r.pod.mu.Unlock()
	switch {
	case query.previous && count == 0:
		http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", r.spec.Name, r.pod.name), http.StatusBadRequest)
		return
	case !ran:
		http.Error(w, fmt.Sprintf("container %q in pod %q is waiting to start", r.spec.Name, r.pod.name), http.StatusBadRequest)
		return
	case query.previous:
		count--
	case query.follow:
		query.options.Ended = ended
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := &flushing{w, http.NewResponseController(w)}
	if err := crilog.Copy(request.Context(), out, r.logPath(count), query.options); errors.Is(err, fs.ErrNotExist) {
		http.Error(w, fmt.Sprintf("the log of container %q does not exist", r.spec.Name), http.StatusNotFound)
	}
}

// flushing sends every line at once.
type flushing struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (f *flushing) Write(data []byte) (int, error) {
	n, err := f.ResponseWriter.Write(data)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}
