package membership

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"
)

// BenchmarkDetection measures from the moment a speaker falls silent (its packets are lost, nothing refuses) until all
// others have dropped it from their views.
func BenchmarkDetection(b *testing.B) {
	for _, count := range []int{2, 3, 10, 30} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			n := newNetwork()
			speakers := n.startAll(b, count)
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				victim := speakers[i%count]
				rest := slices.Delete(slices.Clone(speakers), i%count, i%count+1)
				start := time.Now()
				n.split(1, victim)
				awaitMutual(b, rest...)
				took = append(took, time.Since(start))
				b.StopTimer()
				n.heal()
				awaitMutual(b, speakers...)
				awaitCalm(b, speakers)
				b.StartTimer()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "median-ms")
			b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "max-ms")
		})
	}
}

// awaitCalm waits until no speaker blames itself any more for the probes that failed during the last fault; as long as
// it does, it is slower to suspect others.
func awaitCalm(b *testing.B, speakers []*speaker) {
	b.Helper()
	for _, s := range speakers {
		await(b, s.name+" is calm", func() bool { return s.list.GetHealthScore() == 0 })
	}
}

// BenchmarkHeal measures from the moment a partition of one against the rest ends until all see each other.
func BenchmarkHeal(b *testing.B) {
	for _, count := range []int{3, 10} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			n := newNetwork()
			speakers := n.startAll(b, count)
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				n.split(1, speakers[i%count])
				awaitMutual(b, speakers[i%count])
				awaitMutual(b, slices.Delete(slices.Clone(speakers), i%count, i%count+1)...)
				b.StartTimer()
				start := time.Now()
				n.heal()
				awaitMutual(b, speakers...)
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "median-ms")
			b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "max-ms")
		})
	}
}

// BenchmarkFalsePositives counts speakers that are given up though they live, while other processes keep every core
// busy eight times over. One iteration is a second.
func BenchmarkFalsePositives(b *testing.B) {
	for _, count := range []int{3, 10} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			speakers := newNetwork().startAll(b, count)
			for range 8 * runtime.NumCPU() {
				hog := exec.CommandContext(b.Context(), "sh", "-c", "while :; do :; done")
				if err := hog.Start(); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() {
					_ = hog.Process.Kill()
					_ = hog.Wait()
				})
			}
			for b.Loop() {
				time.Sleep(time.Second)
			}
			failed := 0.0
			for _, s := range speakers {
				failed += s.value(b, "berth_membership_transitions_total", "failed")
			}
			b.ReportMetric(failed, "false-positives")
		})
	}
}
