package connmgr

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// requests is the request table behind a lock: the Policy of the btcd face.
// The lock is never held while an address is asked for or dialled.
type requests struct {
	engine interface { // set once, before use
		Drop(match func(Dial[target]) bool, cause error) int
		Wake()
		dialling(...Kind) int
	}
	unasked int // of the engine's dials, how many may be automatic or feelers
	now     func() time.Time
	dial    func(context.Context, net.Addr) (net.Conn, error)
	source  map[Kind]func() (net.Addr, error) // where kinds without an address get one

	mu    sync.Mutex
	table *table // guarded by mu
}

var _ Policy[target] = (*requests)(nil)

// Next is Policy's.
func (r *requests) Next(now time.Time) (Dial[target], time.Time, bool) {
	busy := r.engine.dialling(KindAutomatic, KindFeeler)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.held = busy >= r.unasked
	return r.table.next(now)
}

// Ended is Policy's.
func (r *requests) Ended(d Dial[target], o Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.ended(d, o)
}

// Victim is Policy's.
func (r *requests) Victim(candidates []Candidate) (uint64, bool) { return LeastUseful(candidates) }

// reach is the dial step: it asks for an address if the request has none.
func (r *requests) reach(ctx context.Context, t target) (net.Conn, error) {
	if t.addr == nil {
		addr, err := r.source[t.req.Kind()]()
		if err != nil {
			return nil, fmt.Errorf("connmgr: no new address: %w", err)
		}
		if addr == nil {
			return nil, ErrNoAddress
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := r.resolved(t.req.ID(), addr); err != nil {
			return nil, err
		}
		t.addr = addr
	}
	return r.dial(ctx, t.addr)
}

func (r *requests) resolved(id uint64, addr net.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.resolved(id, addr, r.now())
}

// admit is the engine's last question: dialled connections whose request is
// gone are refused.
func (r *requests) admit(_ net.Conn, info EstablishInfo[target]) error {
	if info.Direction == Inbound {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.established(info.Dial.Tag, r.now())
}

// order changes the table, has the engine drop what that ended, and has it ask
// again.
func (r *requests) order(change func(now time.Time) (ended func(Dial[target]) bool)) {
	r.mu.Lock()
	ended := change(r.now())
	r.mu.Unlock()
	if ended != nil {
		r.engine.Drop(ended, nil)
	}
	r.engine.Wake()
}

// do is an order that ends nothing.
func (r *requests) do(change func()) {
	r.order(func(time.Time) func(Dial[target]) bool { change(); return nil })
}

func (r *requests) connect(c *ConnReq) { r.do(func() { r.table.connect(c) }) }
func (r *requests) more()              { r.do(r.table.more) }
func (r *requests) resetBackoff()      { r.do(r.table.resetBackoff) }
func (r *requests) stop()              { r.do(r.table.stop) }

func (r *requests) dialNow(id uint64) (listed bool) {
	r.do(func() { listed = r.table.dialNow(id, nil) })
	return listed
}

func (r *requests) disconnect(id uint64, opts []ConnOption) {
	var o connOptions
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	r.order(func(now time.Time) func(Dial[target]) bool { return r.table.disconnect(id, o.again, now) })
}

func (r *requests) remove(id uint64) {
	r.order(func(now time.Time) func(Dial[target]) bool { return r.table.remove(id, now) })
}

// inspect adds the requests to what the engine says.
func (r *requests) inspect(s Snapshot) Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Requests = r.table.requests()
	return s
}
