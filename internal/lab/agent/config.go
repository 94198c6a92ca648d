package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// Config is what an agent has to know about its node.
type Config struct {
	// Node is the node's name.
	Node string `json:"node"`
	// Kubeconfig is the path of the file that says how to reach the API server.
	Kubeconfig string `json:"kubeconfig"`
	// StateDir is a folder of this node alone, on the host's file system.
	StateDir string `json:"stateDir"`
	// NodeIPs are the node's addresses, at most one per family; the first is the
	// primary one.
	NodeIPs []netip.Addr `json:"nodeIPs"`
	// PodCIDRs are the networks of the node's Pods, in the order of NodeIPs.
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// Images maps an image's name, without registry, tag and digest, to what it
	// consists of.
	Images map[string]Image `json:"images"`
	// NetnsPrefix starts the names of the Pods' network namespaces. No other
	// namespace's name may start with it.
	NetnsPrefix string `json:"netnsPrefix"`
}

// validate reports everything that is wrong with the configuration.
func (c Config) validate() error {
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("node: name the node"))
	}
	if c.Kubeconfig == "" {
		errs = append(errs, errors.New("kubeconfig: name the file"))
	}
	if !filepath.IsAbs(c.StateDir) {
		errs = append(errs, fmt.Errorf("stateDir: %q is not an absolute path", c.StateDir))
	}
	if len(c.NodeIPs) == 0 {
		errs = append(errs, errors.New("nodeIPs: give at least one address"))
	}
	if len(c.NodeIPs) != len(c.PodCIDRs) {
		errs = append(errs, fmt.Errorf("podCIDRs: there are %d for %d nodeIPs; give one per family", len(c.PodCIDRs), len(c.NodeIPs)))
	}
	if c.NetnsPrefix == "" || strings.ContainsRune(c.NetnsPrefix, '/') {
		errs = append(errs, fmt.Errorf("netnsPrefix: %q cannot start the name of a namespace", c.NetnsPrefix))
	}
	for name, image := range c.Images {
		if err := image.validate(); err != nil {
			errs = append(errs, fmt.Errorf("images[%s]: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
