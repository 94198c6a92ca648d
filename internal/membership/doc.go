// Package membership knows which speakers are alive, what each says about itself (the links it can announce on, how its
// node is doing) and which addresses each claims. It runs hashicorp/memberlist among the speakers (SWIM failure detection
// over UDP, encrypted) and carries each speaker's Info and Claims by packets to all, by gossip and by state exchange, so
// that nothing it does needs the API server; the API only tells it where to look for other speakers, and losing the API
// leaves what it knew in force. Its View is an immutable snapshot, and says whether it has settled: a speaker that has just
// started, whose link has just come back, or that finds itself alone has to speak with the speakers it knows of before it
// may claim an address, or two nodes would answer for one. Speakers that failed or left stay known for a while with what
// they claimed, and a restarted one learns from the others what its former process claimed. Verdicts, which are what one
// speaker has found out about another, are carried but not acted on here.
package membership
