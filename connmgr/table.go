package connmgr

import (
	"net"
	"slices"
	"time"
)

const (
	maxFailures = 25 // in a row, after which automatic replacements are paced
	maxLate     = 64 // ended requests that a late Disconnect still finds
)

// target is what the table asks the engine to dial. A nil addr is to be asked
// of the address source.
type target struct {
	req  *ConnReq
	addr net.Addr
	try  uint64 // of this request, from 1
}

func (t target) String() string { return t.req.String() }

// standing is where a request stands between the table and the engine.
type standing uint8

const (
	waiting  standing = iota // in the queue, due at entry.due
	dialling                 // with the engine
	up                       // connected
	closing                  // taken down to be dialled again; the engine has not said so yet
	resting                  // a one-shot request that failed: only listed
)

// entry is one request. It is in the queue exactly while it waits.
type entry struct {
	id   uint64
	req  *ConnReq
	kind Kind
	is   standing
	due  time.Time
	at   int // index in the queue, -1 outside

	addrs   []net.Addr // none: ask the address source
	turn    int        // addrs[turn % len] is next
	tried   int        // addresses that failed in this round
	try     uint64     // dials so far
	retries int        // failed rounds and short connections in a row
	again   bool       // once more, though the kind does not ask for it
	replace bool       // failed: a new request takes its slot when it is due
	owed    bool       // a Disconnect may still come for the last connection
	since   time.Time  // when it came up
	cause   error      // of the last end
}

// tableConfig is what a table is made of; every field is set.
type tableConfig struct {
	target          int64 // automatic connections; 0: none
	retry, maxRetry time.Duration
	feelers         time.Duration // between two feelers on average; 0: none
	anchors         []net.Addr
	places          int64          // for all kinds; 0: no limit
	random          func() float64 // in [0,1)
}

// table is the request table: btcd's connection manager as a state machine. It
// is pure: time comes in as an argument, it starts nothing and waits for
// nothing. Its owner serialises the calls (see requests).
//
// Every kind of connection has slots of its own, refilled by its own kind
// only, and what somebody asked for goes before automatic connections. Automatic connections are kept at the target and replaced by new
// addresses; permanent requests stay listed until they are removed; a manual
// request lives as long as its one connection; anchors are dialled once, first
// of all, and feelers one by one on an interval.
type table struct {
	cfg     tableConfig
	entries map[uint64]*entry
	asked   queue  // what waits of the requests that somebody made
	queue   queue  // and of automatic ones
	held    bool   // automatic dials and feelers have to wait for the end of one
	last    uint64 // id given out last
	stopped bool   // everything below stays as it is

	claims    int64     // entries somebody asked for that are to be up
	automatic int64     // entries of KindAutomatic
	connected int64     // of those, up
	extra     int64     // asked for on top of the target
	failures  int       // automatic dials failed in a row, over all slots
	shorts    int       // automatic connections in a row that did not live
	nextFresh time.Time // during an outage: no free slot is filled before

	feeler     *entry // the one at work, nil if none
	nextFeeler time.Time

	late  []*entry // ended by themselves, oldest first
	flaps flaps
}

func newTable(cfg tableConfig) *table {
	t := &table{cfg: cfg, entries: map[uint64]*entry{}}
	t.flaps = flaps{grow: t.grow, idle: cfg.maxRetry, by: map[string]flap{}}
	for _, a := range cfg.anchors {
		if a != nil {
			t.wait(t.open(&ConnReq{Addr: a}, KindAnchor), time.Time{})
		}
	}
	return t
}

// grow is the pause after n failures in a row: n x retry, at most maxRetry.
// btcd documents it so, linear and without jitter, and its users count on these
// very times; hence not internal/backoff.
func (t *table) grow(n int) time.Duration {
	if int64(n) > int64(t.cfg.maxRetry/t.cfg.retry) {
		return t.cfg.maxRetry
	}
	return time.Duration(n) * t.cfg.retry
}

// wanted is how many automatic connections there should be. They leave places
// for what somebody asked for.
func (t *table) wanted() int64 {
	want := t.cfg.target + t.extra
	if t.cfg.places > 0 {
		want = min(want, max(0, t.cfg.places-t.claims))
	}
	return want
}

// outage says that the network seems to be down, or full of peers that do not
// keep a connection: automatic replacements then wait RetryDuration.
func (t *table) outage() bool { return max(t.failures, t.shorts) >= maxFailures }

// next is Policy.Next.
func (t *table) next(now time.Time) (Dial[target], time.Time, bool) {
	if t.stopped {
		return Dial[target]{}, time.Time{}, false
	}
	if len(t.asked) > 0 && !t.asked[0].due.After(now) {
		return t.dial(t.asked[0]), time.Time{}, true
	}
	if t.held {
		return Dial[target]{}, t.wake(), false
	}
	for len(t.queue) > 0 && !t.queue[0].due.After(now) {
		e := t.queue[0]
		if !e.replace {
			return t.dial(e), time.Time{}, true
		}
		if t.drop(e, ConnCanceled); t.automatic < t.wanted() {
			return t.dial(t.open(&ConnReq{}, KindAutomatic)), time.Time{}, true
		}
	}
	if due, ok := t.fresh(); ok && !due.After(now) {
		t.nextFresh = now.Add(t.cfg.retry)
		return t.dial(t.open(&ConnReq{}, KindAutomatic)), time.Time{}, true
	}
	if t.cfg.feelers > 0 && t.nextFeeler.IsZero() {
		t.nextFeeler = t.feelerTime(now)
	}
	if t.cfg.feelers > 0 && t.feeler == nil && !t.nextFeeler.After(now) {
		t.nextFeeler = t.feelerTime(now)
		t.feeler = t.open(&ConnReq{}, KindFeeler)
		return t.dial(t.feeler), time.Time{}, true
	}
	return Dial[target]{}, t.wake(), false
}

// fresh is when a free automatic slot, if there is one, may be filled: at once,
// but in an outage one by one, and not while enough others are trying to find
// out whether it is over. A huge target has many free slots.
func (t *table) fresh() (due time.Time, ok bool) {
	switch {
	case t.automatic >= t.wanted():
		return time.Time{}, false
	case !t.outage():
		return time.Time{}, true
	}
	return t.nextFresh, t.automatic-t.connected < maxFailures
}

// feelerTime spreads feelers, so that nobody can tell when the next one comes.
func (t *table) feelerTime(now time.Time) time.Time {
	return now.Add(time.Duration((0.5 + t.cfg.random()) * float64(t.cfg.feelers)))
}

// wake is when next has something to do that it has not now; zero: never.
func (t *table) wake() time.Time {
	var wake time.Time
	sooner := func(at time.Time) {
		if wake.IsZero() || at.Before(wake) {
			wake = at
		}
	}
	if len(t.asked) > 0 {
		sooner(t.asked[0].due)
	}
	if t.held { // the end of a dial wakes the engine
		return wake
	}
	if len(t.queue) > 0 {
		sooner(t.queue[0].due)
	}
	if due, ok := t.fresh(); ok {
		sooner(due)
	}
	if t.cfg.feelers > 0 && t.feeler == nil {
		sooner(t.nextFeeler)
	}
	return wake
}

// dial hands e to the engine.
func (t *table) dial(e *entry) Dial[target] {
	t.line(e).remove(e)
	t.stand(e, dialling)
	e.try++
	d := Dial[target]{Target: target{req: e.req, try: e.try}, Kind: e.kind, Tag: e.id}
	if len(e.addrs) > 0 {
		d.Target.addr = e.addrs[e.turn%len(e.addrs)]
	}
	return d
}

// resolved says that the address source gave addr for a dial without one. The
// error is the dial's: the request is gone, or the address is left alone.
func (t *table) resolved(id uint64, addr net.Addr, now time.Time) error {
	e := t.entries[id]
	if e == nil || e.is != dialling {
		return ErrDropped
	}
	if !t.flaps.mayDial(addr, now) {
		return ErrResting
	}
	e.addrs = []net.Addr{addr}
	e.req.setAddr(addr)
	return nil
}

// established is Policy's word on a connection that is about to be announced;
// the error refuses it, because its request is gone.
func (t *table) established(id uint64, now time.Time) error {
	e := t.entries[id]
	if e == nil || e.is != dialling {
		return ErrDropped
	}
	t.stand(e, up)
	e.since = now
	e.owed, e.again, e.tried = true, false, 0
	t.failures = 0
	e.req.setState(ConnEstablished)
	return nil
}

// ended is Policy.Ended.
func (t *table) ended(d Dial[target], o Outcome) {
	e := t.entries[d.Tag]
	if e == nil {
		return // removed meanwhile
	}
	e.cause = o.Cause
	switch {
	case t.stopped:
		t.drop(e, ConnDisconnected)
	case e.is == dialling:
		t.failed(e, o.At)
	default:
		t.down(e, o.Lived, o.At)
	}
}

// failed is the end of a dial that led to nothing.
func (t *table) failed(e *entry, now time.Time) {
	e.req.setState(ConnFailing)
	e.turn++
	e.tried++
	if e.tried < len(e.addrs) {
		t.wait(e, now) // the next address at once
		return
	}
	e.tried, e.again = 0, false
	switch e.kind {
	case KindPermanent:
		e.retries++
		t.wait(e, now.Add(t.grow(e.retries)))
	case KindAutomatic:
		pause := time.Duration(0)
		if t.failures++; t.outage() {
			pause = t.cfg.retry
			if t.failures == maxFailures {
				t.nextFresh = now.Add(pause)
			}
		}
		e.replace = true
		t.wait(e, now.Add(pause))
	case KindManual:
		t.rest(e, e.cause)
	default: // anchors and feelers have one try
		t.drop(e, ConnFailing)
	}
}

// down is the end of a connection.
func (t *table) down(e *entry, lived time.Duration, now time.Time) {
	if lived < t.cfg.retry {
		e.turn++
		e.retries++
	} else {
		e.retries = 1
	}
	if e.kind == KindPermanent || e.again {
		e.req.setState(ConnPending)
		t.wait(e, now.Add(t.grow(e.retries)))
		return
	}
	t.gone(e, lived, now)
	if len(t.late) >= maxLate {
		t.late = slices.Delete(t.late, 0, 1)
	}
	t.late = append(t.late, e)
}

// gone ends a request whose connection is not to come back.
func (t *table) gone(e *entry, lived time.Duration, now time.Time) {
	t.less(e)
	t.drop(e, ConnDisconnected)
	if e.kind != KindAutomatic {
		return
	}
	if addr := e.addrs[0]; lived < t.cfg.retry {
		t.shorts++
		t.flaps.short(addr, now)
	} else {
		t.shorts = 0
		t.flaps.lived(addr)
	}
	if t.outage() && t.automatic < t.wanted() {
		t.wait(t.open(&ConnReq{}, KindAutomatic), now.Add(t.cfg.retry))
	}
}
