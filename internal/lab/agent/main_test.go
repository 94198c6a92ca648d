package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/berth-lb/berth/internal/lab/container"
)

// TestMain lets the test binary stand in for the lab's: as a container's first
// process, and as a node agent.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == container.InitCommand {
		container.Init()
	}
	if len(os.Args) == 4 && os.Args[1] == "agent" && os.Args[2] == "--config" {
		if err := runFromFile(os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func runFromFile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config Config
	if err := json.Unmarshal(data, &config); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return Run(ctx, config)
}
