package watch

import (
	"context"
	"sync"
	"time"
)

// ask puts a question to a node and tells the machine what became of it.
func (w *Watch) ask(ctx context.Context, o askOrder) {
	r := w.askAny(ctx, o.targets, o.tries, o.every)
	w.send(ctx, func(now time.Time) { w.machine.setReply(now, o.id, o.node, r) })
}

// askAny asks all targets at the same time. The first answer is the result; if there is none, all have to have been asked
// for that to mean anything.
func (w *Watch) askAny(ctx context.Context, targets []Target, tries int, every time.Duration) reply {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make(chan reply, len(targets))
	for _, t := range targets {
		go func() {
			answered, err := w.cfg.Prober.Ask(asking, t, tries, every)
			replies <- reply{answered: answered && err == nil, from: t, failed: err != nil}
		}()
	}
	result := reply{failed: len(targets) == 0}
	for range targets {
		r := <-replies
		switch {
		case result.answered:
		case r.answered:
			result = r
			cancel() // the others return soon, and are waited for
		case r.failed:
			result.failed = true
		}
	}
	return result
}

// askWitnesses finds out whether anybody answers and tells the machine.
func (w *Watch) askWitnesses(ctx context.Context, o witnessOrder) {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	others, known := w.panel.list(w.witnesses())
	groups := o.targets
	for _, t := range others {
		groups = append(groups, []Target{t})
	}
	answered := false
	results := make(chan bool, len(groups))
	for _, g := range groups {
		go func() { results <- w.askAny(asking, g, confirmTries, confirmEvery).answered }()
	}
	for range groups {
		if <-results {
			answered = true
			cancel()
		}
	}
	w.send(ctx, func(now time.Time) { w.machine.setWitness(now, o.id, answered, o.counted+known) })
}

func (w *Watch) witnesses() []Target {
	if w.cfg.Witnesses == nil {
		return nil
	}
	return w.cfg.Witnesses.Witnesses()
}

// A witness counts once it has answered, and as long as it answers every now and then: a router that is configured but
// does not exist, or a client that has gone home, must not make this node believe that it is cut off.
const (
	panelSize  = 8
	panelEvery = 10 * time.Second
	// panelPatience is how many times in a row a witness may not answer.
	panelPatience = 3
)

// panel knows which witnesses can be relied on.
type panel struct {
	mu     sync.Mutex
	missed map[Target]int // of those that have answered
}

func newPanel() *panel { return &panel{missed: map[Target]int{}} }

// list returns the first witnesses, as many as are asked, and how many of these can be relied on.
func (p *panel) list(all []Target) (asked []Target, reliable int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked = all[:min(len(all), panelSize)]
	for _, t := range asked {
		if _, ok := p.missed[t]; ok {
			reliable++
		}
	}
	return asked, reliable
}

// note remembers who answered a check, and forgets who has been missing from the list or silent for too long.
func (p *panel) note(answers map[Target]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t := range p.missed {
		if p.missed[t]++; p.missed[t] > panelPatience {
			delete(p.missed, t)
		}
	}
	for t, answered := range answers {
		if answered {
			p.missed[t] = 0
		}
	}
}

// checkWitnesses finds out now and then which witnesses answer. While this node is cut off that would show nothing.
func (w *Watch) checkWitnesses(ctx context.Context) {
	if w.cfg.Witnesses == nil {
		return
	}
	ticker := w.clock.NewTicker(panelEvery)
	defer ticker.Stop()
	for {
		var mu sync.Mutex
		answers := map[Target]bool{}
		var wg sync.WaitGroup
		targets, _ := w.panel.list(w.witnesses())
		for _, t := range targets {
			wg.Go(func() {
				r := w.askAny(ctx, []Target{t}, confirmTries, confirmEvery)
				mu.Lock()
				defer mu.Unlock()
				if !r.failed {
					answers[t] = r.answered
				}
			})
		}
		wg.Wait()
		if !w.Standing().Isolated {
			w.panel.note(answers)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}
