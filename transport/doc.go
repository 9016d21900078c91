// Package transport carries bytes by multiaddr: it dials and listens, and keeps a circuit breaker per address, so that
// an address that does not answer is not tried over and over.
//
//	t := transport.New(transport.Options{})
//	c, err := t.Dial(ctx, ma.StringCast("/dns/example.com/tcp/4001"), false)
//	if open, ok := errors.AsType[*transport.OpenError](err); ok {
//		// it failed five times in a row; the next attempt is allowed at open.RetryAt
//	}
//
// # Addresses
//
//	/ip4/1.2.3.4/tcp/4001, /ip6/::1/tcp/4001      TCP; /ip6zone/eth0 may stand before a link-local ip6
//	/dns/NAME/tcp/4001, /dns4/..., /dns6/...      TCP to what the name resolves to, of both families or one
//	/unix/run/x.sock                              a unix socket
//	/p2p/ID, /ip4/.../udp/4001/quic-v1/p2p/ID     a peer, through the PeerNetwork of the Options
//
// Anything else is refused with an *AddressError before a packet is sent, and where one component is to blame, with the
// *address.UnsupportedError that names it: /ip4/1.2.3.4/udp/9090/quic is not dialled as UDP, nor /tcp/80/ws as TCP, and
// a /p2p/ID is not ignored when there is no PeerNetwork to prove it.
//
// A name is resolved under the caller's context. If it has several IPs they are tried as RFC 8305 (Happy Eyeballs)
// says: families take turns, the next attempt starts when the last one has failed or after 250 ms, and the first
// connection wins.
//
// # Breakers
//
// A Breaker is closed at first: everything passes. After Options.Threshold failures in a row it opens: Dial fails at
// once with an *OpenError, which matches ErrBreakerOpen and says when the next attempt is let through. From then it is
// half-open: one attempt passes, as the trial. If it succeeds the breaker closes and has forgotten everything; if it
// fails the breaker opens again, for about twice as long.
//
// What counts: an attempt that ended with any error is a failure, one that ran out of time too, be it Options.Timeout
// or the caller's own deadline (an address that swallows packets would otherwise never be found out, since callers
// with deadlines are the rule). An attempt that its caller cancelled counts as nothing, and so does one whose context
// was over, or whose address was refused, before it began.
//
// Breakers are state machines without goroutine or timer; they live in a Panel of bounded size. The breaker is the only
// thing in Dial that holds attempts back. Whoever calls Dial decides when to dial, and must not add a second delay for
// the same address on top.
//
// # Duties of the caller
//
// Close what Dial and Accept return. A Transport itself holds nothing that must be closed. TCP and unix sockets are
// neither encrypted nor authenticated: do that on top, or use /p2p/ID, where the PeerNetwork does it.
package transport
