package connmgr

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// EngineConfig is what an Engine is made of. Zero values mean the defaults. The
// callbacks are called without a lock held, from several goroutines at a time.
type EngineConfig[A any, C io.Closer] struct {
	// Policy decides whom to dial and who is evicted. Required (ErrPolicyNil).
	Policy Policy[A]
	// Dial connects to one target. The context ends when the dial is cancelled,
	// when DialTimeout passes, or when the engine stops; a connection that
	// comes later is closed. A Dial that ignores its context holds up nobody but
	// Run: the policy is told at once that the dial is over. Until Dial returns
	// it counts as one of MaxDials. Required (ErrDialNil).
	Dial func(context.Context, A) (C, error)
	// Accept returns the next inbound connection; one loop runs for each. An
	// error is retried with growing pauses (at most 20 tries a second), unless it
	// is io.EOF or net.ErrClosed, which end the loop. Run does not return before
	// every loop ended: closing the listeners on stop is Stop's job. Nothing is
	// accepted if Connected is nil.
	//
	// A connection that the limits refuse is closed at once, by the loop: the
	// Close of one that was just accepted must not block.
	Accept []func() (C, error)
	// Stop is called once when the engine stops; it must make every Accept
	// return. Nil: nothing.
	Stop func()
	// Establish makes a connection usable (a handshake), inside the cap on
	// pending ones and with EstablishTimeout. When that passes, the connection
	// is cancelled or the engine stops, the context ends and the connection is
	// closed, so that a read on it returns. What speaks against a connection,
	// whoever it is, belongs here: it is asked before anyone is evicted for it.
	// Nil: nothing to do, and nobody is pending, but who waits for a victim of
	// Limits.Evict to close.
	Establish func(context.Context, C, EstablishInfo[A]) error
	// Identify names who is at the other end, after Establish: the key for
	// duplicates and for Explain. Nil or "": unknown.
	Identify func(C) string
	// RemoteIP is the address a connection is counted under. Nil or an invalid
	// Addr: not counted by host, prefix or group.
	RemoteIP func(C) netip.Addr
	// TargetIP is the address a dial is counted under before it is made. If it
	// is nil, or says an invalid Addr, or RemoteIP says another one, the dialled
	// connection is counted, and perhaps refused, by RemoteIP.
	TargetIP func(A) netip.Addr
	// Group is the address group of an IP. Nil: AddressGroup.
	Group func(netip.Addr) string
	// Admit is the last word on a connection that passed every check of the
	// engine: the second checkpoint, where who it is is known. After nil,
	// Connected and Disconnected are each called once; an error closes the
	// connection and is the cause of Ended. It must not block. Nil: all.
	Admit func(C, EstablishInfo[A]) error
	// Refused is told of a connection that the limits refuse after its Establish,
	// before it is closed: the time for a last word to the other side. It must not
	// block. Nil: nothing.
	Refused func(C, *Refusal)
	// Connected and Disconnected announce a connection. For one connection they
	// run one after another on one goroutine, Connected always first; a call
	// that blocks delays only its own connection. Disconnected is called after
	// the connection is closed and Connected has returned, so Connected may
	// run the connection for all its life. Disconnected is not called for
	// connections that were never announced.
	Connected    func(*Conn[A, C])
	Disconnected func(*Conn[A, C], error)

	// Limits are the gate's. The zero value limits nothing.
	Limits Limits

	DialTimeout      time.Duration // default 30 s
	EstablishTimeout time.Duration // default 10 s
	MaxDials         int           // dials and outbound handshakes at a time; default 64

	Logger *slog.Logger     // nil: discard
	Now    func() time.Time // nil: time.Now (which testing/synctest makes virtual)
	Rand   func() float64   // a number in [0,1); nil: math/rand/v2
}

// EstablishInfo says what is known of a connection before its handshake.
type EstablishInfo[A any] struct {
	ID        uint64
	Direction Direction
	Dial      Dial[A] // zero for inbound
}

// What NewEngine and Run refuse.
var (
	// ErrDialNil is returned for a configuration without a way to dial.
	ErrDialNil = errors.New("connmgr: Dial is nil")
	// ErrPolicyNil is returned for a configuration without a policy.
	ErrPolicyNil = errors.New("connmgr: Policy is nil")
	// ErrAlreadyRun is returned by the second Run: an engine runs once.
	ErrAlreadyRun = errors.New("connmgr: Run was called before; make a new Engine")
)

// Why a connection or a dial ended, if nobody said otherwise.
var (
	// ErrClosed: by Conn.Close.
	ErrClosed = errors.New("connmgr: closed by us")
	// ErrDropped: by Engine.Drop or Engine.Close without a cause.
	ErrDropped = errors.New("connmgr: dropped by us")
	// ErrEvicted: to make room for a newcomer (Limits.Evict).
	ErrEvicted = errors.New("connmgr: evicted: all places were taken and this connection was the least useful")
	// ErrStopped: the engine stopped. Also returned by Admit after that.
	ErrStopped = errors.New("connmgr: stopped")
	// ErrNoConnection: Dial or Accept returned neither a connection nor an error.
	ErrNoConnection = errors.New("connmgr: neither a connection nor an error")
)

const (
	defaultDialTimeout      = 30 * time.Second
	defaultEstablishTimeout = 10 * time.Second
	defaultMaxDials         = 64
)

type runPhase uint8

const (
	phaseNew runPhase = iota
	phaseRunning
	phaseStopping
	phaseEnded
)

// An Engine dials whom its Policy names and accepts who comes. See the package
// comment. Its methods are safe for concurrent use; a policy and the callbacks
// may call them, but for Run.
type Engine[A any, C io.Closer] struct {
	cfg EngineConfig[A, C] // with defaults; read only
	hub hub

	ctx  context.Context         // ends with ErrStopped when the engine stops
	stop context.CancelCauseFunc // ends it
	wake chan struct{}           // a token for the dial loop
	idle chan struct{}           // closed when a stopping engine has no task left

	// mu guards what follows. It is never held over I/O, a send, or a callback.
	mu      sync.Mutex
	phase   runPhase
	lastID  uint64
	gate    *gate
	pending map[uint64]*Conn[A, C] // dials and handshakes
	conns   map[uint64]*Conn[A, C] // established
	dials   int                    // outbound ones in pending
	hung    int                    // dials that are over, but Dial has not returned
	busy    map[Kind]int           // dials and hung, by kind
	asking  bool                   // the policy is about to name a dial
	drops   []drop[A]              // what was dropped meanwhile
	tasks   map[*task]struct{}
	count   Counters
}

// NewEngine makes an engine that has not started. It returns all faults of the
// configuration, joined: ErrDialNil, ErrPolicyNil, and a *ConfigError each.
func NewEngine[A any, C io.Closer](cfg EngineConfig[A, C]) (*Engine[A, C], error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.DialTimeout = or(cfg.DialTimeout, defaultDialTimeout)
	cfg.EstablishTimeout = or(cfg.EstablishTimeout, defaultEstablishTimeout)
	cfg.MaxDials = or(cfg.MaxDials, defaultMaxDials)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	if cfg.Group == nil {
		cfg.Group = AddressGroup
	}
	if cfg.Establish == nil && !cfg.Limits.Evict { // nobody waits for anything
		cfg.Limits.Pending, cfg.Limits.PendingPerHost = 0, 0
	}
	e := &Engine[A, C]{
		cfg:     cfg,
		hub:     hub{subscribers: make(map[*Events]struct{})},
		wake:    make(chan struct{}, 1),
		idle:    make(chan struct{}),
		gate:    newGate(cfg.Limits),
		pending: make(map[uint64]*Conn[A, C]),
		conns:   make(map[uint64]*Conn[A, C]),
		busy:    make(map[Kind]int),
		tasks:   make(map[*task]struct{}),
	}
	e.ctx, e.stop = context.WithCancelCause(context.Background())
	return e, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (cfg *EngineConfig[A, C]) validate() error {
	var faults []error
	bad := func(field, problem string) { faults = append(faults, &ConfigError{field, problem}) }
	if cfg.Dial == nil {
		faults = append(faults, ErrDialNil)
	}
	if cfg.Policy == nil {
		faults = append(faults, ErrPolicyNil)
	}
	for _, accept := range cfg.Accept {
		if accept == nil {
			bad("Accept", "one of the functions is nil")
		}
	}
	if cfg.DialTimeout < 0 {
		bad("DialTimeout", "negative; 0 means 30 s")
	}
	if cfg.EstablishTimeout < 0 {
		bad("EstablishTimeout", "negative; 0 means 10 s")
	}
	if cfg.MaxDials < 0 {
		bad("MaxDials", "negative; 0 means 64")
	}
	l := cfg.Limits
	if err := l.Validate(); err != nil {
		faults = append(faults, err)
	}
	if cfg.RemoteIP == nil && (l.Inbound.byAddress() || l.PendingPerHost != 0 || l.Rate > 0 || l.FloodRate > 0) {
		bad("RemoteIP", "nil, but Limits.Inbound.Per..., PendingPerHost, Rate or FloodRate need addresses")
	}
	if cfg.RemoteIP == nil && cfg.TargetIP == nil && l.Outbound.byAddress() {
		bad("RemoteIP", "nil, and TargetIP too, but Limits.Outbound.Per... need addresses")
	}
	if cfg.Identify == nil && l.RefuseDuplicates {
		bad("Identify", "nil, but Limits.RefuseDuplicates needs identities")
	}
	return errors.Join(faults...)
}

// Run dials and accepts until ctx is over, then stops: dials and handshakes are
// cancelled, Config.Stop is called, every connection is closed with ErrStopped.
// It returns nil when every dial, accept loop, callback and connection is gone.
// It waits for callbacks that block, and after 5 s, and again with growing
// pauses, logs which. A second Run returns ErrAlreadyRun.
func (e *Engine[A, C]) Run(ctx context.Context) error {
	e.mu.Lock()
	if e.phase != phaseNew {
		e.mu.Unlock()
		return ErrAlreadyRun
	}
	e.phase = phaseRunning
	e.mu.Unlock()

	loop := &task{of: name("the dial loop")}
	e.spawn(loop, func() { e.dialLoop(loop) })
	if e.cfg.Connected != nil {
		for _, accept := range e.cfg.Accept {
			t := &task{of: name("an accept loop")}
			e.spawn(t, func() { e.acceptLoop(t, accept) })
		}
	}
	<-ctx.Done()

	stopping := &task{of: name("the engine")}
	e.mu.Lock()
	e.phase = phaseStopping
	e.begin(stopping) // so that the list is not empty before all are told
	e.stop(ErrStopped)
	conns := make([]*Conn[A, C], 0, len(e.conns))
	for _, c := range e.conns {
		conns = append(conns, c)
	}
	e.mu.Unlock()
	// Each on its own: one Close that blocks delays no other.
	for _, c := range conns {
		e.spawn(new(task), func() { c.CloseWith(ErrStopped) })
	}
	if e.cfg.Stop != nil {
		e.run(stopping, func() {
			stopping.enter(stageStop)
			e.cfg.Stop()
			stopping.leave(stageStop)
		})
	} else {
		e.finish(stopping)
	}
	e.await()

	e.mu.Lock()
	e.phase = phaseEnded
	e.mu.Unlock()
	e.hub.end()
	return nil
}

// Wake makes the engine ask the policy again, now. It never blocks. In any
// phase; after Run has ended it does nothing.
func (e *Engine[A, C]) Wake() {
	select {
	case e.wake <- struct{}{}:
	default: // it will ask anyway
	}
}

// dialling is how many of MaxDials the dials of these kinds take.
func (e *Engine[A, C]) dialling(kinds ...Kind) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, k := range kinds {
		n += e.busy[k]
	}
	return n
}

// A drop is what Drop was asked for while the policy was naming a dial.
type drop[A any] struct {
	match func(Dial[A]) bool
	cause error
}

// Drop cancels the dials and handshakes, and closes the connections, whose Dial
// matches (nil: all outbound ones), with the cause (nil: ErrDropped), and
// returns how many. A dial that the policy named before is covered even if it
// did not start yet (and is then not counted). match must not block. Drop
// blocks as long as the connections' Close and the policy's Ended. In any
// phase.
func (e *Engine[A, C]) Drop(match func(Dial[A]) bool, cause error) int {
	if match == nil {
		match = func(Dial[A]) bool { return true }
	}
	if cause == nil {
		cause = ErrDropped
	}
	e.mu.Lock()
	if e.asking {
		e.drops = append(e.drops, drop[A]{match, cause})
	}
	var all []*Conn[A, C]
	for _, m := range []map[uint64]*Conn[A, C]{e.pending, e.conns} {
		for _, c := range m {
			if c.permit.direction == Outbound {
				all = append(all, c)
			}
		}
	}
	e.mu.Unlock()
	n := 0
	for _, c := range all {
		if match(c.dial) && c.end(cause) {
			n++
		}
	}
	return n
}

// Close cancels the dial or handshake, or closes the connection, with that
// number, with the cause (nil: ErrDropped). It reports whether there was one.
// It blocks as Conn.CloseWith does. In any phase.
func (e *Engine[A, C]) Close(id uint64, cause error) bool {
	if cause == nil {
		cause = ErrDropped
	}
	e.mu.Lock()
	c := e.pending[id]
	if c == nil {
		c = e.conns[id]
	}
	e.mu.Unlock()
	return c != nil && c.end(cause)
}
