package tunnel

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kith-p2p/kith/internal/backoff"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	redialFirst   = 200 * time.Millisecond
	redialLimit   = 3 * time.Second
	redialTimeout = 15 * time.Second
)

// redials makes connections to peers for connections that wait: one attempt at
// a time for each peer, however many wait for it.
type redials struct {
	p *P2P

	mu    sync.Mutex // guards peers, and every redial in it
	peers map[peer.ID]*redial
}

type redial struct {
	waiters int
	cancel  context.CancelFunc
	round   chan struct{} // closed when the attempt under way has ended
	err     error         // of the last attempt
	done    bool          // connected
	over    bool          // no further attempt
}

// connected says whether there is a connection to the peer.
func (r *redials) connected(remote peer.ID) bool {
	if remote == r.p.id {
		return true
	}
	switch r.p.h.Network().Connectedness(remote) {
	case network.Connected, network.Limited:
		return true
	}
	return false
}

// why says why the last attempt to reach the peer failed, if others are under
// way.
func (r *redials) why(remote peer.ID) *Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.peers[remote]; d != nil && d.err != nil {
		return reasonOf(unreachable(remote, d.err))
	}
	return nil
}

// connect returns when there is a connection to the peer. While attempts fail it
// waits for the next one until wait has passed or ctx ends, then returns why the
// last one failed. No attempt is cut short for a wait that is over before it begins.
func (r *redials) connect(ctx context.Context, remote peer.ID, wait time.Duration) error {
	if r.connected(remote) {
		return nil
	}
	d := r.join(remote)
	defer r.leave(remote, d)
	var over <-chan time.Time // nil: after one attempt
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		over = t.C
	}
	for {
		r.mu.Lock()
		round := d.round
		r.mu.Unlock()
		late := error(nil)
		select {
		case <-round:
		case <-over:
			late = context.DeadlineExceeded
		case <-ctx.Done():
			late = ctx.Err()
		}
		r.mu.Lock()
		done, last, err := d.done, d.over, d.err
		r.mu.Unlock()
		switch {
		case done:
			return nil
		case late != nil && err == nil:
			return unreachable(remote, late)
		case late != nil || last || over == nil:
			return unreachable(remote, err)
		}
	}
}

func (r *redials) join(remote peer.ID) *redial {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.peers[remote]; d != nil {
		d.waiters++
		return d
	}
	ctx, cancel := context.WithCancel(r.p.ctx)
	d := &redial{waiters: 1, cancel: cancel, round: make(chan struct{})}
	if r.peers == nil {
		r.peers = map[peer.ID]*redial{}
	}
	r.peers[remote] = d
	if !r.p.begin(remote) {
		d.err, d.over = ErrClosed, true
		close(d.round)
		return d
	}
	go func() {
		defer r.p.end(remote)
		r.run(ctx, remote, d)
	}()
	return d
}

// leave ends the attempts when nobody waits any more.
func (r *redials) leave(remote peer.ID, d *redial) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.waiters--; d.waiters == 0 {
		d.cancel()
		if r.peers[remote] == d {
			delete(r.peers, remote)
		}
	}
}

// run dials until it succeeds or nobody waits.
func (r *redials) run(ctx context.Context, remote peer.ID, d *redial) {
	for failures := 0; ; {
		err := r.dial(ctx, remote)
		r.mu.Lock()
		d.err, d.done = err, err == nil
		close(d.round)
		if err == nil || ctx.Err() != nil {
			d.over = true
			if r.peers[remote] == d {
				delete(r.peers, remote) // who comes next starts afresh
			}
			r.mu.Unlock()
			return
		}
		d.round = make(chan struct{})
		r.mu.Unlock()
		failures++
		select {
		case <-time.After(backoff.Jittered(failures, redialFirst, redialLimit)):
		case <-ctx.Done():
		}
	}
}

func (r *redials) dial(ctx context.Context, remote peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, redialTimeout)
	defer cancel()
	// This redial has a backoff of its own; the swarm's would only answer "too
	// early" without trying.
	if s, ok := r.p.h.Network().(interface{ Backoff() *swarm.DialBackoff }); ok {
		s.Backoff().Clear(remote)
	}
	return r.p.h.Connect(ctx, peer.AddrInfo{ID: remote})
}

// Answers says whether a peer answers at an address, which has no names in it:
// it makes a connection there, whatever connections there are, and closes it
// again. It blocks until ctx ends at most. The error is an *Error.
func (p *P2P) Answers(ctx context.Context, remote peer.ID, addr ma.Multiaddr) error {
	s, ok := p.h.Network().(interface {
		TransportForDialing(ma.Multiaddr) transport.Transport
	})
	if !ok {
		return nil // a host of another make, which cannot be asked
	}
	t := s.TransportForDialing(addr)
	if t == nil {
		return &Error{Reason: ReasonUnreachable, Peer: remote, Detail: fmt.Sprintf("%s is no address that this node can dial", addr)}
	}
	c, err := t.Dial(ctx, addr, remote)
	if err != nil {
		return unreachable(remote, &swarm.DialError{Peer: remote, DialErrors: []swarm.TransportError{{Address: addr, Cause: err}}})
	}
	c.Close()
	return nil
}
