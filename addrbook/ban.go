package addrbook

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/kith-p2p/kith/identity"
)

// Ban says who is banned, for how long and why.
type Ban struct {
	Peer   identity.NodeID // empty for a ban of a prefix
	Prefix netip.Prefix    // zero for a ban of a peer
	Since  time.Time
	Until  time.Time // zero: until it is lifted
	Reason string
}

func (s sanction) ban() Ban {
	return Ban{Since: s.since.time(), Until: s.until.time(), Reason: s.reason}
}

// String says it to a person.
func (b Ban) String() string {
	who := string(b.Peer)
	if b.Prefix.IsValid() {
		who = b.Prefix.String()
	}
	until := "until it is lifted"
	if !b.Until.IsZero() {
		until = "until " + b.Until.UTC().Format(time.RFC3339)
	}
	if b.Reason == "" {
		return fmt.Sprintf("%s is banned %s", who, until)
	}
	return fmt.Sprintf("%s is banned %s: %s", who, until, b.Reason)
}

// prefixBans holds the bans of IP prefixes. A look-up asks once for each
// length of prefix that occurs.
type prefixBans struct {
	rows    map[netip.Prefix]sanction
	lengths [2][129]int // IPv4, IPv6: how many rows have this length
}

func family(ip netip.Addr) int {
	if ip.Is4() {
		return 0
	}
	return 1
}

func (b *prefixBans) set(p netip.Prefix, s sanction) {
	if _, ok := b.rows[p]; !ok {
		b.lengths[family(p.Addr())][p.Bits()]++
	}
	b.rows[p] = s
}

func (b *prefixBans) clear(p netip.Prefix) bool {
	if _, ok := b.rows[p]; !ok {
		return false
	}
	b.lengths[family(p.Addr())][p.Bits()]--
	delete(b.rows, p)
	return true
}

// find returns the ban of ip that holds longest.
func (b *prefixBans) find(ip netip.Addr, now stamp) (p netip.Prefix, s sanction, ok bool) {
	if len(b.rows) == 0 || !ip.IsValid() {
		return p, s, false
	}
	ip = ip.Unmap().WithZone("")
	for bits, n := range b.lengths[family(ip)][:ip.BitLen()+1] {
		if n == 0 {
			continue
		}
		q := netip.PrefixFrom(ip, bits).Masked()
		if t, found := b.rows[q]; found && t.active(now) && (!ok || t.until > s.until) {
			p, s, ok = q, t, true
		}
	}
	return p, s, ok
}

func (b *prefixBans) until(ip netip.Addr, now stamp) stamp {
	_, s, _ := b.find(ip, now)
	return s.until
}

// maxPrefixes is how many prefixes can be banned.
const maxPrefixes = 4096

func normalPrefix(p netip.Prefix) (netip.Prefix, error) {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if !p.IsValid() || p.Bits() == 0 || p.Addr().Is4In6() {
		return p, fmt.Errorf("addrbook: %s cannot be banned: give a prefix of at least one bit, such as 192.0.2.0/24", p)
	}
	return p.Masked(), nil
}

// banPrefix sets or lifts the ban of a prefix and places every address anew
// that it concerns.
func (c *core) banPrefix(p netip.Prefix, s sanction, now stamp) error {
	if s.since == 0 {
		c.bans.clear(p)
	} else {
		if _, ok := c.bans.rows[p]; !ok && len(c.bans.rows) >= maxPrefixes && !c.lapsedBan(now) {
			return fmt.Errorf("addrbook: %d prefixes are banned, at most that many are kept: lift some, or ban a shorter prefix", maxPrefixes)
		}
		c.bans.set(p, s)
	}
	c.touchPrefix(p)
	for _, e := range c.all.items {
		if ip := ipOf(e.addr); ip.IsValid() && p.Contains(ip) {
			c.place(e, now)
		}
	}
	return nil
}

// lapsedBan forgets prefix bans that are over.
func (c *core) lapsedBan(now stamp) (some bool) {
	for p, s := range c.bans.rows {
		if !s.active(now) {
			c.bans.clear(p)
			c.touchPrefix(p)
			some = true
		}
	}
	return some
}
