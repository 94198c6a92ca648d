package podnet

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// asNode is the environment variable that makes the test binary a node: netlink
// and /proc/sys belong to threads, so a whole process has to live in the namespace.
const asNode = "PODNET_TEST_NODE"

func TestMain(m *testing.M) {
	if prefix := os.Getenv(asNode); prefix != "" {
		if err := node(prefix); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// node sets up a Pod network with two Pods, says so, and takes it down when its
// input ends.
func node(prefix string) error {
	n := New([]netip.Prefix{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd77::/64")})
	if err := n.Up(); err != nil {
		return err
	}
	for _, name := range []string{"a", "b"} {
		addresses, err := n.Add(prefix + name)
		if err != nil {
			return err
		}
		fmt.Println(name, addresses)
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	for _, name := range []string{"a", "b"} {
		if err := n.Remove(prefix + name); err != nil {
			return err
		}
	}
	return n.Down()
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	prefix := fmt.Sprintf("podnet-test-%d-", os.Getpid())
	if err := netns.Create(prefix + "node"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{"node", "a", "b"} {
			if err := netns.Delete(prefix + name); err != nil {
				t.Error(err)
			}
		}
	})
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), asNode+"="+prefix)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := (netns.Target{Name: prefix + "node"}).Start(command); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	for _, want := range []string{"a [10.77.0.2 fd77::2]\n", "b [10.77.0.3 fd77::3]\n"} {
		if got, err := lines.ReadString('\n'); err != nil || got != want {
			t.Fatalf("node says %q, %v; want %q", got, err, want)
		}
	}
	talk(t, prefix+"a", prefix+"b", "10.77.0.3", "10.77.0.2")
	talk(t, prefix+"a", prefix+"b", "fd77::3", "fd77::2")
	talk(t, prefix+"node", prefix+"b", "10.77.0.3", "10.77.0.1")
	talk(t, prefix+"b", prefix+"node", "fd77::1", "fd77::3")
	_ = stdin.Close()
	if err := command.Wait(); err != nil {
		t.Fatal(err)
	}
	left, err := netns.List(prefix)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{prefix + "node"}, left); diff != "" {
		t.Errorf("namespaces left (-want +got):\n%s", diff)
	}
}

// talk connects from one namespace to another and checks who the server sees.
func talk(t *testing.T, from, to, address, source string) {
	t.Helper()
	var listener net.Listener
	err := netns.Target{Name: to}.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	})
	if err != nil {
		t.Fatalf("listen on %s: %v", address, err)
	}
	defer func() { _ = listener.Close() }()
	seen := make(chan string, 1)
	go func() {
		peer := ""
		if connection, err := listener.Accept(); err == nil {
			peer = connection.RemoteAddr().String()
			_ = connection.Close()
		}
		seen <- peer
	}()
	err = netns.Target{Name: from}.Do(func() error {
		connection, err := net.Dial("tcp", listener.Addr().String())
		if err == nil {
			_ = connection.Close()
		}
		return err
	})
	if err != nil {
		t.Fatalf("connect from %s to %s: %v", from, address, err)
	}
	if peer := <-seen; strings.Trim(peer[:strings.LastIndexByte(peer, ':')], "[]") != source {
		t.Errorf("connection to %s comes from %s, want %s", address, peer, source)
	}
}
