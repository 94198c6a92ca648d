package k8s

import (
	"testing"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watchRecorder tells which namespace and labels a watch is restricted to.
func watchRecorder(to chan<- string) clienttesting.WatchReactionFunc {
	return func(action clienttesting.Action) (bool, watch.Interface, error) {
		w := action.(clienttesting.WatchAction)
		to <- w.GetNamespace() + " " + w.GetWatchRestrictions().Labels.String()
		return false, nil, nil
	}
}
