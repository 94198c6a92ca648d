package podnet

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	vishns "github.com/vishvananda/netns"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// Bridge is the interface on the node that its Pods are connected to.
const Bridge = "pods0"

// podInterface is what Pods call theirs.
const podInterface = "eth0"

// Network is the Pod network of the node whose network namespace the process is
// in. Its methods may be called concurrently.
type Network struct {
	mu    sync.Mutex
	pools []*pool
	given map[string][]netip.Addr // by name of the Pod's namespace
}

// New returns the Pod network with the prefixes, at most one per IP family. It
// touches nothing; see Up.
func New(prefixes []netip.Prefix) *Network {
	n := &Network{given: map[string][]netip.Addr{}}
	for _, prefix := range prefixes {
		n.pools = append(n.pools, newPool(prefix))
	}
	return n
}

// Up creates the bridge anew and lets the node forward packets.
func (n *Network) Up() error {
	if err := n.Down(); err != nil {
		return err
	}
	// A bridge without a MAC of its own takes the lowest of its ports', which
	// changes as Pods come and go, while the others go on using the old one.
	mac := net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: Bridge, HardwareAddr: mac}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("create bridge %s: %w", Bridge, err)
	}
	for setting, value := range map[string]string{
		"ipv4/ip_forward":                           "1",
		"ipv4/conf/all/send_redirects":              "0", // Pods on one bridge are not to talk past the node
		"ipv4/conf/" + Bridge + "/send_redirects":   "0",
		"ipv6/conf/all/forwarding":                  "1",
		"ipv6/conf/" + Bridge + "/accept_dad":       "0",
		"ipv6/conf/" + Bridge + "/disable_ipv6":     "0",
		"ipv6/conf/" + Bridge + "/accept_redirects": "0",
	} {
		if err := setSysctl(setting, value); err != nil {
			return err
		}
	}
	if err := routeOnly(); err != nil {
		return err
	}
	for _, p := range n.pools {
		address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(Gateway(p.prefix), p.prefix.Bits())), Flags: noDAD(p.prefix.Addr())}
		if err := netlink.AddrAdd(bridge, address); err != nil {
			return fmt.Errorf("add address %s to %s: %w", address, Bridge, err)
		}
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set %s up: %w", Bridge, err)
	}
	return nil
}

// routeOnly keeps the bridge-netfilter module, if something on the machine has
// loaded it, from translating addresses of frames before they are routed: a Pod
// that reaches itself through a Service would get no answer.
func routeOnly() error {
	for _, setting := range []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables", "bridge/bridge-nf-call-arptables"} {
		if err := setSysctl(setting, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Down removes the bridge, if there is one.
func (n *Network) Down() error {
	link, err := netlink.LinkByName(Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove bridge %s: %w", Bridge, err)
	}
	return nil
}

// Add creates the network namespace called name, connects it, and returns its
// addresses, in the order of the prefixes given to New.
func (n *Network) Add(name string) ([]netip.Addr, error) {
	addresses, err := n.take(name)
	if err != nil {
		return nil, err
	}
	err = netns.Create(name)
	if err == nil {
		err = n.connect(name, addresses)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pod network namespace %s: %w", name, err), n.Remove(name))
	}
	return addresses, nil
}

// Remove deletes the namespace and frees its addresses. What still runs in it
// loses its connection. A name that does not exist is no error.
func (n *Network) Remove(name string) error {
	// Explicitly, because the kernel frees a namespace only some time later.
	if link, err := netlink.LinkByName(portName(name)); err == nil {
		_ = netlink.LinkDel(link)
	}
	err := netns.Delete(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, address := range n.given[name] {
		n.pools[i].release(address)
	}
	delete(n.given, name)
	return err
}

func (n *Network) take(name string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var addresses []netip.Addr
	for _, p := range n.pools {
		address, err := p.take()
		if err != nil {
			for i, taken := range addresses {
				n.pools[i].release(taken)
			}
			return nil, err
		}
		addresses = append(addresses, address)
	}
	n.given[name] = addresses
	return addresses, nil
}

// connect runs on the node's side; only sysctls need a thread inside.
func (n *Network) connect(name string, addresses []netip.Addr) error {
	inside, err := vishns.GetFromPath(netns.Path(name))
	if err != nil {
		return err
	}
	defer func() { _ = inside.Close() }()
	if err := (netns.Target{Name: name}).Do(preparePod); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", Bridge, err)
	}
	port := netlink.NewVeth(netlink.LinkAttrs{Name: portName(name), MasterIndex: bridge.Attrs().Index, Flags: net.FlagUp})
	port.PeerName, port.PeerNamespace = podInterface, netlink.NsFd(inside)
	if err := netlink.LinkAdd(port); err != nil {
		return fmt.Errorf("create interface: %w", err)
	}
	// Should bridge-netfilter be loaded later, it needs this.
	if err := netlink.LinkSetHairpin(port, true); err != nil {
		return fmt.Errorf("set interface %s to hairpin mode: %w", port.Name, err)
	}
	if err := netlink.LinkSetUp(port); err != nil {
		return fmt.Errorf("set interface %s up: %w", port.Name, err)
	}
	pod, err := netlink.NewHandleAt(inside)
	if err != nil {
		return err
	}
	defer pod.Close()
	return n.configurePod(pod, addresses)
}

// preparePod runs inside a new Pod's namespace, before it has interfaces.
func preparePod() error {
	for setting, value := range map[string]string{
		"ipv6/conf/default/accept_dad":       "0", // addresses are unique by construction and wanted at once
		"ipv6/conf/default/dad_transmits":    "0",
		"ipv6/conf/default/accept_ra":        "0",
		"ipv6/conf/default/accept_redirects": "0",
		"ipv4/conf/default/accept_redirects": "0",
		"ipv4/conf/all/accept_redirects":     "0",
		// containerd's defaults: any user may bind low ports and send pings.
		"ipv4/ip_unprivileged_port_start": "0",
		"ipv4/ping_group_range":           "0 2147483647",
	} {
		if err := setSysctl(setting, value); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) configurePod(pod *netlink.Handle, addresses []netip.Addr) error {
	loopback, err := pod.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := pod.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	link, err := pod.LinkByName(podInterface)
	if err != nil {
		return err
	}
	if err := pod.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", podInterface, err)
	}
	for i, address := range addresses {
		own := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, address.BitLen())), Flags: noDAD(address)}
		if err := pod.AddrAdd(link, own); err != nil {
			return fmt.Errorf("add address %s: %w", address, err)
		}
		gateway := Gateway(n.pools[i].prefix)
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
		if err := pod.RouteAdd(route); err != nil {
			return fmt.Errorf("add default route via %s: %w", gateway, err)
		}
	}
	return nil
}

// portName is the node's end of a Pod's link. Interface names are short, so it is
// a hash of the namespace's name.
func portName(namespace string) string {
	hash := fnv.New64a()
	hash.Write([]byte(namespace))
	return fmt.Sprintf("pod%011x", hash.Sum64()&(1<<44-1))
}

// setSysctl writes below /proc/sys/net, which shows the calling thread's namespace.
func setSysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl net/%s to %s: %w", name, value, err)
	}
	return nil
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// noDAD makes an IPv6 address usable at once (RFC 4862 section 5.4 asks for a
// second of duplicate detection, pointless where the agent hands out addresses).
func noDAD(address netip.Addr) int {
	if address.Is6() {
		return syscall.IFA_F_NODAD
	}
	return 0
}
