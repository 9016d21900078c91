// Package p2ptest tests what is built on package p2p, or under it. It is public,
// so that others test their transports and reactors with what kith tests its own.
//
// # A transport of your own
//
// TestTransport is the conformance suite of p2p.Transport: what every transport
// has to do so that a Router can run over it. Give it a function that makes two of
// yours, the second one listening:
//
//	func TestConformance(t *testing.T) {
//		p2ptest.TestTransport(t, func(tb testing.TB) p2ptest.Harness {
//			a, b := mytransport.New(...), mytransport.New(...)
//			return p2ptest.Harness{A: a, B: b}
//		})
//	}
//
// Each test runs on a pair of its own, closes what it opened, and checks that no
// goroutine is left. Optional interfaces (p2p.ChunkSender, p2p.ChannelLimits,
// p2p.ConcurrentSender, p2p.Recycler) are tested where connections have them. A test never fails
// for the machine being slow; a transport that hangs fails after Suite.Timeout.
//
// What the suite asks of a transport, beyond the comments in package p2p: it
// carries messages of 0 bytes and of Harness.MaxMessage; a message that was sent
// before Close arrives; sending to a peer that does not read blocks before 64 MiB
// are on the way.
//
// # A network of nodes
//
// Simulate runs a network of nodes, each with its Router, PeerManager, address book
// and peer exchange, over p2p/memory and in the virtual time of testing/synctest,
// while a Plan goes wrong: connections are reset, links get slow or are cut, nodes
// die, move, stop reading and cannot write, hostile peers come by. Give it a
// reactor of yours, and it is tested in all of that:
//
//	func TestMyReactor(t *testing.T) {
//		for seed := range uint64(20) {
//			p2ptest.Simulate(t, p2ptest.NetworkOptions{Seed: seed, Reactor: func(n *p2ptest.Node) func() {
//				r := myreactor.New(n.Router()) // opens its channels
//				return r.Close                 // after the Router has stopped
//			}}, p2ptest.NewPlan(p2ptest.PlanOptions{Seed: seed}))
//		}
//	}
//
// The nodes send each other numbered messages, and a checker looks at what must
// hold: at every node when a fault begins or ends and every two minutes, at the
// node that was told when a peer came or went, at the channel of every message.
//
//   - a node has one session with a peer, none with itself or with one that it has
//     banned, and no more of them than MaxConnected and its like allow; what
//     Router, PeerManager, engine and updates say of peers is the same;
//   - nothing is reserved for ever: what the address book holds is being dialled or
//     connected, dials and handshakes end in their time, requests by their
//     deadline;
//   - messages arrive whole, once and in order; what was accepted was written,
//     waits, or was dropped for a reason that was counted; in the end, what all
//     nodes wrote and received is, message for message, what the network carried;
//   - what waits keeps to its caps, and no send takes any time;
//   - a ban that was saved survives a crash, and one that could not be saved says so;
//   - a hostile peer is refused, cut off or counted, whichever its step asks for.
//
// When the plan is over, every node must be back at its target within two maximal
// pauses between dials, with a peer at least and a way over sessions to every other
// node, and every connection must have a session at both ends. What is left running
// after Close makes synctest fail the test. A fault of the plan that never happened
// is a failure, too; one that nobody met, such as a slow link over which nothing
// went, did not happen.
//
// One seed is one plan: a failure names it, with the steps and events before. How
// goroutines take turns is not decided by the seed, so a failure may need the same
// seed more than once.
//
// What is not simulated: time that nodes see differently, damaged disks (package
// addrbook tests those), real sockets, and the CPU.
//
// # Faults
//
// Faults is a schedule of faults for simulations: seeded, weighted, counted. Plan is
// made from it.
package p2ptest
