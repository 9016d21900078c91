// Package access decides who may use what. Everything is closed until it is
// opened: a service without a rule serves nobody, and a rule lists the peers
// it serves, or says in so many words that it serves all.
//
// All checks of kith live here: a tunnel asks Check before it touches a target
// or hands a byte of the connection on, whichever protocol the peer came by.
package access

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Errors of Check: one reason each.
var (
	// ErrNoRule says that the service is not open to anybody.
	ErrNoRule = errors.New("access: no such service")
	// ErrNotAllowed says that the service exists and does not serve this peer.
	ErrNotAllowed = errors.New("access: peer not allowed")
)

// Rule says whom one service serves. The zero value serves nobody.
type Rule struct {
	// Any serves every peer.
	Any bool
	// Peers are served by ID. A peer ID is proven by the handshake of the
	// connection, so nothing else needs checking.
	Peers []peer.ID
}

// Allows reports whether the rule serves p.
func (r Rule) Allows(p peer.ID) bool {
	return p != "" && (r.Any || slices.Contains(r.Peers, p))
}

// Control holds the rules of one node. The zero value is ready to use and
// closed. It is safe for concurrent use and never blocks on anything but its
// own short lock.
type Control struct {
	mu    sync.RWMutex
	rules map[string]Rule // by service name
}

// Set replaces the rule of a service; the new rule holds for every connection
// opened after Set returns.
func (c *Control) Set(service string, r Rule) {
	r.Peers = slices.Clone(r.Peers)
	slices.Sort(r.Peers)
	r.Peers = slices.Compact(r.Peers)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rules == nil {
		c.rules = map[string]Rule{}
	}
	c.rules[service] = r
}

// Remove closes a service to everybody.
func (c *Control) Remove(service string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rules, service)
}

// Knows reports whether any service is open to p.
func (c *Control) Knows(p peer.ID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, r := range c.rules {
		if r.Allows(p) {
			return true
		}
	}
	return false
}

// Check returns nil when p may use the service now, else an error that wraps
// ErrNoRule or ErrNotAllowed.
func (c *Control) Check(service string, p peer.ID) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r, ok := c.rules[service]
	switch {
	case !ok:
		return fmt.Errorf("%w: %q", ErrNoRule, service)
	case !r.Allows(p):
		return fmt.Errorf("%w: %s may not use %q", ErrNotAllowed, p, service)
	}
	return nil
}
