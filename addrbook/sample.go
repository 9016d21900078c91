package addrbook

import (
	"github.com/kith-p2p/kith/address"
)

// sample returns up to n random addresses for an audience. It looks at no more
// than a few times n entries; of a small book, at all. Not told are hopeless
// addresses, banned, shunned and private peers, and the audience's own.
func (c *core) sample(n int, to Audience, now stamp) []address.NodeAddress {
	var out []address.NodeAddress
	looks := min(len(c.all.items), 4*n+sampleSize)
	for i := 0; i < looks && len(out) < n; i++ {
		c.all.swap(i, i+below(c.random, len(c.all.items)-i)) // Fisher and Yates, as far as needed
		e := c.all.items[i]
		_, private := c.o.PrivatePeers[e.peer.id]
		if private || e.peer.id == to.Peer || e.hopeless(now) || e.peer.ban.active(now) || e.peer.shun.active(now) ||
			c.bans.until(ipOf(e.addr), now) > now || !MayTell(e.addr, to) {
			continue
		}
		out = append(out, e.addr)
	}
	return out
}
