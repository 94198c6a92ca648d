package main

import (
	_ "github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	_ "github.com/vishvananda/netlink"
	_ "github.com/vishvananda/netns"
	_ "k8s.io/kubernetes/test/images/agnhost/netexec"
	_ "github.com/google/go-cmp/cmp"
	_ "go.uber.org/goleak"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
)

import (
	_ "k8s.io/apimachinery/pkg/labels"
	_ "k8s.io/client-go/kubernetes"
	_ "sigs.k8s.io/yaml"
	_ "github.com/berth-lb/berth/internal"
)
