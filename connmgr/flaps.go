package connmgr

import (
	"net"
	"time"
)

const (
	maxFlaps  = 1024 // addresses remembered
	flapGrace = 6    // short connections in a row that cost an address nothing
)

// flaps remembers the automatic addresses that accept and drop. A permanent
// request carries its own count; automatic ones are new each time, so a source
// that offers one address again and again would have it dialled without pause.
// After flapGrace short connections in a row the address is left alone for a
// growing time, and then dialled by one request at a time.
type flaps struct {
	grow func(n int) time.Duration // the table's
	idle time.Duration             // forgotten when not dialled for so long after its pause
	by   map[string]flap
}

type flap struct {
	count int
	until time.Time // not to be dialled before
}

func flapKey(a net.Addr) string { return a.Network() + "/" + a.String() }

// short counts a connection to a that did not live.
func (f *flaps) short(a net.Addr, now time.Time) {
	key := flapKey(a)
	one, ok := f.by[key]
	if !ok && len(f.by) >= maxFlaps {
		f.evict()
	}
	one.count++
	one.until = now.Add(f.grow(one.count))
	f.by[key] = one
}

// evict forgets the address whose pause ends first.
func (f *flaps) evict() {
	var oldest string
	for key, one := range f.by {
		if oldest == "" || one.until.Before(f.by[oldest].until) {
			oldest = key
		}
	}
	delete(f.by, oldest)
}

// lived forgets a: a connection to it lasted.
func (f *flaps) lived(a net.Addr) { delete(f.by, flapKey(a)) }

// mayDial says whether a may be dialled now. If so it counts as being tried
// until its next pause would be over.
func (f *flaps) mayDial(a net.Addr, now time.Time) bool {
	key := flapKey(a)
	one, ok := f.by[key]
	switch {
	case !ok:
		return true
	case now.Sub(one.until) > f.idle:
		delete(f.by, key)
		return true
	case one.count <= flapGrace:
		return true
	case now.Before(one.until):
		return false
	}
	one.until = now.Add(f.grow(one.count + 1))
	f.by[key] = one
	return true
}
