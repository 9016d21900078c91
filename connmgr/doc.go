// Package connmgr keeps the wanted connections up: one engine that dials and
// accepts, with limits, eviction and ordered events, and on top of it a
// connection manager for programs that speak net.Conn.
//
// # The engine
//
// An [Engine] is mechanism, generic over a target A and a connection C. It knows
// how to dial, accept, shake hands, count, close, announce, and end. Whom to
// dial and when, what a failure means and who has to go when the house is full
// is decided by a [Policy]; the engine holds no targets and no retry state.
//
//	policy.Next -> gate -> Dial --+
//	                              +-> Establish -> gate -> Admit -> Connected ... Disconnected
//	Accept ------> gate ----------+   (handshake)  (identity)
//
// A connection passes two checkpoints: by address, before anything is spent on
// it, and by identity, after the handshake. Then it is announced: Connected,
// and after it was closed Disconnected, one after another on a goroutine of the
// connection's own. Every Dial that Policy.Next named is ended by exactly one
// Policy.Ended. [Engine.Run] returns when every dial, timer, callback and
// connection is gone, and names what holds it up.
//
//	e, err := connmgr.NewEngine(connmgr.EngineConfig[string, net.Conn]{
//		Policy: policy,
//		Dial: func(ctx context.Context, to string) (net.Conn, error) {
//			return dialer.DialContext(ctx, "tcp", to)
//		},
//		Accept:    []func() (net.Conn, error){listener.Accept},
//		Stop:      func() { listener.Close() },
//		RemoteIP:  remoteIP,
//		Connected: func(c *connmgr.Conn[string, net.Conn]) { defer c.Close(); serve(c.Raw()) },
//		Limits:    connmgr.DefaultLimits(),
//	})
//	...
//	err = e.Run(ctx)
//
// # The gate
//
// [Limits] is the one model of what is let in: in all, by direction, host,
// prefix and address group, handshakes in progress, attempts by source, and
// floods. The zero value limits nothing, [DefaultLimits] are for the open
// internet. A connection that is refused is closed at once, so that no queue
// builds up and Accept is never blocked. The refusal is a [*Refusal]: typed,
// counted in [Snapshot], and explained by [Engine.Explain], which names the
// field to change. When the house is full and Limits.Evict is set, the policy
// names who makes room; [LeastUseful] is the choice that an attacker with few
// networks cannot turn against the others.
//
// # The connection manager
//
// [ConnManager] is the engine over net.Conn with the request table as its
// policy, under the names of btcd's connection manager: New, Start, Stop, Wait,
// Connect, Disconnect, Remove. A [ConnReq] is a wish for a connection, of a
// [Kind]: automatic ones are kept at a number, permanent ones are dialled again
// for as long as they are listed, with growing pauses until a connection has
// lived for a while. [DynamicBanScore], [SeedFromDNS] and [TorLookupIP] are what
// such programs need beside it.
//
// # Duties of the caller
//
//  1. Close connections through [Conn.Close] or CloseWith, never the raw one:
//     the engine counts what it knows.
//  2. Whoever reads from a connection closes it when the reading ends. The
//     engine does not read, so it cannot see that the other side hung up.
//  3. EngineConfig.Stop makes every Accept return. Dial and Establish mind their
//     contexts, or Run waits for them.
//  4. Admit and the methods of a Policy do not block. Connected may, for as long
//     as the connection lives.
//  5. The policy, not the engine, lets the pauses between dials grow.
//
// # Costs
//
// An idle connection costs one goroutine and about 4 KiB, stack included, beside
// what it wraps. A check at the door takes well under a microsecond. Nothing is
// started that Run does not wait for.
package connmgr
