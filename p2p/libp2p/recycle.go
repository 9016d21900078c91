package libp2p

import "github.com/kith-p2p/kith/p2p"

// Recycle gives the memory of a message back (p2p.Recycle), for later messages of
// any connection. Nobody has to; it spares the collector work. The message, and
// whatever shares its memory, must not be touched afterwards. It may be called from
// any goroutine, after Close too.
func (c *Connection) Recycle(message []byte) { p2p.Recycle(message) }

func recycle(b []byte)    { p2p.Recycle(b) }
func buffer(n int) []byte { return p2p.Buffer(n) }
