package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var began = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

func at(milliseconds int) time.Time {
	return began.Add(time.Duration(milliseconds) * time.Millisecond)
}

func success(start, end int) Result {
	return Result{Started: at(start), Ended: at(end), Answer: "web-1"}
}

func failure(start, end int) Result {
	return Result{Started: at(start), Ended: at(end), Err: errors.New("refused")}
}

func TestLongestGap(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		results    []Result
		gap, after int // milliseconds
	}{
		"all well: about one tick": {
			results: []Result{success(0, 1), success(10, 11), success(20, 22), success(30, 31)},
			gap:     11, after: 11,
		},
		"outage in the middle": {
			results: []Result{success(0, 1), success(10, 11), failure(20, 25), failure(30, 35), success(40, 42)},
			gap:     31, after: 11,
		},
		"two outages, the second longer": {
			results: []Result{success(0, 1), failure(10, 12), success(20, 21), failure(30, 32), failure(40, 42), success(50, 52)},
			gap:     31, after: 21,
		},
		"equal outages: the first counts": {
			results: []Result{success(0, 1), failure(10, 12), success(20, 21), failure(30, 32), success(40, 41)},
			gap:     20, after: 1,
		},
		"never there": {
			results: []Result{failure(0, 250), failure(10, 260)},
			gap:     260, after: 0,
		},
		"not there at first": {
			results: []Result{failure(0, 5), failure(10, 15), success(20, 21), success(30, 31)},
			gap:     21, after: 0,
		},
		"gone until the end, which is when the last attempt failed": {
			results: []Result{success(0, 1), failure(10, 260), failure(20, 270)},
			gap:     269, after: 1,
		},
		"timeouts end after later successes": {
			results: []Result{success(0, 1), success(60, 61), failure(10, 260), failure(20, 270), success(270, 271)},
			gap:     210, after: 61,
		},
		"results handed in out of order": {
			results: []Result{success(0, 1), success(20, 25), success(10, 24), success(30, 31)},
			gap:     24, after: 1,
		},
		"slow answers all the time": {
			results: []Result{success(0, 100), success(10, 110), success(20, 120)},
			gap:     100, after: 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tally := newTally("http://192.0.2.1/", "client", began, backend)
			for _, result := range test.results {
				tally.add(result)
			}
			report := tally.finish()
			if want := Seconds(at(test.gap).Sub(began)); report.LongestGap != want {
				t.Errorf("longest gap = %s, want %s", report.LongestGap, want)
			}
			if want := at(test.after); !report.GapBegan.Equal(want) {
				t.Errorf("gap began %s, want %s", report.GapBegan, want)
			}
			if want := Seconds(at(test.after).Sub(began)); report.GapBeganAfter != want {
				t.Errorf("gap began after %s, want %s", report.GapBeganAfter, want)
			}
			if report.Sent != len(test.results) || report.OK+report.Failed != report.Sent {
				t.Errorf("sent %d = ok %d + failed %d, want %d", report.Sent, report.OK, report.Failed, len(test.results))
			}
		})
	}
}

func TestCause(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"http status 503":    statusError(503),
		"timeout":            &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded},
		"connection refused": &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"no route to host":   &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)},
		"odd":                errors.New("odd"),
	} {
		if got := cause(err); got != want {
			t.Errorf("cause(%v) = %q, want %q", err, got, want)
		}
	}
}

func TestReportAsTextAndJSON(t *testing.T) {
	t.Parallel()
	tally := newTally("http://192.0.2.1/", "client", began, backend)
	for _, result := range []Result{success(0, 1), failure(10, 12), success(20, 21)} {
		tally.add(result)
	}
	report := tally.finish()
	const text = `3 sent, 2 ok, 1 failed in 21ms from client to http://192.0.2.1/
longest gap 20ms, from 1ms after the start (15:04:05.001)
errors:
       1  refused
answers:
       2  web-1
`
	var out bytes.Buffer
	if err := report.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, out.String()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	const encoded = `{"url":"http://192.0.2.1/","from":"client","began":"2026-01-02T15:04:05Z","lasted":0.021000,` +
		`"sent":3,"ok":2,"failed":1,"longestGap":0.020000,"gapBegan":"2026-01-02T15:04:05.001Z","gapBeganAfter":0.001000,` +
		`"errors":{"refused":1},"backends":{"web-1":2}}`
	got, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(encoded, string(got)); diff != "" {
		t.Errorf("json (-want +got):\n%s", diff)
	}
	var decoded Report
	if err := json.Unmarshal(got, &decoded); err != nil {
		t.Fatal(err)
	}
	if decoded.LongestGap != report.LongestGap || decoded.Lasted != report.Lasted {
		t.Errorf("decoded %+v, want %+v", decoded, report)
	}
}
