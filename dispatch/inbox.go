package dispatch

import (
	"sync"

	"github.com/kith-p2p/kith/p2p"
)

// parcel is a message on its way through the Dispatcher.
type parcel struct {
	m      Message
	to     *msgType
	size   int
	digest digest
	hashed bool

	repeat bool // its content came before; the loop's
	taken  bool // by a subscriber; the loop's
	worth  int32
}

// inbox holds what was put and not handed out yet: a lane for each priority,
// bounded on its own. All methods are safe for concurrent use.
type inbox struct {
	wake chan struct{} // holds one token when there is something to take

	mu     sync.Mutex // guards the fields below
	most   int        // of a lane: messages
	bytes  int        // and bytes
	lanes  [lanes]lane
	room   chan struct{} // closed when there is room again; nil when nobody waits
	gone   []p2p.NodeID  // peers that left, for the loop to forget
	closed bool
}

type lane struct {
	parcels []parcel
	bytes   int
	slack   int // swaps in a row that needed little
}

// A lane keeps room for so many parcels, and for more only while it is used: so
// many swaps in a row that need less than a quarter of it end that.
const (
	keepParcels = 1024
	keepSwaps   = 256
)

// add puts a parcel in, and returns ErrInboxFull or ErrClosed when it cannot.
// With wait, room is then a channel that closes when there is room again.
func (b *inbox) add(n int, p parcel, wait bool) (room <-chan struct{}, err error) {
	b.mu.Lock()
	l := &b.lanes[n]
	if b.closed {
		b.mu.Unlock()
		return nil, ErrClosed
	}
	if len(l.parcels) >= b.most || l.bytes+p.size > b.bytes {
		if wait {
			if b.room == nil {
				b.room = make(chan struct{})
			}
			room = b.room
		}
		b.mu.Unlock()
		return room, ErrInboxFull
	}
	l.parcels = append(l.parcels, p)
	l.bytes += p.size
	first := len(l.parcels) == 1
	b.mu.Unlock()
	if first {
		poke(b.wake)
	}
	return nil, nil
}

// leave notes that a peer is gone.
func (b *inbox) leave(id p2p.NodeID) {
	b.mu.Lock()
	if !b.closed {
		b.gone = append(b.gone, id)
	}
	b.mu.Unlock()
	poke(b.wake)
}

// swap takes everything, and leaves the emptied slices of the last time.
func (b *inbox) swap(last *[lanes][]parcel) (gone []p2p.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	gone, b.gone = b.gone, nil
	for i := range b.lanes {
		l := &b.lanes[i]
		if cap(last[i]) <= keepParcels || cap(last[i]) <= 4*len(l.parcels) {
			l.slack = 0
		} else if l.slack++; l.slack >= keepSwaps {
			last[i], l.slack = nil, 0
		}
		l.parcels, last[i], l.bytes = last[i], l.parcels, 0
	}
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
	return gone
}

// close lets nothing more in.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
}
