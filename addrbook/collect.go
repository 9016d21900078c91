package addrbook

import (
	"net/netip"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// changed is what the store does not have yet.
type changed struct {
	entries []*entry                         // those that say unsaved
	addrs   map[address.NodeAddress]struct{} // that went, or could not be saved
	peers   map[identity.NodeID]struct{}
	bans    map[netip.Prefix]struct{}
	meta    map[string]struct{}
	aside   []Change // damaged rows on their way to where they are kept
}

func newChanged() changed {
	return changed{nil, map[address.NodeAddress]struct{}{}, map[identity.NodeID]struct{}{}, map[netip.Prefix]struct{}{}, map[string]struct{}{}, nil}
}

func (d *changed) len() int {
	return len(d.entries) + len(d.addrs) + len(d.peers) + len(d.bans) + len(d.meta) + len(d.aside)
}

// collect takes at least n rows out of d, if it has so many, and returns them
// as they are now.
func (c *core) collect(d *changed, n int) (rows []Change) {
	put := func(kind byte, name string, value []byte) {
		rows = append(rows, Change{string(kind) + name, value})
	}
	rows = append(rows, d.aside...)
	d.aside = nil
	for name := range d.meta {
		put(rowMeta, name, c.encodeMeta(name))
		delete(d.meta, name)
	}
	for p := range d.bans {
		if len(rows) >= n {
			return rows
		}
		var v []byte
		if s, ok := c.bans.rows[p]; ok {
			v = encodeBan(s)
		}
		put(rowPrefix, p.String(), v)
		delete(d.bans, p)
	}
	for id := range d.peers {
		if len(rows) >= n {
			return rows
		}
		var v []byte
		if r := c.peers[id]; r != nil {
			v = encodeRecord(r)
		}
		put(rowPeer, string(id), v)
		delete(d.peers, id)
	}
	for len(d.entries) > 0 {
		if len(rows) >= n {
			return rows
		}
		last := len(d.entries) - 1
		e := d.entries[last]
		d.entries[last], d.entries = nil, d.entries[:last]
		e.unsaved = false
		if c.addrs[e.addr] == e { // else it went, and is among addrs
			put(rowAddress, e.addr.String(), encodeEntry(e))
		}
	}
	for a := range d.addrs {
		if len(rows) >= n {
			return rows
		}
		var v []byte
		if e := c.addrs[a]; e != nil {
			v = encodeEntry(e)
		}
		put(rowAddress, a.String(), v)
		delete(d.addrs, a)
	}
	return rows
}

// uncollect says that rows were not written after all.
func (c *core) uncollect(rows []Change) {
	for _, row := range rows {
		if row.Key == "" {
			c.dirty.aside = append(c.dirty.aside, row)
			continue
		}
		switch name := row.Key[1:]; row.Key[0] {
		case rowAddress:
			if a, err := address.ParseNodeAddress(name); err == nil && a.String() == name {
				c.dirty.addrs[a] = struct{}{}
				continue
			}
		case rowPeer:
			if id := identity.NodeID(name); id.Validate() == nil {
				c.dirty.peers[id] = struct{}{}
				continue
			}
		case rowPrefix:
			if p, err := netip.ParsePrefix(name); err == nil {
				c.dirty.bans[p] = struct{}{}
				continue
			}
		case rowMeta:
			switch name {
			case metaSecret, metaSelf, metaAnchors, metaShape:
				c.dirty.meta[name] = struct{}{}
				continue
			}
		}
		c.dirty.aside = append(c.dirty.aside, row)
	}
}
