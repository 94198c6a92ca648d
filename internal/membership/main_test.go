package membership

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// memberlist's Shutdown does not wait for a probe that is under way, which may take a second on a busy machine; goleak
// alone waits for less.
func TestMain(m *testing.M) {
	code := m.Run()
	var leak error
	for deadline := time.Now().Add(5 * time.Second); ; {
		if leak = goleak.Find(); leak == nil || time.Now().After(deadline) {
			break
		}
	}
	if leak != nil && code == 0 {
		fmt.Fprintln(os.Stderr, leak)
		code = 1
	}
	os.Exit(code)
}
