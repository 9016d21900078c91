package mconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"github.com/kith-p2p/kith/p2p"
)

// Protocol is the protocol of mconn addresses.
const Protocol p2p.Protocol = "mconn"

// A Transport dials and accepts connections over TCP. All methods are safe for
// concurrent use.
type Transport struct {
	opts     Options
	listener net.Listener // nil: dials only
	endpoint p2p.Endpoint

	faults faultCounts

	once   sync.Once
	closed chan struct{}
}

var _ p2p.Transport = (*Transport)(nil)

// New makes a transport and listens, if Options.Listen says where. It returns
// the fault of invalid options, or why it cannot listen there.
func New(opts Options) (*Transport, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	t := &Transport{opts: opts, faults: newFaultCounts(), closed: make(chan struct{})}
	if opts.Listen == "" {
		return t, nil
	}
	listener, err := net.Listen("tcp", opts.Listen)
	if err != nil {
		return nil, fmt.Errorf("mconn: listen on %s: %w", opts.Listen, err)
	}
	t.listener, t.endpoint = listener, endpointOf(listener.Addr())
	return t, nil
}

// Protocols returns "mconn". Addresses that say "tcp" are read as mconn where
// they are parsed.
func (t *Transport) Protocols() []p2p.Protocol { return []p2p.Protocol{Protocol} }

// Endpoints returns where it listens, with the port it got; nothing if it only
// dials.
func (t *Transport) Endpoints() []p2p.Endpoint {
	if t.listener == nil {
		return nil
	}
	return []p2p.Endpoint{t.endpoint}
}

// Accept blocks for the next inbound connection, before its handshake. It
// returns io.EOF after Close. Other errors pass, such as too many open files.
func (t *Transport) Accept() (p2p.Connection, error) {
	if t.listener == nil {
		<-t.closed
		return nil, io.EOF
	}
	nc, err := t.listener.Accept()
	if errors.Is(err, net.ErrClosed) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, fmt.Errorf("mconn: accept on %s: %w", t.endpoint, err)
	}
	return t.wrap(nc)
}

// Dial connects to an endpoint with an IP and a port, before the handshake. It
// blocks until the context ends.
func (t *Transport) Dial(ctx context.Context, e p2p.Endpoint) (p2p.Connection, error) {
	ip, ok := netip.AddrFromSlice(e.IP)
	if !ok || e.Port == 0 || e.Protocol != Protocol {
		return nil, fmt.Errorf("mconn: cannot dial %s: an mconn endpoint has an IP and a port", e)
	}
	select {
	case <-t.closed:
		return nil, fmt.Errorf("mconn: dial %s: %w", e, net.ErrClosed)
	default:
	}
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(ip.Unmap(), e.Port).String())
	if err != nil {
		return nil, fmt.Errorf("mconn: %w", err)
	}
	return t.wrap(nc)
}

func (t *Transport) wrap(nc net.Conn) (p2p.Connection, error) {
	c, err := NewConnection(nc, t.opts)
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	c.faults = t.faults
	return c, nil
}

// Faults counts how connections of the transport ended for what their peers did.
func (t *Transport) Faults() Faults { return t.faults.faults() }

// Close stops listening and makes Accept return. Connections stay. It may be
// called again.
func (t *Transport) Close() error {
	var err error
	t.once.Do(func() {
		close(t.closed)
		if t.listener != nil {
			err = t.listener.Close()
		}
	})
	return err
}

// endpointOf is a socket's address as an endpoint; one that is not of TCP is
// only a name.
func endpointOf(a net.Addr) p2p.Endpoint {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ip := tcp.IP
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		return p2p.Endpoint{Protocol: Protocol, IP: ip, Port: uint16(tcp.Port)}
	}
	if a == nil {
		return p2p.Endpoint{Protocol: Protocol}
	}
	return p2p.Endpoint{Protocol: Protocol, Path: a.String()}
}
