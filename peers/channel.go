package peers

import (
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// maxAddrs is how many addresses of one peer a channel remembers. More would only lengthen an attempt, which tries them
// in turn.
const maxAddrs = 8

// channelKey is a peer, or an address that names none.
type channelKey struct {
	id   peer.ID
	addr string // its bytes
}

func channelKeyOf(maddr ma.Multiaddr) channelKey {
	if id := peerOf(maddr); id != "" {
		return channelKey{id: id}
	}
	return channelKey{addr: string(maddr.Bytes())}
}

// channel is a gRPC channel in the book. gRPC decides when to connect; the channel says where to (attempt.go), lets
// look-ups wait for the outcome (wait.go) and counts who uses it (here).
type channel struct {
	b   *book
	key channelKey

	once sync.Once        // makes cc
	cc   *grpc.ClientConn // set under mu by once; nil before that, and if err is set
	err  error            // why there is none; set by once

	// mu guards what follows. It is held for a few assignments at a time.
	mu         sync.Mutex
	addrs      []ma.Multiaddr // latest first, at least one; replaced, never changed in place
	reset      bool           // the next attempt resets the breakers
	proven     bool           // has been ready: if it is idle now, it may be handed out as it is
	tries      int            // attempts that have begun, and the number of the latest
	trying     bool           // the latest is dialling or in the handshake
	resetting  bool           // the latest resets the breakers
	unanswered int            // connections in a row that ended before gRPC spoke on them
	last       error          // how the latest attempt that is over failed; nil if it did not
	cause      error          // how the latest failed that was really dialled; nil if it did not
	heldUntil  time.Time      // until then the breakers of all addresses refuse
	waiters    map[*waiter]struct{}
	leases     int       // calls, streams and look-ups that are under way
	idle       time.Time // since when there has been none
	retired    bool      // taken out of use; no lease is given any more
}

// client makes the gRPC channel at first use, without I/O. It must not be called under book.mu.
func (c *channel) client(make func(*channel) (*grpc.ClientConn, error)) (*grpc.ClientConn, error) {
	c.once.Do(func() {
		cc, err := make(c)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cc, c.err = cc, err
	})
	return c.cc, c.err
}

// close takes the channel out of use, with the calls on it.
func (c *channel) close() error {
	c.mu.Lock()
	c.retired = true
	c.mu.Unlock()
	cc, _ := c.client(func(*channel) (*grpc.ClientConn, error) { return nil, ErrRemoved })
	if cc == nil {
		return nil
	}
	if err := cc.Close(); err != nil && status.Code(err) != codes.Canceled { // Canceled: its user closed it already
		return err
	}
	return nil
}

// lease counts a call, stream or look-up as under way, until release. It returns false if the channel is out of use.
func (c *channel) lease() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retired {
		return false
	}
	c.leases++
	return true
}

func (c *channel) release() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leases--; c.leases == 0 {
		c.idle = now
	}
}

// retire takes the channel out of use if it is closed, or has been idle for longer than limit. Once it has returned
// true, no call begins on it.
func (c *channel) retire(limit time.Duration) bool {
	now, state := time.Now(), c.state()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retired || state != connectivity.Shutdown && (c.leases > 0 || now.Sub(c.idle) <= limit) {
		return false
	}
	c.retired = true
	return true
}

// state is gRPC's, or Idle before the channel is made.
func (c *channel) state() connectivity.State {
	c.mu.Lock()
	cc := c.cc
	c.mu.Unlock()
	if cc == nil {
		return connectivity.Idle
	}
	return cc.GetState()
}

// learn moves an address to the front of those that are tried.
func (c *channel) learn(maddr ma.Multiaddr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.addrs) > 0 && c.addrs[0].Equal(maddr) {
		return
	}
	others := slices.DeleteFunc(slices.Clone(c.addrs), maddr.Equal)
	c.addrs = append([]ma.Multiaddr{maddr}, others[:min(len(others), maxAddrs-1)]...)
}

// unlearn forgets an address that cannot be dialled, unless it is the only one.
func (c *channel) unlearn(maddr ma.Multiaddr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if others := slices.DeleteFunc(slices.Clone(c.addrs), maddr.Equal); len(others) > 0 {
		c.addrs = others
	}
}

// address is the one that was asked for last.
func (c *channel) address() ma.Multiaddr {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addrs[0]
}
