package connmgr

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// ConnState says how far a request is.
type ConnState uint8

// The states of a request. The numbers are btcd's and stable.
const (
	// ConnPending: registered, and to be dialled now or at its next turn. Also
	// the state of a permanent request between two connections.
	ConnPending ConnState = iota
	// ConnFailing: the last dial failed. A permanent request is dialled again
	// later, an automatic one replaced; a one-shot one rests like this until it
	// is removed or connected again.
	ConnFailing
	// ConnCanceled: given up before it was connected. Connect refuses it.
	ConnCanceled
	// ConnEstablished: connected.
	ConnEstablished
	// ConnDisconnected: was connected, and is not to be dialled again.
	ConnDisconnected
)

// String is the state in one word.
func (s ConnState) String() string {
	names := [...]string{"pending", "failing", "canceled", "established", "disconnected"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

var (
	// ErrNoAddress is the cause of a request that has no address to dial, or for
	// which Config.GetNewAddress returned none.
	ErrNoAddress = errors.New("connmgr: no address to dial")
	// ErrResting is the cause when Config.GetNewAddress offered an address that
	// keeps accepting and dropping connections before its pause is over.
	ErrResting = errors.New("connmgr: the address keeps dropping connections and is left alone for a while")
)

// ConnReq asks for one connection. Fill in the exported fields and hand it to
// ConnManager.Connect; requests for automatic connections are made by the
// manager. The exported fields must not be written once the request was handed
// over; the methods are safe for concurrent use at any time. A ConnReq must
// not be copied, and belongs to at most one manager at a time.
type ConnReq struct {
	// Addr is where to connect. The manager sets it in the requests that it
	// makes itself, before their OnConnection is called.
	Addr net.Addr
	// Permanent keeps the connection up: it is dialled again whenever it ends,
	// until Remove.
	Permanent bool
	// OtherAddrs are further addresses of the same peer. They are tried in turn
	// after Addr; only when all have failed does the pause before the next
	// attempt begin.
	OtherAddrs []net.Addr

	mu    sync.Mutex // guards what follows, and our own writes to Addr
	id    uint64
	kind  Kind
	state ConnState
	owner *table
}

// ID is the request's number, from 1; 0 before it was handed to a manager.
func (c *ConnReq) ID() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// State says how far the request is.
func (c *ConnReq) State() ConnState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Kind says what the connection is for: KindManual and KindPermanent are what
// Connect was given, the others are the manager's own.
func (c *ConnReq) Kind() Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.id != 0:
		return c.kind
	case c.Permanent:
		return KindPermanent
	}
	return KindManual
}

// String is the address, if there is one, and the number.
func (c *ConnReq) String() string {
	addr, id := c.address(), c.ID()
	if addr == nil || addr.String() == "" {
		return fmt.Sprintf("reqid %d", id)
	}
	return fmt.Sprintf("%s (reqid %d)", addr, id)
}

func (c *ConnReq) setState(s ConnState) {
	c.mu.Lock()
	c.state = s
	c.mu.Unlock()
}

func (c *ConnReq) setAddr(a net.Addr) {
	c.mu.Lock()
	c.Addr = a
	c.mu.Unlock()
}

func (c *ConnReq) address() net.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Addr
}

// claim makes the request t's under a new id, unless it is another table's or
// was cancelled before.
func (c *ConnReq) claim(t *table, id uint64, kind Kind) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owner != nil || c.id != 0 && c.state == ConnCanceled {
		return false
	}
	c.owner, c.id, c.kind, c.state = t, id, kind, ConnPending
	return true
}

// reclaim takes the request back under the id it had, if it still has it.
func (c *ConnReq) reclaim(t *table, id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owner != nil || c.id != id {
		return false
	}
	c.owner, c.state = t, ConnPending
	return true
}

// release ends the request's life in its table.
func (c *ConnReq) release(s ConnState) {
	c.mu.Lock()
	c.owner, c.state = nil, s
	c.mu.Unlock()
}

// ConnOption changes what one call of ConnManager.Disconnect does.
type ConnOption func(*connOptions)

type connOptions struct{ again bool }

// WithTriggerReconnect has the same address dialled once more after the
// disconnection, also if the request is not permanent. It works, too, for a
// connection that its user has closed before, if it is one of the last 64
// such.
func WithTriggerReconnect() ConnOption {
	return func(o *connOptions) { o.again = true }
}

// RequestInfo describes one request of a manager, in Snapshot.Requests.
type RequestInfo struct {
	ID    uint64
	Kind  Kind
	State ConnState
	// Addr is the address of the request, nil for an automatic one that has
	// none yet.
	Addr net.Addr
	// Since is when the connection came up; zero unless established.
	Since time.Time
	// Retries counts the failures and short-lived connections in a row.
	Retries int
	// Next is when it is dialled (or replaced) next; zero: at once, or never
	// because it is connected, being dialled or at rest.
	Next time.Time
	// Cause is why the last dial or connection ended, nil if none did.
	Cause error
}
