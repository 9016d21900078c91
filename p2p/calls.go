package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
)

// Errors of requests.
var (
	// ErrRequestUnsupported says that the peer does not take requests on the
	// channel: both sides have to open it with requests.
	ErrRequestUnsupported = errors.New("p2p: the peer takes no requests on the channel")
	// ErrTooManyRequests says that as many requests as may be wait for replies.
	ErrTooManyRequests = errors.New("p2p: too many requests wait for replies")
	// ErrNotARequest says that a message that wants no reply was replied to.
	ErrNotARequest = errors.New("p2p: the message is not a request")
	// ErrReplyUnwanted says that nobody waits for a reply any more: it was given,
	// the deadline passed, the peer gave up, or its connection ended.
	ErrReplyUnwanted = errors.New("p2p: nobody waits for the reply")
)

const (
	// maxOutgoingCalls is how many requests of one channel may wait for replies.
	maxOutgoingCalls = 4096
	// maxIncomingCalls is how many requests of one peer on one channel may wait
	// for our replies; more are dropped and counted.
	maxIncomingCalls = 1024
)

// callKey names a request: ids are the requester's own, sessions the engine's.
type callKey struct {
	session uint64
	id      uint64
}

// outgoingCall waits for a reply.
type outgoingCall struct {
	reply chan reply    // one at most
	gone  chan struct{} // closed when the session or the channel ended
}

// reply is a message as it arrived, and the part of it behind its head.
type reply struct{ data, body []byte }

// incomingCall is a request that waits for our reply.
type incomingCall struct {
	c        *channelCore
	p        *remote
	key      callKey
	number   uint64          // ours, never used twice
	ctx      context.Context // ends with the deadline, a cancel, the session, the channel, the reply
	cancel   context.CancelFunc
	unhook   func() bool // what ends it at its deadline; nil without one
	answered atomic.Bool // a reply is on its way
}

// end ends a request, however often it is called.
func (in *incomingCall) end() {
	in.cancel()
	if in.unhook != nil {
		in.unhook()
	}
	in.c.calls.ended(in)
}

// callTable holds the requests of one channel, in both directions.
type callTable struct {
	mu       sync.Mutex // guards all below; nothing is called under it
	next     uint64
	outgoing map[callKey]*outgoingCall
	incoming map[uint64]*incomingCall // by our number
	numbers  map[callKey]uint64       // of the incoming ones
	open     map[uint64]int           // incoming, by session
	closed   bool

	unexpected, overload uint64 // replies nobody waits for; requests above the cap
}

func newCallTable() *callTable {
	return &callTable{
		outgoing: make(map[callKey]*outgoingCall), incoming: make(map[uint64]*incomingCall),
		numbers: make(map[callKey]uint64), open: make(map[uint64]int),
	}
}

// request sends a request and waits for its reply, until the context ends: then
// the peer is told that nobody waits any more.
func (c *channelCore) request(ctx context.Context, to NodeID, m proto.Message) (proto.Message, error) {
	p, err := c.peer(to)
	if err != nil {
		return nil, err
	}
	if !p.calls.Contains(c.id) {
		return nil, fmt.Errorf("%w: %v, %s", ErrRequestUnsupported, to, c.d.Name)
	}
	head := callHead{kind: callRequest}
	if t, ok := ctx.Deadline(); ok {
		head.timeout = max(1, time.Until(t))
	}
	call, key, err := c.calls.register(p)
	if err != nil {
		return nil, err
	}
	defer c.calls.forget(key)
	head.id = key.id
	frame, err := c.frame(head, m)
	if err != nil {
		return nil, err
	}
	if err := c.put(ctx, p, frame, true); err != nil {
		if errors.Is(err, ErrQueueClosed) && !c.closed() {
			err = fmt.Errorf("%w: %w", ErrPeerClosed, err)
		}
		return nil, err
	}
	select {
	case got := <-call.reply:
		m, err := c.codec.decode(got.body)
		if err != nil {
			c.undecodable.Add(1)
			c.r.fault(to, c, err)
			return nil, err
		}
		c.recycle(got.data)
		return m, nil
	case <-call.gone:
		if c.closed() {
			return nil, ErrClosed
		}
		return nil, fmt.Errorf("%w: %v", ErrPeerClosed, to)
	case <-ctx.Done():
		_ = c.put(context.Background(), p, callHead{kind: callCancel, id: key.id}.append(nil), false)
		return nil, ctx.Err()
	}
}

func (t *callTable) register(p *remote) (*outgoingCall, callKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, callKey{}, ErrClosed
	}
	if len(t.outgoing) >= maxOutgoingCalls {
		return nil, callKey{}, ErrTooManyRequests
	}
	t.next++
	call := &outgoingCall{reply: make(chan reply, 1), gone: make(chan struct{})}
	key := callKey{p.number, t.next}
	t.outgoing[key] = call
	return call, key, nil
}

func (t *callTable) forget(key callKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.outgoing, key)
}

// reply hands a reply to the request that waits for it. Only the first counts.
func (t *callTable) reply(p *remote, id uint64, r reply) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := callKey{p.number, id}
	call := t.outgoing[key]
	if call == nil {
		t.unexpected++
		return
	}
	delete(t.outgoing, key)
	call.reply <- r
}

// arrive registers a request from a peer; nil if it is one too many, or has an id
// that is in use.
func (t *callTable) arrive(c *channelCore, p *remote, head callHead) *incomingCall {
	in := &incomingCall{c: c, p: p, key: callKey{p.number, head.id}}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, twice := t.numbers[in.key]
	if t.closed || twice || !c.d.Requests || t.open[p.number] >= maxIncomingCalls {
		t.overload++
		return nil
	}
	if head.timeout > 0 {
		in.ctx, in.cancel = context.WithTimeout(context.Background(), head.timeout)
		in.unhook = context.AfterFunc(in.ctx, func() { t.ended(in) })
	} else {
		in.ctx, in.cancel = context.WithCancel(context.Background())
	}
	t.next++
	in.number = t.next
	t.incoming[in.number], t.numbers[in.key] = in, in.number
	t.open[p.number]++
	return in
}

// ended forgets a request whose context is over.
func (t *callTable) ended(in *incomingCall) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.incoming[in.number] != in {
		return
	}
	delete(t.incoming, in.number)
	delete(t.numbers, in.key)
	if t.open[in.key.session]--; t.open[in.key.session] == 0 {
		delete(t.open, in.key.session)
	}
}

// lookup is a request that still wants a reply, nil otherwise.
func (t *callTable) lookup(number uint64) *incomingCall {
	t.mu.Lock()
	defer t.mu.Unlock()
	if in := t.incoming[number]; in != nil && in.ctx.Err() == nil {
		return in
	}
	return nil
}

// cancel ends a request whose sender waits no more.
func (t *callTable) cancel(p *remote, id uint64) {
	t.mu.Lock()
	in := t.incoming[t.numbers[callKey{p.number, id}]]
	t.mu.Unlock()
	if in != nil {
		in.end()
	}
}

func (t *callTable) sessionEnded(p *remote) { t.endAll(func(s uint64) bool { return s == p.number }) }

func (t *callTable) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.endAll(func(uint64) bool { return true })
}

func (t *callTable) endAll(of func(session uint64) bool) {
	t.mu.Lock()
	var over []*incomingCall
	for _, in := range t.incoming {
		if of(in.key.session) {
			over = append(over, in)
		}
	}
	for key, call := range t.outgoing {
		if of(key.session) {
			delete(t.outgoing, key)
			close(call.gone)
		}
	}
	t.mu.Unlock()
	for _, in := range over {
		in.end()
	}
}

// respond answers a request, once, on the session it came from. A reply that
// could not be queued was none: another may follow.
func (in *incomingCall) respond(ctx context.Context, m proto.Message) error {
	if in == nil {
		return ErrNotARequest
	}
	frame, err := in.c.frame(callHead{kind: callReply, id: in.key.id}, m)
	if err != nil {
		return err
	}
	if in.ctx.Err() != nil || !in.answered.CompareAndSwap(false, true) {
		return ErrReplyUnwanted
	}
	if err := in.c.put(ctx, in.p, frame, true); err != nil {
		in.answered.Store(false)
		return err
	}
	in.end()
	return nil
}
