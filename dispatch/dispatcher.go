package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// Errors of the Dispatcher and of what stands on it.
var (
	// ErrClosed says that the Dispatcher, Service or subscription was stopped, or
	// the Service not started yet.
	ErrClosed = errors.New("dispatch: closed")
	// ErrInboxFull says that the Dispatcher does not keep up: more than
	// DispatcherOptions.Inbox messages of one priority wait. The message was
	// dropped; put fewer.
	ErrInboxFull = errors.New("dispatch: inbox full")
	// ErrTooLarge says that a message is longer than MaxMessage.
	ErrTooLarge = errors.New("dispatch: message too large")
)

// DispatcherOptions is what a Dispatcher is made of. The zero value of a field is
// its default.
type DispatcherOptions struct {
	// Inbox and InboxBytes bound what waits to be handed out, of each priority.
	// Defaults 65,536 messages and 64 MiB.
	Inbox, InboxBytes int
	// MaxMessage is the longest message in bytes. Default 1 MiB.
	MaxMessage int
	// FilterMessages and FilterAge bound what the duplicate filter remembers:
	// messages of all types together, each for so long. Defaults 131,072 (about
	// 15 MiB when it is full) and 10 minutes.
	FilterMessages int
	FilterAge      time.Duration
}

func (o DispatcherOptions) withDefaults() DispatcherOptions {
	o.Inbox = cmp.Or(o.Inbox, 65536)
	o.InboxBytes = cmp.Or(o.InboxBytes, 64<<20)
	o.MaxMessage = cmp.Or(o.MaxMessage, p2p.DefaultMaxMessage)
	o.FilterMessages = cmp.Or(o.FilterMessages, 1<<17)
	o.FilterAge = cmp.Or(o.FilterAge, 10*time.Minute)
	return o
}

// Validate reports every fault of the options, joined.
func (o DispatcherOptions) Validate() error {
	o = o.withDefaults()
	var faults []error
	for _, f := range []struct {
		name           string
		n, least, most int
	}{
		{"Inbox", o.Inbox, 1, maxQueue}, {"MaxMessage", o.MaxMessage, 1, 1 << 28}, {"InboxBytes", o.InboxBytes, o.MaxMessage, maxQueue << 10},
		{"FilterMessages", o.FilterMessages, 1, maxQueue}, {"FilterAge", int(o.FilterAge), int(time.Millisecond), int(24 * time.Hour)},
	} {
		if f.n < f.least || f.n > f.most {
			faults = append(faults, fmt.Errorf("dispatch: %s is %d, at least %d and at most %d", f.name, f.n, f.least, f.most))
		}
	}
	return errors.Join(faults...)
}

// Dispatcher hands messages to the subscribers of their type. One goroutine does
// it, and waits for nobody: a subscriber that has no room loses the message, which
// its counts show. All methods are safe for concurrent use.
type Dispatcher struct {
	o     DispatcherOptions
	inbox inbox

	filter *seen // the loop's own

	// credit is told of every message that a subscriber took, by the loop. Set
	// before Start, if at all.
	credit func(from p2p.NodeID, messageType string, weight int)
	// up says whether a peer is connected, so that it has a share of its own of what
	// is remembered as lost; whoever says so calls gone when it no longer is. Set
	// before the first Register, if at all.
	up func(p2p.NodeID) bool

	wanted atomic.Pointer[map[string]*msgType] // those with subscribers; replaced, not changed

	mu       sync.Mutex // guards the fields below; nothing is called under it
	known    map[string]*msgType
	former   TypeStats // of types that were forgotten
	state    runState
	stop     chan struct{}
	finished chan struct{}

	unwanted, tooLarge atomic.Uint64
}

type runState uint8

const (
	stateNew runState = iota
	stateRunning
	stateStopped
)

// registered is a subscriber as one Dispatcher has it.
type registered struct {
	*Subscriber
	// missed is what it lost for want of room, if it wants no duplicates: then a
	// repetition is none. The loop owns it.
	missed *losses
}

// msgType is a type of messages that has, or had, subscribers.
type msgType struct {
	name string
	subs atomic.Pointer[[]registered] // replaced, not changed; under Dispatcher.mu
	how  atomic.Uint32                // its lane, and hashFlag when a subscriber wants no duplicates

	refused, undecodable, dropped atomic.Uint64
	put                           atomic.Uint64 // came into the inbox

	_ [64]byte // what is above is counted by putters, what is below by the loop

	received, bytes, duplicates atomic.Uint64
	discarded                   atomic.Uint64 // never came out of the inbox
}

// waiting is how many are in the inbox.
func (t *msgType) waiting() int {
	out := t.received.Load() + t.discarded.Load() // first, so that it is never more than what was put
	return int(t.put.Load() - out)
}

const hashFlag = 1 << 8

// NewDispatcher makes a Dispatcher. Messages may be put before Start: they wait.
func NewDispatcher(o DispatcherOptions) (*Dispatcher, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	d := &Dispatcher{
		o: o, filter: newSeen(o.FilterMessages, o.FilterAge), known: make(map[string]*msgType),
		stop: make(chan struct{}), finished: make(chan struct{}),
	}
	d.inbox.wake, d.inbox.most, d.inbox.bytes = make(chan struct{}, 1), o.Inbox, o.InboxBytes
	d.wanted.Store(&map[string]*msgType{})
	return d, nil
}

// Start begins to hand out messages. It starts once: ErrClosed after Stop,
// another error the second time.
func (d *Dispatcher) Start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.state {
	case stateRunning:
		return errors.New("dispatch: the Dispatcher was started already")
	case stateStopped:
		return ErrClosed
	}
	d.state = stateRunning
	go d.run()
	return nil
}

// Stop ends the handing out, and returns when nothing is left running. What was
// put and not handed out is dropped and counted. A second call waits for the
// first.
func (d *Dispatcher) Stop() {
	d.mu.Lock()
	was := d.state
	d.state = stateStopped
	d.mu.Unlock()
	if was != stateStopped {
		d.inbox.close()
		close(d.stop)
	}
	if was == stateNew {
		d.discard()
		close(d.finished)
	}
	<-d.finished
}

// Register adds subscribers. One that is registered already, has a type that
// nothing can have, or neither channel nor queue, is left out.
func (d *Dispatcher) Register(subscribers ...*Subscriber) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range subscribers {
		if s == nil || s.ch == nil && s.queue == nil || checkType(s.messageType) != nil {
			continue
		}
		t := d.known[s.messageType]
		if t == nil {
			t = &msgType{name: s.messageType}
			t.subs.Store(&[]registered{})
			d.known[t.name] = t
		}
		if subs := *t.subs.Load(); !slices.ContainsFunc(subs, s.is) {
			r := registered{Subscriber: s}
			if s.dedup {
				r.missed = &losses{newShares(maxMissed, d.o.FilterAge), d.up}
			}
			d.resubscribe(t, append(slices.Clip(subs), r))
		}
	}
	d.forget()
}

// Deregister removes subscribers, each of them only itself: others of the same
// type stay as they are. One that is not registered is no error. What the loop
// has begun to hand out may still arrive.
func (d *Dispatcher) Deregister(subscribers ...*Subscriber) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range subscribers {
		if s == nil || d.known[s.messageType] == nil {
			continue
		}
		t := d.known[s.messageType]
		if i := slices.IndexFunc(*t.subs.Load(), s.is); i >= 0 {
			st := s.Stats()
			t.dropped.Add(st.Dropped())
			d.resubscribe(t, slices.Delete(slices.Clone(*t.subs.Load()), i, i+1))
		}
	}
}

// resubscribe replaces the subscribers of a type. d.mu is held.
func (d *Dispatcher) resubscribe(t *msgType, subs []registered) {
	lane := uint32(PriorityLow.lane())
	how := uint32(0)
	for _, s := range subs {
		lane = min(lane, uint32(s.priority.lane()))
		if s.dedup {
			how = hashFlag
		}
	}
	t.how.Store(how | lane)
	t.subs.Store(&subs)
	_, was := (*d.wanted.Load())[t.name]
	if was == (len(subs) > 0) {
		return
	}
	wanted := maps.Clone(*d.wanted.Load())
	if was {
		delete(wanted, t.name)
	} else {
		wanted[t.name] = t
	}
	d.wanted.Store(&wanted)
}

// forget drops what is kept of types without subscribers when there are too many.
// d.mu is held.
func (d *Dispatcher) forget() {
	for name, t := range d.known {
		if len(d.known) <= MaxTypes {
			return
		}
		if len(*t.subs.Load()) == 0 {
			d.former.add(t.stats())
			delete(d.known, name)
		}
	}
}

// Put takes a message for the subscribers of its type. It never blocks. nil
// means taken: a subscriber may still have no room for it. A message that nobody
// subscribed to is counted and let go, without an error. Errors: ErrInboxFull,
// ErrTooLarge, ErrClosed.
func (d *Dispatcher) Put(m Message) error {
	_, err := d.put(m, false)
	return err
}

// putWait is Put that waits for room, until the context ends. The loop never
// blocks, so that there is soon.
func (d *Dispatcher) putWait(ctx context.Context, m Message) error {
	for {
		room, err := d.put(m, true)
		if room == nil {
			return err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Dispatcher) put(m Message, wait bool) (room <-chan struct{}, err error) {
	t := (*d.wanted.Load())[m.MessageType()]
	if t == nil {
		d.unwanted.Add(1)
		return nil, nil
	}
	data := m.Data()
	if len(data) > d.o.MaxMessage {
		d.tooLarge.Add(1)
		return nil, fmt.Errorf("%w: %d bytes of %s, at most %d", ErrTooLarge, len(data), t.name, d.o.MaxMessage)
	}
	how := t.how.Load()
	p := parcel{m: m, to: t, size: len(data)}
	if how&hashFlag != 0 {
		if known, ok := m.(*message); ok && known.hashed {
			p.digest = known.digest
		} else {
			p.digest = digestOf(t.name, data)
		}
		p.hashed = true
	}
	t.put.Add(1) // before the loop can have it
	if room, err = d.inbox.add(int(how&^hashFlag), p, wait); err != nil {
		t.put.Add(^uint64(0))
		if room == nil {
			t.refused.Add(1)
		}
		return room, err
	}
	return nil, nil
}

// run is the loop.
func (d *Dispatcher) run() {
	defer close(d.finished)
	var batch [lanes][]parcel
	for {
		select {
		case <-d.inbox.wake:
		case <-d.stop:
			d.discard()
			return
		}
		gone := d.inbox.swap(&batch)
		now := time.Now()
		for i := range batch {
			d.handAll(batch[i], now)
			clear(batch[i])
			batch[i] = batch[i][:0]
		}
		d.forgetPeers(gone)
	}
}

// handAll hands out messages in order, those of one type that follow each other
// together: for a subscriber's lock, and its wakening, it makes no difference how
// many there are.
func (d *Dispatcher) handAll(parcels []parcel, now time.Time) {
	for len(parcels) > 0 {
		n := 1
		for n < len(parcels) && parcels[n].to == parcels[0].to && n < 256 {
			n++
		}
		d.hand(parcels[0].to, parcels[:n], now)
		parcels = parcels[n:]
	}
}

// hand hands messages of one type to its subscribers.
func (d *Dispatcher) hand(t *msgType, run []parcel, now time.Time) {
	bytes, repeats := 0, 0
	for i := range run {
		p := &run[i]
		bytes += p.size
		if p.hashed && !d.filter.add(p.digest, now) {
			p.repeat = true
			repeats++
		}
	}
	for _, s := range *t.subs.Load() {
		s.offer(run, s.missed)
	}
	if d.credit != nil {
		for i := range run {
			if p := &run[i]; p.taken && !p.repeat {
				d.credit(p.m.MessageFrom(), t.name, int(p.worth))
			}
		}
	}
	t.received.Add(uint64(len(run)))
	t.bytes.Add(uint64(bytes))
	t.duplicates.Add(uint64(repeats))
}

// gone says that a peer is no longer up.
func (d *Dispatcher) gone(id p2p.NodeID) { d.inbox.leave(id) }

// forgetPeers puts what peers brought who are gone into the share of all who are.
func (d *Dispatcher) forgetPeers(gone []p2p.NodeID) {
	if len(gone) == 0 {
		return
	}
	for _, t := range *d.wanted.Load() {
		for _, s := range *t.subs.Load() {
			if s.missed == nil {
				continue
			}
			for _, id := range gone {
				s.missed.gone(id)
			}
		}
	}
}

// discard drops what the loop did not get to.
func (d *Dispatcher) discard() {
	var batch [lanes][]parcel
	d.inbox.swap(&batch)
	for _, ps := range batch {
		for i := range ps {
			ps[i].to.discarded.Add(1)
			ps[i].to.refused.Add(1)
		}
	}
}

// undecodable counts a message that is not of its type.
func (d *Dispatcher) undecodable(messageType string) {
	if t := (*d.wanted.Load())[messageType]; t != nil {
		t.undecodable.Add(1)
	}
}
