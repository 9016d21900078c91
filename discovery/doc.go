// Package discovery finds peers. Sources look for them, each in its own way; a
// Mix runs the sources and teaches the address book what they found, each its
// fair share; a Finder says where one peer is.
//
//	dht, err := discovery.NewDHT(discovery.DHTConfig{Host: h, WAN: true, Bootstrap: list.AddrInfos})
//	mix, err := discovery.NewMix(discovery.MixConfig{
//		Learner: book,
//		Sources: []discovery.Source{discovery.NewMDNS(h, log), discovery.NewBootstrap("config", list), dht},
//	})
//	go mix.Run(ctx)
//	finder := discovery.NewFinder(discovery.FinderConfig{Host: h, Book: book, DHT: dht})
//	places, err := finder.Find(ctx, id)
//
// The sources are NewMDNS (the local network), NewBootstrap (a list that a
// person gave), NewDNSAddr (TXT records of /dnsaddr), NewDNSSeed (address
// records, as btcd's seeds have them) and DHT (Kademlia). Peer exchange is part
// of package p2p and teaches the book by itself; External counts it beside the
// others. Any other Source can be added.
//
// Nothing is joined that was not asked for: without sources a Mix does nothing,
// no list is built in, and the DHT speaks a protocol of our own, so that it
// meets no public network.
//
// # What is believed
//
// Whoever answers may lie. What a source says is an address to try, never a
// fact: a peer's ID is proven by the handshake of a connection to it. A source
// may teach 64 new addresses a minute, 4 of one IP and 16 of one network
// (addrbook.Group), whether it taught them before or not; what comes on top waits
// its turn, 256 addresses at most, of which those at the fullest places give way
// to more. What the book knows costs nothing. What a person wrote down (Bootstrap)
// is not limited; what the DNS says of a name that a person wrote down is. Which
// networks a source can speak for at all is the book's decision
// (addrbook.MayLearn). From the DHT only those addresses enter the book at which a
// peer was met and has identified itself. What is dropped, here or there, is
// counted by reason (SourceStats.Refused).
//
// # Duties of the caller
//
// Run each Mix once. Report the outcome of dials to Mix.Dialled, or the counts
// of success stay empty. A DHT finds nobody unless it runs (in a Mix, or by
// itself) and knows one node of its network. Give the DHT the host itself, not
// the one that asks the Finder when it knows no address: they would ask each
// other in circles.
package discovery
