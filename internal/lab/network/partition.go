package network

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// partitionTable is in the Ethernet's namespace while the Ethernet is divided. Its
// comment says how.
const partitionTable = "bridge berth-partition"

// Partition drops all packets on the Ethernet between hosts of different groups,
// whose interfaces all keep carrier. A host in no group reaches every other. It
// takes the place of an earlier partition; without groups, it only ends that.
func (n Network) Partition(groups ...[]string) error {
	if err := n.checkGroups(groups); err != nil {
		return fmt.Errorf("partition: %w", err)
	}
	err := nftIn(n.Namespace(Ethernet), partitionRules(groups))
	if err != nil {
		return fmt.Errorf("partition: %w", err)
	}
	return nil
}

// checkGroups reports everything that is wrong with the groups.
func (n Network) checkGroups(groups [][]string) error {
	var errs []error
	if len(groups) == 1 {
		errs = append(errs, errors.New("one group alone is not parted from anything; name two or more"))
	}
	seen := map[string]bool{}
	for _, group := range groups {
		if len(group) == 0 {
			errs = append(errs, errors.New("a group is empty"))
		}
		for _, name := range group {
			host, err := n.plan.Host(name)
			switch {
			case err != nil:
				errs = append(errs, err)
			case host.Network != Ethernet:
				errs = append(errs, fmt.Errorf("host %q is not on the Ethernet", name))
			case seen[name]:
				errs = append(errs, fmt.Errorf("host %q is named twice", name))
			}
			seen[name] = true
		}
	}
	return errors.Join(errs...)
}

// partitionRules are those of the switch, for `nft -f`: ports are named after the
// hosts plugged into them.
func partitionRules(groups [][]string) string {
	rules := resetTable(partitionTable)
	if len(groups) == 0 {
		return rules
	}
	rules += fmt.Sprintf("table %s {\ncomment %q\nchain forward {\ntype filter hook forward priority 0;\n",
		partitionTable, PartitionText(groups))
	for i, group := range groups {
		var others []string
		for j, other := range groups {
			if i != j {
				others = append(others, other...)
			}
		}
		rules += fmt.Sprintf("iifname { %s } oifname { %s } drop\n", quoted(group), quoted(others))
	}
	return rules + "}\n}\n"
}

// resetTable makes sure that a table is there before it deletes it, as nft takes
// it for an error to delete what is not.
func resetTable(table string) string {
	return "table " + table + " {\n}\ndelete table " + table + "\n"
}

func quoted(names []string) string { return `"` + strings.Join(names, `", "`) + `"` }

// PartitionText writes groups as `lab partition` takes them: node-1 / node-2,node-3.
func PartitionText(groups [][]string) string {
	texts := make([]string, len(groups))
	for i, group := range groups {
		texts[i] = strings.Join(group, ",")
	}
	return strings.Join(texts, " / ")
}

// ParsePartition reads what PartitionText writes, also in several pieces.
func ParsePartition(pieces ...string) [][]string {
	var groups [][]string
	for text := range strings.SplitSeq(strings.Join(pieces, " "), "/") {
		names := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
		groups = append(groups, slices.Clone(names))
	}
	return groups
}

// Partitioned says how the Ethernet is divided, as PartitionText does; it is empty
// if it is not.
func (n Network) Partitioned() (string, error) {
	var tables bytes.Buffer
	list := exec.Command("nft", "list", "tables", "bridge")
	list.Stdout = &tables
	if err := runIn(n.Namespace(Ethernet), list); err != nil || !strings.Contains(tables.String(), "table "+partitionTable) {
		return "", err
	}
	var table bytes.Buffer
	list = exec.Command("nft", append([]string{"list", "table"}, strings.Fields(partitionTable)...)...)
	list.Stdout = &table
	if err := runIn(n.Namespace(Ethernet), list); err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(table.String(), `comment "`)
	text, _, _ := strings.Cut(rest, `"`)
	return text, nil
}

// nftIn applies a ruleset in a namespace, all of it or nothing.
func nftIn(namespace, ruleset string) error {
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(ruleset)
	return runIn(namespace, nft)
}

// runIn runs a command in a namespace. The error holds what it complains of.
func runIn(namespace string, cmd *exec.Cmd) error {
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	err := netns.Target{Name: namespace}.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%s in %s: %w: %s", strings.Join(cmd.Args, " "), namespace, err, strings.TrimSpace(complaint.String()))
	}
	return nil
}
