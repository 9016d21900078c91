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
// # Faults
//
// Faults is a schedule of faults for simulations: seeded, weighted, counted.
package p2ptest
