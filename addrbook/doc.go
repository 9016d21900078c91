// Package addrbook remembers peers: who was said to be where, what came of
// trying, whom we like, whom we banned. It owns every such fact once, and
// survives crashes and liars.
//
//	store, err := addrbook.OpenStore("/var/lib/me/peers.db")
//	book, err := addrbook.Open(store, addrbook.Options{Self: me})
//	book.Learn(source, addresses)         // what others say
//	a, ok := book.Pick(addrbook.Any)      // whom to dial
//	book.Hold(a.NodeID); book.Attempt(a)  // we do
//	book.Good(a)                          // it is there; or Failed(a, retry)
//	book.Release(a.NodeID, time.Time{})   // it may be picked again
//
// # Liars
//
// Anybody can teach addresses, and an attacker teaches many, so that we dial
// nobody else. The book is Bitcoin Core's answer (its addrman, after Heilman
// et al., "Eclipse Attacks on Bitcoin's Peer-to-Peer Network", 2015): two
// tables of buckets, 1024 x 64 for what was told (new) and 256 x 64 for what
// worked (tried). The bucket of an address follows from a secret hash of its
// group (IPv4 /16, IPv6 /32) and the group of who taught it: all sources of one
// group together reach 64 of the new buckets, and all addresses of one group 8
// of the tried. A pick takes each table half of the time, any bucket with
// something to dial, and any address in it, so that a crowded bucket counts no
// more than a lonely one.
//
// A full bucket is not opened by talk: the hash says which address stands in
// the way, and it goes only if it was never reached in 3 attempts, or not heard
// of for 30 days, or has other slots (an address has up to 8). What worked is
// never displaced by what did not. Of two that worked, the older stays until a
// short test connection to it fails (Feeler). Two anchors are dialled first
// after a restart.
//
// A source may teach 1000 new addresses at once and 0.1 a second after that.
// Learnt addresses are IPs, no names, and of networks that the source can
// speak for (MayLearn). A peer has at most 8 addresses; its own word is worth
// more than that of others, and that of a person (Manual) most.
//
// # What may be dialled
//
// The book knows at any time which addresses may be dialled now: not those of
// held, banned or shunned peers, of peers in their pause, and not before their
// retry time. Pick draws from these only and takes constant time. How long to
// wait after a failure, how many connections to have, and whom to keep is for
// the caller to say, who also tells the book what happened. Wake and Next say
// when to ask again.
//
// # Durability
//
// Everything is in memory, about 600 bytes an address (47 MiB for a full book
// of 81,920; addresses of libp2p are longer). Ban, Unban, BanPrefix and UnbanPrefix return when the store has
// it; all else is saved behind, in one transaction, at most 5 s later and on
// Close; Flush waits for it. A failed save is logged, counted and tried again,
// and the book goes on. What was saved survives the death of the process at any
// moment. A damaged row is set aside, a broken file is kept under another name
// and its last daily copy used: Notices says so, and nothing of it stops the
// start.
//
// Held peers and pauses are not saved; nor is that an address was given up.
//
// # Duties of the caller
//
// One book on a store at a time. Close the book, then the store. Hold a peer
// before dialling it and Release it after, or it is picked again. Report each
// result once. Ban, Unban, BanPrefix, UnbanPrefix, Flush, Open and Close block
// on the disk: not under a lock. All other methods hold a mutex for
// microseconds, but ResetRetries, BanPrefix, Scores, Peers and Bans take time
// in proportion to the book.
//
// An ID that is not ours to choose (a self-made key) costs nothing, so scores
// and bans by ID stop the careless, not the determined; BanPrefix and the gate
// in front of the listener are for these.
package addrbook
