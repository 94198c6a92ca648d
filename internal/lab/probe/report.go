package probe

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Result is what became of one attempt.
type Result struct {
	// Started and Ended are when the attempt began and when its answer was
	// complete or it was given up.
	Started, Ended time.Time
	// Answer is the body of the response, if it was a success.
	Answer string
	// Err is nil for a success: an HTTP response with status 200 within the limit.
	Err error
}

// Report sums up a run. Durations are written as seconds in JSON.
type Report struct {
	URL  string `json:"url"`
	From string `json:"from"`
	// Began is when the first attempt started; Lasted is the time from then until
	// the last one had ended.
	Began  time.Time `json:"began"`
	Lasted Seconds   `json:"lasted"`
	// Sent attempts ended either as OK or as Failed.
	Sent   int `json:"sent"`
	OK     int `json:"ok"`
	Failed int `json:"failed"`
	// LongestGap is the longest time in which no attempt ended as a success: from
	// the end of one success to the end of the next, where the start and the end
	// of the run also count as successes. A service that is always there has a
	// gap of about one tick; the gap of an outage is what a client that keeps
	// trying notices of it.
	LongestGap Seconds `json:"longestGap"`
	// GapBegan is when that gap began, GapBeganAfter the same relative to Began.
	GapBegan      time.Time `json:"gapBegan"`
	GapBeganAfter Seconds   `json:"gapBeganAfter"`
	// Errors counts failures by their cause.
	Errors map[string]int `json:"errors,omitempty"`
	// Backends counts successes by what the server answered: for a path such as
	// agnhost's /hostname that is who answered.
	Backends map[string]int `json:"backends,omitempty"`
	// Sources counts successes by the client address that the server saw, if it
	// tells, as agnhost's /clientip does.
	Sources map[string]int `json:"sources,omitempty"`
}

// Seconds is a duration that reads as a number of seconds in JSON.
type Seconds time.Duration

// MarshalJSON writes seconds with the precision of a microsecond.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%.6f", time.Duration(s).Seconds()), nil
}

// UnmarshalJSON reads a number of seconds.
func (s *Seconds) UnmarshalJSON(data []byte) error {
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return fmt.Errorf("seconds: %w", err)
	}
	*s = Seconds(seconds * float64(time.Second))
	return nil
}

func (s Seconds) String() string { return time.Duration(s).Round(time.Millisecond).String() }

// tally adds up results in the order in which they end.
type tally struct {
	report      Report
	ended       time.Time // the latest end of any result
	lastSuccess time.Time
	tells       func(answer string, report *Report)
}

func newTally(url, from string, began time.Time, tells func(string, *Report)) *tally {
	return &tally{
		report: Report{
			URL: url, From: from, Began: began, GapBegan: began,
			Errors: map[string]int{}, Backends: map[string]int{}, Sources: map[string]int{},
		},
		ended:       began,
		lastSuccess: began,
		tells:       tells,
	}
}

// add counts a result. It may have ended a little before one that was added
// earlier.
func (t *tally) add(result Result) {
	t.report.Sent++
	if result.Ended.After(t.ended) {
		t.ended = result.Ended
	}
	if result.Err != nil {
		t.report.Failed++
		t.report.Errors[cause(result.Err)]++
		return
	}
	t.report.OK++
	t.tells(result.Answer, &t.report)
	t.closeGap(result.Ended)
}

// closeGap ends the time since the last success at the given moment.
func (t *tally) closeGap(at time.Time) {
	if gap := Seconds(at.Sub(t.lastSuccess)); gap > t.report.LongestGap {
		t.report.LongestGap = gap
		t.report.GapBegan = t.lastSuccess
		t.report.GapBeganAfter = Seconds(t.lastSuccess.Sub(t.report.Began))
	}
	if at.After(t.lastSuccess) {
		t.lastSuccess = at
	}
}

// finish returns the report of all results added.
func (t *tally) finish() Report {
	t.closeGap(t.ended)
	t.report.Lasted = Seconds(t.ended.Sub(t.report.Began))
	return t.report
}

// WriteText writes the report for people.
func (r Report) WriteText(w io.Writer) error {
	text := fmt.Sprintf("%d sent, %d ok, %d failed in %s from %s to %s\n", r.Sent, r.OK, r.Failed, r.Lasted, r.From, r.URL)
	text += fmt.Sprintf("longest gap %s, from %s after the start (%s)\n", r.LongestGap, r.GapBeganAfter, r.GapBegan.Format("15:04:05.000"))
	for _, part := range []struct {
		title  string
		counts map[string]int
	}{{"errors", r.Errors}, {"answers", r.Backends}, {"source addresses seen", r.Sources}} {
		if len(part.counts) == 0 {
			continue
		}
		text += part.title + ":\n"
		for _, key := range slices.Sorted(maps.Keys(part.counts)) {
			text += fmt.Sprintf("%8d  %s\n", part.counts[key], key)
		}
	}
	_, err := io.WriteString(w, text)
	return err
}
