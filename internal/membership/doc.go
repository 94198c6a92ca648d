// Package membership knows which speakers are alive and what each says about itself: today the links it can announce on.
// It runs hashicorp/memberlist among the speakers (SWIM failure detection over UDP, encrypted) and carries each speaker's
// Info by gossip and by state exchange, so that nothing it does needs the API server; the API only tells it where to look
// for other speakers, and losing the API leaves what it knew in force. Its View is an immutable snapshot, and says whether
// it has settled: a speaker that has just started, whose link has just come back, or that finds itself alone has to
// speak with the speakers it knows of before it may claim an address, or two nodes would answer for one.
package membership
