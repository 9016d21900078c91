package p2ptest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// hostile is a peer that does something that is not allowed, to one node: it
// speaks over the bare memory transport.
type hostile struct {
	n         *Network
	l         *life // of the node
	key       p2p.PrivKey
	place     netip.AddrPort
	transport *memory.Transport
	rng       *rand.Rand
	deadline  time.Time
	ctx       context.Context
}

// hostileSteps are what hostile peers do. A step returns errGone when the node was
// not there for it, another error when the node did not do what it should.
var hostileSteps = slices.Concat(hostileHandshakes, hostileMessages, hostileExchanges)

// hostileStep is one of them.
type hostileStep struct {
	name string
	do   func(*hostile) error
}

// errGone says that a node was busy with other faults: it was not reached, did not
// let the hostile peer in, or ended meanwhile.
var errGone = errors.New("p2ptest: the node is not there")

// hostileFirst is the number of the first key of hostile peers.
const hostileFirst = 1 << 32

// beHostile begins a step of a hostile peer against a node.
func (n *Network) beHostile(l *life, s Step) bool {
	step := hostileSteps[s.Choice%uint64(len(hostileSteps))]
	h := &hostile{n: n, key: n.key(hostileFirst + n.moves), place: n.newPlace(), rng: n.random(4, s.Choice)}
	n.checker.enemy(h.id())
	var err error
	if h.transport, err = n.mem.Listen(h.id(), h.place); err != nil {
		n.checker.fail(err)
		return true
	}
	war := n.war
	n.hostile.Go(func() {
		var stop context.CancelFunc
		h.ctx, stop = context.WithTimeout(war, 5*time.Minute)
		defer stop()
		node := l.node
		for {
			err := errGone
			if h.l = node.alive(); h.l != nil {
				h.deadline = time.Now().Add(max(s.Lasts, 15*time.Second))
				err = step.do(h)
			}
			switch {
			case err == nil:
				n.checker.happened(FaultHostileStep)
				n.checker.stepped(step.name)
				n.checker.event("hostile %.8s to node %d: %s", h.id(), node.index, step.name)
			case !errors.Is(err, errGone) && h.ctx.Err() == nil && node.alive() == h.l:
				n.checker.fail(fmt.Errorf("node %d: hostile peer %.8s: %s: %w", node.index, h.id(), step.name, err))
			case h.sleep(10 * time.Second):
				continue
			}
			break
		}
		n.mem.Crash(h.id())
	})
	return true
}

func (h *hostile) id() p2p.NodeID { return h.key.Public().NodeID() }

// info is what an honest node would say.
func (h *hostile) info() p2p.NodeInfo {
	info := p2p.NodeInfo{NodeID: h.id(), Network: "simulation", Moniker: "honest", ListenAddr: "0.0.0.0:26656", Channels: []p2p.ChannelID{p2p.PEXChannel}}
	for id := range trafficChannels {
		info.Channels = append(info.Channels, id)
	}
	slices.Sort(info.Channels)
	info.Extensions = p2p.Extensions{Kith: true, RequestChannels: []p2p.ChannelID{channelCalls}}
	return info
}

// dial connects to the node.
func (h *hostile) dial() (*memory.Connection, error) {
	at := h.l.node.Address()
	endpoints, err := at.Resolve(h.ctx)
	if err != nil {
		return nil, err
	}
	conn, err := h.transport.Dial(h.ctx, endpoints[0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	return conn.(*memory.Connection), nil
}

// shake dials and shakes hands. An error of the handshake is the caller's to judge.
func (h *hostile) shake(info p2p.NodeInfo, key p2p.PrivKey) (conn *memory.Connection, refused error, err error) {
	if conn, err = h.dial(); err != nil {
		return nil, nil, err
	}
	ctx, stop := context.WithTimeout(h.ctx, 11*time.Second)
	defer stop()
	_, _, refused = conn.Handshake(ctx, info, key)
	return conn, refused, nil
}

// session is a hostile peer that was let in.
type session struct {
	*hostile
	conn  *memory.Connection
	ended chan struct{} // closed when the connection has ended
	heard chan []byte   // the latest messages of peer exchange
	mute  atomic.Bool   // stop reading
}

// enter becomes a peer of the node.
func (h *hostile) enter() (*session, error) {
	conn, refused, err := h.shake(h.info(), h.key)
	if err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, fmt.Errorf("%w: %w", errGone, refused)
	}
	s := &session{hostile: h, conn: conn, ended: make(chan struct{}), heard: make(chan []byte, 4)}
	h.n.hostile.Go(s.read)
	if !s.until(5*time.Second, func() bool { return h.l.pm.Status(h.id()) == p2p.PeerStatusUp }) {
		return nil, fmt.Errorf("%w: it does not let a stranger in", errGone)
	}
	return s, nil
}

// read takes what arrives until the connection ends.
func (s *session) read() {
	defer close(s.ended)
	for {
		id, data, err := s.conn.ReceiveMessage()
		if err != nil {
			return
		}
		s.n.checker.hostileRead(id)
		if id == p2p.PEXChannel {
			select {
			case s.heard <- data:
			default:
			}
		}
		for s.mute.Load() {
			if !s.sleep(time.Second) {
				break
			}
		}
	}
}

// sleep waits, until the step is to end.
func (h *hostile) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-h.ctx.Done():
		return false
	}
}

// until waits until something is so.
func (h *hostile) until(d time.Duration, is func() bool) bool {
	for end := time.Now().Add(d); !is(); {
		if time.Now().After(end) || !h.sleep(50*time.Millisecond) {
			return false
		}
	}
	return true
}

// send sends a message. It says no when the connection has ended.
func (s *session) send(id p2p.ChannelID, data []byte) bool {
	for most := s.conn.MaxChunk(); len(data) > most; data = data[most:] {
		if s.conn.SendChunk(id, data[:most], false) != nil {
			return false
		}
	}
	if s.conn.SendChunk(id, data, true) != nil {
		return false
	}
	s.n.checker.hostileWrote(id)
	return s.conn.Flush() == nil
}

// mustEnd waits for the node to close the connection.
func (s *session) mustEnd(within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-s.ended:
		return nil
	case <-s.ctx.Done():
		return errGone
	case <-timer.C:
		return fmt.Errorf("the connection still stands after %v", within)
	}
}

// stats is what the node counts on a channel.
func (h *hostile) stats(id p2p.ChannelID) p2p.ChannelStats { return h.l.traffic.chans[id].Stats() }

// takes says that the receivers of the node take messages, so that counters move.
func (h *hostile) takes() bool {
	h.l.traffic.mu.Lock()
	defer h.l.traffic.mu.Unlock()
	return h.l.traffic.held == nil
}
