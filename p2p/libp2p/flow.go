package libp2p

import "github.com/kith-p2p/kith/p2p"

var _ p2p.ConcurrentReceiver = (*Connection)(nil)

// ReceiveMessages is for use instead of ReceiveMessage: it calls deliver with every
// message until the session ends, and returns what ReceiveMessage would. Calls for
// one channel follow each other, in order; those for different channels may come at
// the same time. A call that blocks stops its channel only, as far as the peer,
// whose credit is used up. It does not wait for calls that are under way, or begin, as the
// session ends. The bytes are the callee's.
func (c *Connection) ReceiveMessages(deliver func(p2p.ChannelID, []byte)) error {
	if err := c.startReceiving(deliver); err != nil {
		return err
	}
	select {
	case <-c.closed:
		return c.cause
	case <-c.drained:
		return c.goneErr
	}
}
