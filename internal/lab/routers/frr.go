package routers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// frr is zebra, which knows the kernel, with bfdd and bgpd. They keep their
// rights as root, because only root may enter a lab's folder.
type frr struct{ *Router }

// frrFolder is where Debian has the daemons.
const frrFolder = "/usr/lib/frr/"

// frrShell starts a daemon with a /var/tmp of its own: FRR leaves a folder there
// when it is killed, and cannot remove it without the rights that it has given up.
const frrShell = `mount --bind "$0" /var/tmp && exec "$@"`

func (f frr) daemons(Config) []daemon {
	var all []daemon
	for _, name := range []string{"zebra", "bfdd", "bgpd"} {
		args := []string{
			"/usr/bin/unshare", "--mount", "--propagation=slave", "/bin/sh", "-c", frrShell, f.file("tmp"),
			frrFolder + name, "--user=root", "--group=frrvty",
			"--config_file=" + f.file("base.conf"), "--pid_file=" + f.file(name+".pid"),
			"--vty_socket=" + f.site.Folder, "--socket=" + f.file("zserv.api"), "--vty_port=0", "--log=stdout",
		}
		if name == "bfdd" {
			args = append(args, "--bfdctl="+f.file("bfdd.sock"))
		}
		all = append(all, daemon{name: name, program: frrFolder + name, args: args, socket: f.file(name + ".vty")})
	}
	return all
}

func (f frr) prepare(Config) error {
	if err := os.MkdirAll(f.file("tmp", "frr"), 0o700); err != nil {
		return err
	}
	for name, content := range map[string]string{"base.conf": frrBase, "vtysh.conf": "no service integrated-vtysh-config\n"} {
		if err := os.WriteFile(f.file(name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f frr) started(ctx context.Context, config Config) error {
	return f.apply(ctx, frrChange(Config{}, config))
}

func (f frr) change(ctx context.Context, before, after Config) error {
	return f.apply(ctx, frrChange(before, after))
}

// apply hands commands of the configuration mode to the daemons.
func (f frr) apply(ctx context.Context, commands string) error {
	path := f.file("change.conf")
	if err := os.WriteFile(path, []byte(commands), 0o600); err != nil {
		return err
	}
	return f.run(ctx, append(f.vtysh(), "--inputfile", path))
}

func (f frr) vtysh() []string {
	return []string{"/usr/bin/vtysh", "--vty_socket", f.site.Folder, "--config_dir", f.site.Folder}
}

func (f frr) console(commands []string) []string {
	argv := f.vtysh()
	for _, command := range commands {
		argv = append(argv, "--command", command)
	}
	return argv
}

func (f frr) scripts() map[string]string {
	return map[string]string{"vtysh": script(f.vtysh())}
}

// script passes its arguments on to a command. A lab's folder has no characters
// that a shell would take for its own.
func script(argv []string) string {
	return "#!/bin/sh\nexec " + strings.Join(argv, " ") + ` "$@"` + "\n"
}

func (f frr) routes(ctx context.Context, family Family) (Table, error) {
	content, err := f.Console(ctx, fmt.Sprintf("show bgp %s unicast json detail", family))
	if err != nil {
		return nil, err
	}
	return parseFRRTable(content)
}

func (f frr) route(ctx context.Context, prefix netip.Prefix) ([]Path, error) {
	content, err := f.Console(ctx, fmt.Sprintf("show bgp %s unicast %s json", familyOf(prefix), prefix))
	if err != nil {
		return nil, err
	}
	return parseFRRRoute(content, prefix)
}

// parseFRRRoute reads the answer about one prefix, which is laid out differently
// from that about all. FRR answers about a shorter prefix if there is no route.
func parseFRRRoute(content []byte, prefix netip.Prefix) ([]Path, error) {
	var answer struct {
		Prefix netip.Prefix      `json:"prefix"`
		Paths  []json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(content, &answer); err != nil {
		return nil, fmt.Errorf("FRR's route %s: %w", prefix, err)
	}
	if answer.Prefix != prefix {
		return nil, nil
	}
	entries := append([]json.RawMessage{nil}, answer.Paths...)
	table, err := frrTable{Routes: map[netip.Prefix][]json.RawMessage{prefix: entries}}.table()
	return table[prefix], err
}

func (f frr) sessions(ctx context.Context) ([]Session, error) {
	content, err := f.Console(ctx, "show bgp neighbors json")
	if err != nil {
		return nil, err
	}
	return parseFRRSessions(content)
}

func (f frr) bfdSessions(ctx context.Context) ([]BFDSession, error) {
	content, err := f.Console(ctx, "show bfd peers json")
	if err != nil {
		return nil, err
	}
	return parseFRRBFD(content)
}
