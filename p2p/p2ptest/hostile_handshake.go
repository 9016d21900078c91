package p2ptest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// hostileHandshakes never become peers.
var hostileHandshakes = []hostileStep{
	{"says nothing", sayNothing},
	{"hangs up at once", hangUp},
	{"dials without end", dialOften},
	{"another network", refusedFor(func(h *hostile, info *p2p.NodeInfo) { info.Network = "elsewhere" })},
	{"another block version", refusedFor(func(h *hostile, info *p2p.NodeInfo) { info.ProtocolVersion.Block = 9 })},
	{"no common channel", refusedFor(func(h *hostile, info *p2p.NodeInfo) { info.Channels = []p2p.ChannelID{0x99} })},
	{"the ID of another node", refusedFor(func(h *hostile, info *p2p.NodeInfo) {
		info.NodeID = h.n.nodes[(h.l.node.index+1)%len(h.n.nodes)].id
	})},
	{"ten thousand channels", refusedFor(func(h *hostile, info *p2p.NodeInfo) {
		info.Channels = nil
		for id := range p2p.ChannelID(10_000) {
			info.Channels = append(info.Channels, id)
		}
	})},
	{"a moniker of 50,000 bytes", refusedFor(func(h *hostile, info *p2p.NodeInfo) { info.Moniker = string(fill(50_000, 'a')) })},
	{"the node's own key", ownKey},
}

// sayNothing connects and waits: the node hangs up when its time for a handshake
// is over.
func sayNothing(h *hostile) error {
	conn, err := h.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if !h.sleep(10*time.Second + 500*time.Millisecond) {
		return errGone
	}
	ctx, stop := context.WithTimeout(h.ctx, time.Second)
	defer stop()
	if _, _, err := conn.Handshake(ctx, h.info(), h.key); err == nil || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the node waits for a handshake for more than 10 s: %v", err)
	}
	return nil
}

func hangUp(h *hostile) error {
	conn, err := h.dial()
	if err != nil {
		return err
	}
	return conn.Close()
}

// dialOften is refused, by the rate of its source, and in any case never holds
// more places than its address may.
func dialOften(h *hostile) error {
	open := 0
	for range 50 {
		conn, err := h.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		open++
	}
	if !h.sleep(time.Second) {
		return errGone
	}
	mine, at := 0, h.l.router.Stats().Engine
	for _, p := range at.Handshakes {
		if p.IP == h.place.Addr() {
			mine++
		}
	}
	if mine > 4 {
		return fmt.Errorf("of %d connections from one address %d may shake hands", open, mine)
	}
	return nil
}

// refusedFor shakes hands with a lie or a mismatch.
func refusedFor(what func(*hostile, *p2p.NodeInfo)) func(*hostile) error {
	return func(h *hostile) error {
		info := h.info()
		what(h, &info)
		return h.mustRefuse(info, h.key)
	}
}

func ownKey(h *hostile) error {
	info := h.info()
	info.NodeID = h.l.node.id
	return h.mustRefuse(info, h.l.node.key)
}

// mustRefuse shakes hands and waits for the node to close the connection.
func (h *hostile) mustRefuse(info p2p.NodeInfo, key p2p.PrivKey) error {
	conn, refused, err := h.shake(info, key)
	if err != nil {
		return err
	}
	defer conn.Close()
	if refused != nil {
		return nil
	}
	s := &session{hostile: h, conn: conn, ended: make(chan struct{}), heard: make(chan []byte, 4)}
	h.n.hostile.Go(s.read)
	err = s.mustEnd(2 * time.Second)
	if h.l.pm.Status(h.id()) == p2p.PeerStatusUp {
		return errors.New("the peer is up")
	}
	return err
}
