package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/lab/agent"
	"github.com/berth-lb/berth/internal/lab/forward"
	"github.com/berth-lb/berth/internal/lab/streamer"
)

// The commands in this file are what the lab's background processes run. They
// are not for people.

func newForwardCommand() *cobra.Command {
	var target string
	cmd := &cobra.Command{
		Use:    "forward",
		Short:  "Forward connections accepted on file descriptor 3",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			const inherited = 3
			file := os.NewFile(inherited, "listener")
			listener, err := net.FileListener(file)
			if err != nil {
				return fmt.Errorf("forward: file descriptor %d is no listening socket: %w", inherited, err)
			}
			if err := file.Close(); err != nil {
				return err
			}
			return forward.Run(cmd.Context(), listener, target)
		},
	}
	cmd.Flags().StringVar(&target, "to", "", "address:port to connect to")
	return cmd
}

func newAgentCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:    "agent",
		Short:  "Be the kubelet of the node in whose network this runs",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			content, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("agent: %w", err)
			}
			var config agent.Config
			if err := json.Unmarshal(content, &config); err != nil {
				return fmt.Errorf("agent: %s: %w", path, err)
			}
			return agent.Run(cmd.Context(), config)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "file with the configuration as JSON")
	return cmd
}

func newPauseCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "pause",
		Short:  "Do nothing until told to stop",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			<-cmd.Context().Done()
			return nil
		},
	}
}

func newStreamerCommand() *cobra.Command {
	port, delay := 80, 0
	cmd := &cobra.Command{
		Use:    "streamer",
		Short:  "Serve /download, /echo, /hostname, /clientip and /healthz",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
			if err != nil {
				return err
			}
			return streamer.Run(cmd.Context(), listener, time.Duration(delay)*time.Second)
		},
	}
	// As agnhost's netexec calls them.
	cmd.Flags().IntVar(&port, "http-port", port, "port to listen on")
	cmd.Flags().IntVar(&delay, "delay-shutdown", delay, "seconds to go on after SIGTERM")
	return cmd
}
