package e2e

import (
	"fmt"
	"sync"
)

// testUnheard: the membership port of a node is blocked while its network works, so
// that others take its addresses over after the limit of stand-ins and it cannot be
// told. It hears them announce, and falls silent; and nobody else does anything.
func (f *fleet) testUnheard() {
	const what = "membership port blocked"
	template := func(args string) string {
		return fmt.Sprintf(`{"spec":{"containers":[{"name":"speaker","args":%s}]}}`, args)
	}
	f.replaceSpeakers(template(`["--stand-in-limit=5s"]`))
	restore := sync.OnceFunc(func() { f.replaceSpeakers(template("null")) })
	f.Cleanup(restore)
	f.waitReturned()
	f.arrange(faultNode)
	f.healed()
	looking := f.lookOut(onlooker, askInterval, f.addresses...)
	defer looking.stop()
	unblock := sync.OnceFunc(func() { f.run(f.victim, "nft", "delete table inet unheard") })
	f.Cleanup(unblock)
	owners := f.change(looking, what, func() error {
		f.run(f.victim, "nft", "add table inet unheard; "+
			"add chain inet unheard in { type filter hook input priority -10; }; add rule inet unheard in meta l4proto { tcp, udp } th dport 7956 drop; "+
			"add rule inet unheard in meta l4proto { tcp, udp } th sport 7956 drop; "+
			"add chain inet unheard out { type filter hook output priority -10; }; add rule inet unheard out meta l4proto { tcp, udp } th dport 7956 drop; "+
			"add rule inet unheard out meta l4proto { tcp, udp } th sport 7956 drop")
		f.waitOwners(f.lost, func(node string) bool { return node != f.victim })
		return nil
	}, without(f.owners, f.victim))
	f.change(looking, what+", and open again", func() error { unblock(); return nil }, as(owners))
	restore()
}
