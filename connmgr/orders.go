package connmgr

import (
	"cmp"
	"slices"
	"time"
)

// What a user orders: requests come and go, in any phase.

// open lists a new request. It returns nil if the request was cancelled before
// or is in a table already.
func (t *table) open(req *ConnReq, kind Kind) *entry {
	if !req.claim(t, t.last+1, kind) {
		return nil
	}
	t.last++
	e := &entry{id: t.last, req: req, kind: kind, at: -1}
	if req.Addr != nil {
		e.addrs = append(e.addrs, req.Addr)
	}
	for _, a := range req.OtherAddrs {
		if a != nil {
			e.addrs = append(e.addrs, a)
		}
	}
	t.list(e)
	return e
}

func (t *table) list(e *entry) {
	t.entries[e.id] = e
	if e.kind == KindAutomatic {
		t.automatic++
	}
	if e.is = waiting; e.claims() {
		t.claims++
	}
}

// asked says that somebody made the request, or an anchor did.
func (e *entry) asked() bool { return e.kind != KindAutomatic && e.kind != KindFeeler }

// claims says that e has a place or waits for one that no automatic connection
// may take.
func (e *entry) claims() bool { return e.asked() && e.is != resting }

// line is the queue that e waits in.
func (t *table) line(e *entry) *queue {
	if e.asked() {
		return &t.asked
	}
	return &t.queue
}

// stand says where e stands now.
func (t *table) stand(e *entry, is standing) {
	if e.kind == KindAutomatic && e.is == up {
		t.connected--
	}
	if e.claims() {
		t.claims--
	}
	if e.is = is; e.kind == KindAutomatic && is == up {
		t.connected++
	}
	if e.claims() {
		t.claims++
	}
}

// wait queues e for due.
func (t *table) wait(e *entry, due time.Time) {
	t.line(e).remove(e)
	t.stand(e, waiting)
	e.due = due
	t.line(e).add(e)
}

// rest keeps a failed one-shot request, to be seen and removed.
func (t *table) rest(e *entry, cause error) {
	t.stand(e, resting)
	e.cause = cause
	e.req.setState(ConnFailing)
}

// drop ends a request's life in the table.
func (t *table) drop(e *entry, s ConnState) {
	t.line(e).remove(e)
	t.stand(e, resting)
	delete(t.entries, e.id)
	if e.kind == KindAutomatic {
		t.automatic--
	}
	if t.feeler == e {
		t.feeler = nil
	}
	e.req.release(s)
}

// connect lists a request, for good if it is permanent, else for one
// connection. One that is listed already is dialled now. Nothing happens to a
// request that was cancelled or is another table's.
func (t *table) connect(req *ConnReq) {
	if t.stopped || req == nil || t.dialNow(req.ID(), req) {
		return
	}
	kind := KindManual
	if req.Permanent {
		kind = KindPermanent
	}
	e := t.open(req, kind)
	switch {
	case e == nil:
	case len(e.addrs) == 0:
		t.rest(e, ErrNoAddress)
	default:
		t.wait(e, time.Time{})
	}
}

// dialNow ends the pause or the rest of a listed request; req nil: any. It says
// whether the request is listed.
func (t *table) dialNow(id uint64, req *ConnReq) bool {
	e := t.entries[id]
	if t.stopped || e == nil || req != nil && e.req != req {
		return false
	}
	if e.is == waiting || e.is == resting && len(e.addrs) > 0 {
		t.wait(e, time.Time{})
	}
	return true
}

// more asks for one automatic connection on top of the target. When one ends,
// the target alone counts again.
func (t *table) more() {
	if !t.stopped && t.cfg.target > 0 {
		t.extra++
	}
}

// less takes back what more asked for.
func (t *table) less(e *entry) {
	if e.kind == KindAutomatic && t.extra > 0 {
		t.extra--
	}
}

// disconnect takes a connection down. It comes back if its request is
// permanent or again is set; an automatic one is replaced. A request that is
// not connected is cancelled, unless its connection ended by itself and this
// is its owner saying so. The engine has to drop what matches; nil: nothing.
func (t *table) disconnect(id uint64, again bool, now time.Time) (match func(Dial[target]) bool) {
	e := t.entries[id]
	switch {
	case t.stopped:
		return nil
	case e == nil:
		t.settle(id, again, now)
		return nil
	case e.is == up && (e.kind == KindPermanent || again && e.kind != KindFeeler):
		t.stand(e, closing)
		e.owed, e.again = false, e.kind != KindPermanent
		e.req.setState(ConnPending)
	case e.is == up:
		t.gone(e, now.Sub(e.since), now)
	case e.owed:
		e.owed = false
		return nil
	default:
		t.less(e)
		t.drop(e, ConnCanceled)
	}
	return e.current()
}

// current matches the engine's dial or connection of e as it is now, and not
// one that comes later.
func (e *entry) current() func(Dial[target]) bool {
	id, try := e.id, e.try
	return func(d Dial[target]) bool { return d.Tag == id && d.Target.try == try }
}

// settle dials a request once more whose connection ended before anyone could
// ask for that: programs close a connection first and report it then.
func (t *table) settle(id uint64, again bool, now time.Time) {
	i := slices.IndexFunc(t.late, func(e *entry) bool { return e.id == id })
	if i < 0 {
		return
	}
	e := t.late[i]
	t.late = slices.Delete(t.late, i, i+1)
	if again && e.kind != KindFeeler && e.req.reclaim(t, e.id) {
		e.again, e.owed = true, false
		t.list(e)
		t.wait(e, now.Add(t.grow(e.retries)))
	}
}

// remove forgets a request, whatever it is doing; an automatic one is replaced
// by another. The engine has to drop what matches; nil: nothing.
func (t *table) remove(id uint64, now time.Time) (match func(Dial[target]) bool) {
	e := t.entries[id]
	switch {
	case t.stopped:
		return nil
	case e == nil:
		t.settle(id, false, now)
		return nil
	case e.is == up:
		t.gone(e, now.Sub(e.since), now)
	default:
		t.less(e)
		t.drop(e, ConnCanceled)
	}
	return e.current()
}

// resetBackoff forgets all failures and ends all pauses: the network changed.
func (t *table) resetBackoff() {
	if t.stopped {
		return
	}
	t.failures, t.shorts = 0, 0
	clear(t.flaps.by)
	for _, e := range t.entries { // those that are being dialled or are up, too
		e.retries = 0
	}
	for _, q := range []queue{t.asked, t.queue} {
		for _, e := range q {
			e.due = time.Time{}
		}
		q.reorder()
	}
}

// stop cancels what is not connected. From here on the table changes only as
// connections end.
func (t *table) stop() {
	t.stopped = true
	for _, e := range t.entries {
		if e.is != up {
			t.drop(e, ConnCanceled)
		}
	}
}

// requests lists what the table holds, oldest first.
func (t *table) requests() []RequestInfo {
	list := make([]RequestInfo, 0, len(t.entries))
	for _, e := range t.entries {
		info := RequestInfo{
			ID: e.id, Kind: e.kind, State: e.req.State(), Addr: e.req.address(), Retries: e.retries, Cause: e.cause,
		}
		switch e.is {
		case up:
			info.Since = e.since
		case waiting:
			info.Next = e.due
		}
		list = append(list, info)
	}
	slices.SortFunc(list, func(a, b RequestInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}
