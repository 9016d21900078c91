package rpc

import (
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/access"
)

// Allow makes access rules the Authorize hook of a server: a method is open to
// whom the rule of its protocol ID serves, and does not exist for anybody else.
// The built-in methods are open to every peer that may use anything at all. The
// rules may change at any time; the next call sees it.
func Allow(c *access.Control) func(Caller) error {
	return func(who Caller) error {
		if strings.HasPrefix(who.Method, builtInPrefix) {
			if c.Knows(who.Peer) {
				return nil
			}
			return access.ErrNoRule
		}
		return c.Check(who.Method, who.Peer)
	}
}

// AllowPeers is an Authorize hook for a fixed list of peers, for all methods.
func AllowPeers(ids ...peer.ID) func(Caller) error {
	rule := access.Rule{Peers: ids}
	return func(who Caller) error {
		if rule.Allows(who.Peer) {
			return nil
		}
		return access.ErrNotAllowed
	}
}
