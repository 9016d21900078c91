package memory

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// Protocol is the protocol of addresses that name a node: memory:NODEID.
const Protocol p2p.Protocol = "memory"

// ProtocolIP is the protocol of addresses that name an IP and port of the
// network: memory-ip://NODEID@10.1.2.3:26656. For tests of what depends on IPs.
const ProtocolIP p2p.Protocol = "memory-ip"

// Errors of the network and of what runs over it.
var (
	// ErrReset says that a connection was reset, by a fault or by its node's crash.
	ErrReset = errors.New("memory: connection reset")
	// ErrRefused says that nobody listens at an endpoint, or refuses to.
	ErrRefused = errors.New("memory: connection refused")
	// ErrClosed says that the transport was closed, or its node crashed.
	ErrClosed = errors.New("memory: transport closed")
	// ErrAddressInUse says that a node or an IP and port is there already.
	ErrAddressInUse = errors.New("memory: address in use")
	// ErrHandshake says that the handshake failed, came twice, or has not come yet.
	ErrHandshake = errors.New("memory: handshake")
	// ErrUnknownChannel says that a message came on a channel that is not there.
	ErrUnknownChannel = errors.New("memory: message on an unknown channel")
	// ErrMessageTooLarge says that a message is above its channel's limit.
	// It matches p2p.ErrMessageTooLarge.
	ErrMessageTooLarge error = tooLarge{}
)

// tooLarge is memory's word for p2p.ErrMessageTooLarge.
type tooLarge struct{}

func (tooLarge) Error() string { return "memory: message above its channel's limit" }
func (tooLarge) Unwrap() error { return p2p.ErrMessageTooLarge }

// Link is how a link is in one direction. The zero value is instant.
type Link struct {
	// Latency is the time a byte is on the way.
	Latency time.Duration
	// Jitter is added to the latency at random, from none to all of it. Nothing is
	// reordered by it.
	Jitter time.Duration
	// Bandwidth is how many bytes a second go out. Every chunk costs Overhead bytes
	// more than its data. 0: no limit.
	Bandwidth int
}

// takes is how long a segment is under way that finds the link free. random is in
// [0,1).
func (l Link) takes(size int, random float64) time.Duration {
	d := l.Latency + time.Duration(random*float64(l.Jitter))
	if l.Bandwidth > 0 {
		d += time.Duration(float64(size) / float64(l.Bandwidth) * float64(time.Second))
	}
	return d
}

// Overhead is what a chunk weighs beside its data, in bytes.
const Overhead = 16

// Options are those of a network. The zero value of each is its default.
type Options struct {
	// Seed of the jitter and of the handshakes' nonces.
	Seed uint64
	// Link is how links are unless SetLink says otherwise.
	Link Link
	// MaxChunk is what connections say of themselves. Default 1,024.
	MaxChunk int
	// Window is how many bytes may be on the way or unread in one direction of a
	// connection before its sender blocks. Default 256 KiB.
	Window int
	// Batch is how many bytes are buffered before they are sent without a Flush.
	// Over a link with a bandwidth every chunk is sent at once. Default 16 KiB.
	Batch int
	// Backlog is how many connections may wait for a node's Accept; more are
	// refused. Default 128.
	Backlog int
	// BreakAfter is how long connections live across a partition before both ends
	// are reset, as a keepalive would. 0: for ever.
	BreakAfter time.Duration
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		value     *int
		otherwise int
	}{{&o.MaxChunk, 1024}, {&o.Window, 256 << 10}, {&o.Batch, 16 << 10}, {&o.Backlog, 128}} {
		if *d.value <= 0 {
			*d.value = d.otherwise
		}
	}
	return o
}

// Network is a set of nodes and the links between them. All methods are safe for
// concurrent use and none blocks.
type Network struct {
	o Options

	mu     sync.Mutex // guards the rest; taken before a pipe's, never after
	rng    *rand.Rand
	nodes  map[p2p.NodeID]*Transport
	places map[netip.AddrPort]*Transport
	links  map[route]*link
	pairs  map[*pair]struct{} // connections of which an end is open
	port   uint16             // the next that a dialler gets
	stats  Stats              // of what is over; live connections count themselves
}

// route names a link.
type route struct{ from, to p2p.NodeID }

// NewNetwork makes a network without nodes.
func NewNetwork(o Options) *Network {
	o = o.withDefaults()
	return &Network{
		o: o, rng: rand.New(rand.NewPCG(o.Seed, o.Seed^0x6b697468)),
		nodes: make(map[p2p.NodeID]*Transport), places: make(map[netip.AddrPort]*Transport),
		links: make(map[route]*link), pairs: make(map[*pair]struct{}), port: 40_000,
		stats: Stats{Channels: make(map[p2p.ChannelID]Count)},
	}
}

// Listen adds a node, which listens at memory:ID and, where places are given, at
// these as memory-ip. A node that was closed or crashed can be added again. It
// returns ErrAddressInUse, or an error about the ID.
func (n *Network) Listen(id p2p.NodeID, places ...netip.AddrPort) (*Transport, error) {
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes[id] != nil {
		return nil, fmt.Errorf("%w: %s", ErrAddressInUse, id)
	}
	t := &Transport{net: n, id: id, arrived: make(chan struct{}, 1), closed: make(chan struct{})}
	if err := n.bind(t, places); err != nil {
		return nil, err
	}
	n.nodes[id] = t
	return t, nil
}

// bind gives a node its places. n.mu is held.
func (n *Network) bind(t *Transport, places []netip.AddrPort) error {
	for _, at := range places {
		if !at.IsValid() || at.Port() == 0 {
			return fmt.Errorf("memory: %v is not an IP and port", at)
		}
		if o := n.places[at]; o != nil && o != t {
			return fmt.Errorf("%w: %v", ErrAddressInUse, at)
		}
	}
	for _, at := range t.places {
		delete(n.places, at)
	}
	t.places = append([]netip.AddrPort(nil), places...)
	for _, at := range places {
		n.places[at] = t
	}
	return nil
}

// unbind takes a node off the network. n.mu is held.
func (n *Network) unbind(t *Transport) {
	if n.nodes[t.id] == t {
		delete(n.nodes, t.id)
	}
	for _, at := range t.places {
		if n.places[at] == t {
			delete(n.places, at)
		}
	}
}

// find is the node that listens at an endpoint.
func (n *Network) find(e p2p.Endpoint) *Transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.Protocol == ProtocolIP {
		ip, _ := netip.AddrFromSlice(e.IP)
		return n.places[netip.AddrPortFrom(ip.Unmap(), e.Port)]
	}
	return n.nodes[p2p.NodeID(e.Path)]
}

// link is the link from one node to another. n.mu is held.
func (n *Network) link(from, to p2p.NodeID) *link {
	l := n.links[route{from, to}]
	if l == nil {
		l = newLink(n, n.o.Link)
		n.links[route{from, to}] = l
	}
	return l
}

func (n *Network) linkOf(from, to p2p.NodeID) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.link(from, to)
}

// random fills b from the network's seed, and is a number in [0,1).
func (n *Network) random(b []byte) float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range b {
		b[i] = byte(n.rng.Uint32())
	}
	return n.rng.Float64()
}

// join makes a connection between two nodes.
func (n *Network) join(dialler, listener *Transport, to p2p.Endpoint) (*Connection, *Connection) {
	n.mu.Lock()
	defer n.mu.Unlock()
	from := p2p.Endpoint{Protocol: Protocol, Path: string(dialler.id)}
	if to.Protocol == ProtocolIP && len(dialler.places) > 0 {
		if n.port++; n.port == 0 {
			n.port = 40_000
		}
		from = p2p.Endpoint{Protocol: ProtocolIP, IP: dialler.places[0].Addr().AsSlice(), Port: n.port}
	}
	p := &pair{net: n, broken: make(chan struct{})}
	there, back := newPipe(p, n.link(dialler.id, listener.id)), newPipe(p, n.link(listener.id, dialler.id))
	p.ends[0] = &Connection{pair: p, out: there, in: back, local: from, remote: to, dialled: true, closed: make(chan struct{})}
	p.ends[1] = &Connection{pair: p, out: back, in: there, local: to, remote: from, closed: make(chan struct{})}
	p.nodes = [2]p2p.NodeID{dialler.id, listener.id}
	n.pairs[p] = struct{}{}
	n.stats.Connections++
	return p.ends[0], p.ends[1]
}

// leave takes a connection of which both ends are closed off the network, and its
// counts into the network's.
func (n *Network) leave(p *pair) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, there := n.pairs[p]; !there {
		return
	}
	delete(n.pairs, p)
	for _, end := range p.ends {
		end.out.addTo(n.stats.Channels)
		end.out.link.remove(end.out)
	}
}

// between returns the live connections of two nodes, or of one (b is "") with all.
func (n *Network) between(a, b p2p.NodeID) []*pair {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*pair
	for p := range n.pairs {
		if b == "" && (p.nodes[0] == a || p.nodes[1] == a) || p.nodes == [2]p2p.NodeID{a, b} || p.nodes == [2]p2p.NodeID{b, a} {
			found = append(found, p)
		}
	}
	return found
}

// pair is a connection: two ends and a pipe each way.
type pair struct {
	net    *Network
	ends   [2]*Connection // the dialler's, the listener's
	nodes  [2]p2p.NodeID
	broken chan struct{} // closed by reset
	once   sync.Once
}

// reset breaks both ends at once and destroys what is on the way. It reports
// whether there was anything to break.
func (p *pair) reset() bool {
	did := false
	p.once.Do(func() {
		select {
		case <-p.ends[0].closed:
			select {
			case <-p.ends[1].closed:
				return // both ends are closed already
			default:
			}
		default:
		}
		did = true
		close(p.broken)
		for _, end := range p.ends {
			end.out.shut(ErrReset)
		}
		p.net.leave(p)
	})
	return did
}
