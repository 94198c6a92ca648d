package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// apiWrites are the writes that the API server itself has counted since it
// started, by whomever, as "PATCH services/status".
type apiWrites map[string]int

// ofBerth are the kinds of object that Berth's controller writes, apart from its
// Lease and from events, which others write as well.
var ofBerth = []string{"services", "ipaddresspools", "ipreservations", "l2advertisements", "secrets"}

// requestLabel finds one label of a series.
var requestLabel = regexp.MustCompile(`(\w+)="([^"]*)"`)

// apiWrites asks the API server what was written. Requests that it refused count.
func (l *testLab) apiWrites(e *env) apiWrites {
	e.Helper()
	text, err := l.kube.RESTClient().Get().AbsPath("/metrics").DoRaw(e.ctx)
	if err != nil {
		e.Fatal(err)
	}
	writes := apiWrites{}
	for scanner := bufio.NewScanner(bytes.NewReader(text)); scanner.Scan(); {
		line, counts := strings.CutPrefix(scanner.Text(), "apiserver_request_total{")
		if !counts {
			continue
		}
		label := map[string]string{}
		for _, match := range requestLabel.FindAllStringSubmatch(line, -1) {
			label[match[1]] = match[2]
		}
		count, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			e.Fatalf("metrics of the API server: %q: %v", line, err)
		}
		if reads := []string{"GET", "LIST", "WATCH", "CONNECT"}; slices.Contains(reads, label["verb"]) || !slices.Contains(ofBerth, label["resource"]) {
			continue
		}
		what := label["verb"] + " " + label["resource"]
		if label["subresource"] != "" {
			what += "/" + label["subresource"]
		}
		writes[what] += int(count)
	}
	if len(writes) == 0 {
		e.Fatal("the API server has counted no write of anything that Berth writes")
	}
	return writes
}

// since returns what was written after an earlier count.
func (w apiWrites) since(before apiWrites) apiWrites {
	later := apiWrites{}
	for what, count := range w {
		if n := count - before[what]; n != 0 {
			later[what] = n
		}
	}
	return later
}

func (w apiWrites) String() string {
	if len(w) == 0 {
		return "none"
	}
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(w)) {
		parts = append(parts, fmt.Sprintf("%d %s", w[what], what))
	}
	return strings.Join(parts, ", ")
}

// eventsOfController is how many events the controller has sent, those that only
// raise the count of an earlier one among them.
func (e *env) eventsOfController() int {
	e.Helper()
	list, err := e.lab.kube.CoreV1().Events("").List(e.ctx, listAll)
	if err != nil {
		e.Fatal(err)
	}
	sent := 0
	for _, event := range list.Items {
		if event.Source.Component == "berth-controller" {
			sent += int(event.Count)
		}
	}
	return sent
}
