package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/pki"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// apiPort is where the API server listens on the control plane.
const apiPort = 6443

// etcdURL is etcd's, which only the control plane itself can reach.
const etcdURL = "http://127.0.0.1:2379"

// writeSecrets makes the keys, certificates and kubeconfigs of the lab.
func (c *Cluster) writeSecrets() error {
	authority, err := pki.NewAuthority(time.Now())
	if err != nil {
		return err
	}
	server, err := authority.IssueServer(c.apiServerNames())
	if err != nil {
		return err
	}
	signingKey, err := pki.NewSigningKey()
	if err != nil {
		return err
	}
	credentials := newCredentials(c.plan)
	files := map[string][]byte{
		"pki/ca.crt":              authority.Certificate(),
		"pki/apiserver.crt":       server.Certificate,
		"pki/apiserver.key":       server.Key,
		"pki/service-account.key": signingKey,
		"pki/tokens.csv":          credentials.tokenFile(),
	}
	outside := fmt.Sprintf("https://127.0.0.1:%d", c.state.APIPort)
	files["kubeconfig"], err = kubeconfig(c.Name(), outside, authority.Certificate(), credentials.admin())
	if err != nil {
		return err
	}
	for _, user := range credentials {
		files["kubeconfigs/"+user.host], err = kubeconfig(c.Name(), c.apiURL(), authority.Certificate(), user)
		if err != nil {
			return err
		}
	}
	for name, content := range files {
		if err := writeFile(c.dir.join(name), content); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// apiServerNames returns all names and addresses the API server is called by.
func (c *Cluster) apiServerNames() ([]string, []netip.Addr) {
	names := []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "localhost", network.ControlPlane,
	}
	addresses := append([]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}, c.plan.ControlPlane().IPs()...)
	return names, append(addresses, c.plan.ServiceIPs()...)
}

// apiURL is the API server's inside the lab, as nodes know it.
func (c *Cluster) apiURL() string {
	return "https://" + net.JoinHostPort(c.plan.ControlPlane().IPs()[0].String(), strconv.Itoa(apiPort))
}

// controlPlaneSpec is a Kubernetes program on the control plane.
func (c *Cluster) controlPlaneSpec(name string, args ...string) proc.Spec {
	return c.spec(name, network.ControlPlane, append([]string{c.state.Options.bin("kube"), name}, args...)...)
}

// spec is a background process on a host of the lab.
func (c *Cluster) spec(name, host string, args ...string) proc.Spec {
	return proc.Spec{
		Name:      name,
		Host:      host,
		Namespace: c.net.Namespace(host),
		Args:      args,
		Env:       []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"},
	}
}

// etcd keeps its data in memory and never waits for it to be written: a lab that
// loses power is gone anyway.
func (c *Cluster) etcd() proc.Spec {
	return c.controlPlaneSpec("etcd",
		"--name=lab",
		"--data-dir="+c.dir.join("etcd"),
		"--listen-client-urls="+etcdURL,
		"--advertise-client-urls="+etcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=lab=http://127.0.0.1:2380",
		"--unsafe-no-fsync",
		"--log-level=warn",
	)
}

// apiServer is as kubeadm configures it in what Pods can notice: RBAC, Pod
// Security admission, projected ServiceAccount tokens.
func (c *Cluster) apiServer() proc.Spec {
	bindAddress := "::"
	if c.plan.Family == network.IPv4 {
		bindAddress = "0.0.0.0"
	}
	return c.controlPlaneSpec("kube-apiserver",
		"--bind-address="+bindAddress,
		"--advertise-address="+c.plan.ControlPlane().IPs()[0].String(),
		"--secure-port="+strconv.Itoa(apiPort),
		"--etcd-servers="+etcdURL,
		"--authorization-mode=RBAC",
		"--token-auth-file="+c.dir.join("pki", "tokens.csv"),
		"--client-ca-file="+c.dir.join("pki", "ca.crt"),
		"--tls-cert-file="+c.dir.join("pki", "apiserver.crt"),
		"--tls-private-key-file="+c.dir.join("pki", "apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file="+c.dir.join("pki", "service-account.key"),
		"--service-account-key-file="+c.dir.join("pki", "service-account.key"),
		"--service-cluster-ip-range="+joinPrefixes(c.plan.ServiceCIDRs),
		// No API is aggregated, but those who look for how to trust a front proxy
		// complain in their logs when they find nothing.
		"--requestheader-client-ca-file="+c.dir.join("pki", "ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--kubelet-preferred-address-types=InternalIP",
		"--allow-privileged=true",
	)
}

// controllerManager may call the API server as often as it likes: its default of
// 20 requests per second would make thousands of Services take minutes.
func (c *Cluster) controllerManager() proc.Spec {
	return c.controlPlaneSpec("kube-controller-manager",
		"--kubeconfig="+c.dir.join("kubeconfigs", network.ControlPlane),
		"--authentication-kubeconfig="+c.dir.join("kubeconfigs", network.ControlPlane),
		"--authorization-kubeconfig="+c.dir.join("kubeconfigs", network.ControlPlane),
		"--root-ca-file="+c.dir.join("pki", "ca.crt"),
		"--service-account-private-key-file="+c.dir.join("pki", "service-account.key"),
		"--leader-elect=false",
		"--kube-api-qps=1000",
		"--kube-api-burst=2000",
		"--concurrent-service-endpoint-syncs=20",
	)
}

func (c *Cluster) scheduler() proc.Spec {
	return c.controlPlaneSpec("kube-scheduler",
		"--kubeconfig="+c.dir.join("kubeconfigs", network.ControlPlane),
		"--authentication-kubeconfig="+c.dir.join("kubeconfigs", network.ControlPlane),
		"--authorization-kubeconfig="+c.dir.join("kubeconfigs", network.ControlPlane),
		"--leader-elect=false",
		"--kube-api-qps=1000",
		"--kube-api-burst=2000",
	)
}

// forwarder carries connections to the port on 127.0.0.1 that listener has to
// the API server.
func (c *Cluster) forwarder(listener *os.File) proc.Spec {
	spec := c.spec("forward", network.ControlPlane,
		c.state.Options.bin("lab"), "forward", "--to", strings.TrimPrefix(c.apiURL(), "https://"))
	spec.Inherited = []*os.File{listener}
	return spec
}

func joinPrefixes(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}
