// Package memory is a network within one process: nodes, the links between them,
// and everything that goes wrong on links. It exists to test what runs over
// p2p.Transport, with faults at will and exact books of what they destroyed.
//
//	network := memory.NewNetwork(memory.Options{Link: memory.Link{Latency: 20 * time.Millisecond}})
//	a, err := network.Listen(idA) // a p2p.Transport, at memory:idA
//	b, err := network.Listen(idB)
//	conn, err := a.Dial(ctx, b.Endpoints()[0])
//	...
//	network.Partition(idA, idB)
//	network.Heal(idA, idB)
//	network.Reset(idA, idB)
//
// # What it models
//
// Connections are like those of TCP: ordered, nothing lost or repeated in a live
// one. A link from one node to another has a latency, with jitter that never
// reorders, and a bandwidth that all connections over it share; sending blocks
// while a chunk goes out, and while more than Options.Window bytes are on their
// way or unread. Faults are those that real networks show above IP:
//
//   - Partition, one way or both: nothing arrives, dials hang, and connections go
//     on when it heals, or are reset after Options.BreakAfter.
//   - Stall: as a one-way partition, but dials succeed. It is what a peer looks
//     like that has stopped reading.
//   - Reset, at once or (CutAfter) in the middle of a message: both ends fail, and
//     what was on the way is destroyed.
//   - Crash: a node's listener and connections are gone, as when its process dies.
//   - FailAccepts, RefuseDials: accepting fails though somebody waits; a node is
//     there and answers with a refusal.
//
// Nothing inside a live connection is changed, lost or reordered: no network does
// that to TCP.
//
// # The books
//
// Network.Stats counts messages and bytes by channel: what was sent (SendChunk
// took the last chunk of it), delivered (ReceiveMessage returned it), destroyed,
// and what is on its way now. Sent = Delivered + Destroyed + InFlight at every
// moment, so the sums of a test are exact. A SendChunk that returned an error took
// nothing. Faults are counted, too: a test in which none happened tested nothing.
// Stats counts those that were ordered, and Network.Harm what they did to a link's
// traffic, which is nothing where there was none.
//
// # Time
//
// Only timers, channels and short critical sections: a network made inside a
// testing/synctest bubble lives in its virtual time. The package starts no
// goroutine. Jitter and nonces come from Options.Seed; what remains random is the
// order in which goroutines run.
//
// # Identity
//
// The handshake really signs: each side proves its key over both sides' nonces and
// its node info, so a node cannot claim another's NodeID. There is no encryption.
package memory
