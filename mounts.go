package kith

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/tunnel"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// probeTimeout bounds how long Forward looks whether the peer is there.
const probeTimeout = 5 * time.Second

// Kind tells the two ends of a tunnel apart.
type Kind int

const (
	// KindExpose: a service name bound to a local target.
	KindExpose = Kind(tunnel.KindExpose)
	// KindConnect: a local socket bound to a service of a peer.
	KindConnect = Kind(tunnel.KindForward)
)

// String returns "expose" or "connect".
func (k Kind) String() string {
	switch k {
	case KindExpose:
		return "expose"
	case KindConnect:
		return "connect"
	}
	return "unknown"
}

// Limits bound one service; see tunnel.Limits.
type Limits = tunnel.Limits

// Expose says what to expose to whom.
type Expose struct {
	// Target is the local socket that connections go to, in any spelling that
	// address.TargetMultiaddr takes: 3000, host:port, unix:/path, a multiaddr.
	Target string
	// Name of the service. A name that starts with "/x/" can be used by kubo
	// too.
	Name string
	// Allow lists the peers that may use it, in any spelling; nobody else may.
	Allow []string
	// AllowAny lets everybody use it.
	AllowAny bool
	// ReportPeerID, ProxyProtocol, HTTP, Limits, AllowCustomProtocol: see
	// tunnel.ServiceConfig.
	ReportPeerID        bool
	ProxyProtocol       int
	HTTP                bool
	Limits              Limits
	AllowCustomProtocol bool
}

// Forward says what to forward.
type Forward struct {
	// Peer that serves it, in any spelling; an address is remembered.
	Peer string
	// Name of its service.
	Name string
	// Listen is the local socket to bind, in any spelling. Empty: a free port
	// on 127.0.0.1.
	Listen string
	// Wait, Timeout, Once, AllowCustomProtocol: see tunnel.ForwardConfig.
	Wait, Timeout       time.Duration
	AllowCustomProtocol bool
	Once                bool
	// Check makes Forward bind nothing and fail when the peer cannot be reached
	// now. Without it that is a Warning: the peer is dialled on use.
	Check bool
	// Anyway makes Forward bind although no address of the peer is known, or
	// the peer says that it would refuse. That is a Warning then.
	Anyway bool
}

// Mount is a snapshot of one exposed service or forwarded port.
type Mount struct {
	ID                                   uint64
	Kind                                 Kind
	Name                                 string
	ListenAddress, TargetAddress         string // multiaddrs; /p2p/ID where the end is a peer
	Local                                string // the local socket as a person writes it
	Since                                time.Time
	Allow                                []string
	AllowAny                             bool
	Connections                          int
	Waiting                              int // accepted, and waiting for the peer
	Accepted, Refused, BytesIn, BytesOut uint64
	LastError                            string
	// Warning is set by Forward when the peer could not be reached.
	Warning string
}

// Match selects mounts: each given field must match. All selects everything
// and excludes the rest.
type Match struct {
	ID                                 uint64
	Name, ListenAddress, TargetAddress string
	All                                bool
	// Streams cuts the live connections of what is closed, too.
	Streams bool
}

// Expose binds a service name to a local target. The target need not be up.
// Errors: ErrUsage, tunnel.ErrExists, ErrClosed.
func (n *Node) Expose(ctx context.Context, e Expose) (Mount, error) {
	target, err := address.TargetMultiaddr(e.Target)
	if err != nil {
		return Mount{}, badSocket(err)
	}
	cfg := tunnel.ServiceConfig{
		AllowAny: e.AllowAny, ReportPeerID: e.ReportPeerID, ProxyProtocol: e.ProxyProtocol,
		HTTP: e.HTTP, Limits: e.Limits, AllowCustomProtocol: e.AllowCustomProtocol,
	}
	if cfg.Allow, err = n.peers(ctx, e.Allow); err != nil {
		return Mount{}, err
	}
	info, err := n.tunnels.NewListener(ctx, e.Name, target, func(c *tunnel.ServiceConfig) { *c = cfg })
	if err != nil {
		return Mount{}, classify(err)
	}
	return mountOf(*info), nil
}

// Listen offers a service that this program serves itself: connections of the
// allowed peers come out of Accept as net.Conn; stream.PeerOf says who it is.
// Peers are given in any spelling; "*" allows everybody. Errors as in Expose.
func (n *Node) Listen(service string, allow ...string) (net.Listener, error) {
	cfg := tunnel.ServiceConfig{AllowCustomProtocol: true}
	var named []string
	for _, a := range allow {
		if a == "*" {
			cfg.AllowAny = true
		} else {
			named = append(named, a)
		}
	}
	var err error
	if cfg.Allow, err = n.peers(n.ctx, named); err != nil {
		return nil, err
	}
	l, err := n.tunnels.Listen(service, func(c *tunnel.ServiceConfig) { *c = cfg })
	if err != nil {
		return nil, classify(err)
	}
	return &listener{l: l, addr: serviceAddr(n.host.ID().String() + "/" + service)}, nil
}

// Dial connects to a service of a peer: one offered by Listen, or a port
// exposed there. It blocks until the service has answered; a refusal is a
// *tunnel.Error. A service with a / in front at a peer that is not kith answers
// with the first read only.
func (n *Node) Dial(ctx context.Context, peer, service string) (net.Conn, error) {
	id, err := n.peer(ctx, peer)
	if err != nil {
		return nil, err
	}
	c, err := n.tunnels.Open(ctx, id, service, func(c *tunnel.ForwardConfig) { c.Wait = n.cfg.Wait })
	if err != nil {
		return nil, classify(err)
	}
	return c, nil
}

// Forward binds a local socket to a service of a peer, after it has looked for
// at most 5 s whether the peer would serve it. Errors: ErrUsage, ErrUnknownPeer,
// *tunnel.Error when the peer would refuse, and the system's when the socket cannot
// be bound, such as syscall.EADDRINUSE.
func (n *Node) Forward(ctx context.Context, f Forward) (Mount, error) {
	id, err := n.peer(ctx, f.Peer)
	if err != nil {
		return Mount{}, err
	}
	if f.Listen == "" {
		f.Listen = "127.0.0.1:0"
	}
	bind, err := address.TargetMultiaddr(f.Listen)
	if err != nil {
		return Mount{}, badSocket(err)
	}
	if !f.Anyway && !n.known(id) && n.dht == nil {
		return Mount{}, fmt.Errorf("%w: no address of %s is known; give a full address that ends in /p2p/%s, as `kith up` prints it there", ErrUnknownPeer, id, id)
	}
	cfg := tunnel.ForwardConfig{Wait: f.Wait, Timeout: f.Timeout, Once: f.Once, AllowCustomProtocol: f.AllowCustomProtocol}
	if cfg.Wait == 0 {
		cfg.Wait = n.cfg.Wait
	}
	var warning string
	cfg.Admit = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		err := n.tunnels.Probe(ctx, id, f.Name)
		if err == nil {
			return nil
		}
		fail := !f.Anyway
		if e, ok := errors.AsType[*tunnel.Error](err); ok && !e.Remote {
			fail = f.Check || !f.Anyway && tunnel.WrongPeer(err) // not refused, only not reached
		}
		if fail {
			return err
		}
		warning = plain(err).Error()
		return nil
	}
	info, err := n.tunnels.Dial(ctx, nil, id, f.Name, bind, func(c *tunnel.ForwardConfig) { *c = cfg })
	if err != nil {
		return Mount{}, classify(err)
	}
	m := mountOf(*info)
	m.Warning = warning
	return m, nil
}

// Mounts lists what is exposed and forwarded, in the order it was made.
func (n *Node) Mounts() []Mount {
	var out []Mount
	for _, i := range n.tunnels.Listeners.List() {
		out = append(out, mountOf(i))
	}
	return out
}

// CloseMounts closes what matches and returns it; nothing matching is no
// error. Live connections go on unless m.Streams says otherwise.
func (n *Node) CloseMounts(m Match) ([]Mount, error) {
	any := m.ID != 0 || m.Name != "" || m.ListenAddress != "" || m.TargetAddress != ""
	switch {
	case m.All && any:
		return nil, usage("all of them, or those that match: not both")
	case !m.All && !any:
		return nil, usage("nothing to close was named")
	}
	match := func(i tunnel.ListenerInfo) bool {
		return m.All || (m.ID == 0 || m.ID == i.ID) && (m.Name == "" || m.Name == i.Protocol) &&
			sameAddr(m.ListenAddress, i.Address) && sameAddr(m.TargetAddress, i.TargetAddress)
	}
	for _, s := range []string{m.ListenAddress, m.TargetAddress} {
		if _, err := ma.NewMultiaddr(s); s != "" && err != nil {
			return nil, badMultiaddr(s, err)
		}
	}
	var out []Mount
	for _, i := range n.tunnels.Listeners.Close(match) {
		out = append(out, mountOf(i))
		if m.Streams {
			for _, s := range n.tunnels.Streams.List() {
				if s.Mount == i.ID {
					n.tunnels.Streams.Reset(s.ID)
				}
			}
		}
	}
	return out, nil
}

// sameAddr says whether a mount's address is the one asked for.
func sameAddr(want string, got ma.Multiaddr) bool {
	if want == "" {
		return true
	}
	w, err := ma.NewMultiaddr(want)
	return err == nil && got != nil && w.Equal(got)
}

// Hold blocks until ctx ends, and then removes the mount, or until someone
// else has removed it. Errors: ErrNoSuchMount.
func (n *Node) Hold(ctx context.Context, id uint64) error {
	for _, i := range n.tunnels.Listeners.List() {
		if i.ID != id {
			continue
		}
		select {
		case <-i.Done:
		case <-ctx.Done():
			return i.Closer.Close()
		}
		return nil
	}
	return fmt.Errorf("%w: %d", ErrNoSuchMount, id)
}

func (n *Node) peers(ctx context.Context, spellings []string) ([]peer.ID, error) {
	var out []peer.ID
	for _, s := range spellings {
		id, err := n.peer(ctx, s)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, nil
}

func mountOf(i tunnel.ListenerInfo) Mount {
	m := Mount{
		ID: i.ID, Kind: Kind(i.Kind), Name: i.Protocol, Since: i.Since, AllowAny: i.AllowAny,
		ListenAddress: i.Address.String(),
		Connections:   i.Connections, Waiting: i.Waiting, Accepted: i.Accepted, Refused: i.Refused, BytesIn: i.BytesIn, BytesOut: i.BytesOut,
	}
	socket := i.Address
	if i.Kind == tunnel.KindExpose {
		socket = i.TargetAddress
	}
	if i.TargetAddress != nil {
		m.TargetAddress = i.TargetAddress.String()
	}
	if socket != nil {
		m.Local = address.HumanAddr(socket)
	}
	for _, p := range i.Allow {
		m.Allow = append(m.Allow, p.String())
	}
	if i.LastError != nil {
		m.LastError = tunnel.OwnerText(i.LastError)
	}
	return m
}

// classify marks the errors that are the caller's.
func classify(err error) error {
	switch {
	case errors.Is(err, tunnel.ErrName), errors.Is(err, tunnel.ErrAddress), errors.Is(err, tunnel.ErrOption):
		return &usageError{err}
	case errors.Is(err, tunnel.ErrClosed):
		return ErrClosed
	}
	return plain(err)
}

// listener is the net.Listener of Listen.
type listener struct {
	l    *tunnel.P2PListener
	addr net.Addr
}

func (l *listener) Accept() (net.Conn, error) { return l.l.AcceptConn() }
func (l *listener) Close() error              { return l.l.Close() }
func (l *listener) Addr() net.Addr            { return l.addr }

type serviceAddr string

func (serviceAddr) Network() string  { return "kith" }
func (a serviceAddr) String() string { return string(a) }
