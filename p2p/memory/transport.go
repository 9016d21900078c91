package memory

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// Transport is a node of a Network, as a p2p.Transport. All methods are safe for
// concurrent use.
type Transport struct {
	net     *Network
	id      p2p.NodeID
	places  []netip.AddrPort // guarded by net.mu
	arrived chan struct{}    // holds a token when Accept should look again
	closed  chan struct{}

	mu      sync.Mutex // guards the rest
	backlog []*Connection
	down    bool    // closed is closed
	fail    []error // what the next Accepts return
	refuse  int     // dials to refuse
}

var _ p2p.Transport = (*Transport)(nil)

// Protocols is memory, and memory-ip for a node that has places.
func (t *Transport) Protocols() []p2p.Protocol {
	if len(t.at()) > 0 {
		return []p2p.Protocol{Protocol, ProtocolIP}
	}
	return []p2p.Protocol{Protocol}
}

func (t *Transport) at() []netip.AddrPort {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	return t.places
}

// Endpoints is memory:ID, and the node's places; none after Close.
func (t *Transport) Endpoints() []p2p.Endpoint {
	select {
	case <-t.closed:
		return nil
	default:
	}
	es := []p2p.Endpoint{{Protocol: Protocol, Path: string(t.id)}}
	for _, at := range t.at() {
		es = append(es, p2p.Endpoint{Protocol: ProtocolIP, IP: at.Addr().AsSlice(), Port: at.Port()})
	}
	return es
}

// Move gives the node other places, as when its address changes. Live connections
// stay. It returns ErrAddressInUse, or ErrClosed.
func (t *Transport) Move(places ...netip.AddrPort) error {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	if t.net.nodes[t.id] != t {
		return ErrClosed
	}
	return t.net.bind(t, places)
}

// Accept returns the next connection, an error that FailAccepts ordered, or io.EOF
// after Close or a crash.
func (t *Transport) Accept() (p2p.Connection, error) {
	for {
		t.mu.Lock()
		switch {
		case t.down:
			t.mu.Unlock()
			return nil, io.EOF
		case len(t.fail) > 0:
			err := t.fail[0]
			t.fail = t.fail[1:]
			t.more()
			t.mu.Unlock()
			t.net.count(func(s *Stats) { s.Faults.AcceptErrors++ })
			return nil, err
		case len(t.backlog) > 0:
			c := t.backlog[0]
			t.backlog = t.backlog[1:]
			t.more()
			t.mu.Unlock()
			return c, nil
		}
		t.mu.Unlock()
		select {
		case <-t.arrived:
		case <-t.closed:
		}
	}
}

// more wakes the next Accept if there is something for it. t.mu is held.
func (t *Transport) more() {
	if len(t.backlog) > 0 || len(t.fail) > 0 {
		token(t.arrived)
	}
}

// Dial connects to a node. It takes the latency there and back; across a
// partition it waits for the end of that. Errors are ErrRefused, ErrClosed, and
// the context's, all wrapped.
func (t *Transport) Dial(ctx context.Context, e p2p.Endpoint) (p2p.Connection, error) {
	c, err := t.dial(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("memory: dial %v: %w", e, err)
	}
	return c, nil
}

func (t *Transport) dial(ctx context.Context, e p2p.Endpoint) (*Connection, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	if e.Protocol != Protocol && e.Protocol != ProtocolIP {
		return nil, fmt.Errorf("%w: nobody speaks %q here", ErrRefused, e.Protocol)
	}
	if err := t.pause(ctx, 0); err != nil {
		return nil, err
	}
	to := t.net.find(e)
	if to == nil {
		return nil, ErrRefused
	}
	for _, l := range []*link{t.net.linkOf(t.id, to.id), t.net.linkOf(to.id, t.id)} {
		for first := true; ; first = false {
			latency, shut, changed := l.trip(first)
			if !shut {
				if err := t.pause(ctx, latency); err != nil {
					return nil, err
				}
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-t.closed:
				return nil, ErrClosed
			}
		}
	}
	return to.arrive(t, e)
}

// pause waits for a time that has to pass before a dial goes on.
func (t *Transport) pause(ctx context.Context, d time.Duration) error {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-t.closed:
		}
	}
	select {
	case <-t.closed:
		return ErrClosed
	default:
		return ctx.Err()
	}
}

// arrive puts a connection into the backlog.
func (t *Transport) arrive(from *Transport, e p2p.Endpoint) (*Connection, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.down:
		return nil, ErrRefused
	case t.refuse > 0:
		t.refuse--
		t.net.count(func(s *Stats) { s.Faults.RefusedDials++ })
		return nil, ErrRefused
	case len(t.backlog) >= t.net.o.Backlog:
		return nil, fmt.Errorf("%w: %d connections wait already", ErrRefused, len(t.backlog))
	}
	ours, theirs := t.net.join(from, t, e)
	t.backlog = append(t.backlog, theirs)
	token(t.arrived)
	return ours, nil
}

// Close takes the node off the network and makes Accept return io.EOF.
// Connections that wait to be accepted are reset; the others stay.
func (t *Transport) Close() error {
	t.net.mu.Lock()
	t.net.unbind(t)
	t.net.mu.Unlock()
	t.mu.Lock()
	waiting := t.backlog
	t.backlog, t.fail = nil, nil
	if !t.down {
		t.down = true
		close(t.closed)
	}
	t.mu.Unlock()
	for _, c := range waiting {
		c.pair.reset()
	}
	return nil
}
