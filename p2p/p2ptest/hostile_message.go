package p2ptest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kith-p2p/kith/p2p"
)

// hostileMessages come from peers that were let in.
var hostileMessages = []hostileStep{
	{"an unknown channel", inside(func(s *session) error {
		s.send(0x7E, []byte("hello"))
		return s.mustEnd(2 * time.Second)
	})},
	{"a message without end", inside(func(s *session) error {
		for s.conn.SendChunk(channelUrgent, make([]byte, 1<<10), false) == nil && s.conn.Flush() == nil {
			if !s.sleep(time.Millisecond) {
				return errGone
			}
		}
		return s.mustEnd(2 * time.Second)
	})},
	{"half a message", inside(func(s *session) error {
		_ = s.conn.SendChunk(channelBulk, make([]byte, 1<<10), false)
		_ = s.conn.Flush()
		return s.conn.Close()
	})},
	{"messages that cannot be decoded", inside(func(s *session) error {
		return s.moves(func() { s.repeat(40, channelUrgent, []byte{0xff, 0xff, 0xff}) }, func() uint64 { return s.stats(channelUrgent).Undecodable })
	})},
	{"empty messages without end", inside(func(s *session) error {
		return s.moves(func() { s.repeat(2000, channelUrgent, nil) }, func() uint64 { return s.stats(channelUrgent).Received.Received })
	})},
	{"frames that are none", inside(func(s *session) error {
		return s.moves(func() { s.repeat(40, channelCalls, []byte{9, 9, 9}) }, func() uint64 { return s.stats(channelCalls).Malformed })
	})},
	{"replies to nothing", inside(func(s *session) error {
		return s.moves(func() {
			for i := range 100 {
				s.send(channelCalls, binary.AppendUvarint([]byte{2}, uint64(i)))
			}
		}, func() uint64 { return s.stats(channelCalls).Unexpected })
	})},
	{"requests without end", inside(func(s *session) error {
		for i := range 3000 {
			if !s.send(channelCalls, append(binary.AppendUvarint([]byte{1}, uint64(i)), 0)) {
				return nil
			}
		}
		if open := s.stats(channelCalls).Open; open > 2048 {
			return fmt.Errorf("%d requests are open", open)
		}
		return nil
	})},
	{"never reads", inside(func(s *session) error {
		s.mute.Store(true)
		for s.sleep(time.Second) && time.Now().Before(s.deadline) {
			s.l.traffic.broadcast(s.ctx) // which must not take any time
		}
		s.mute.Store(false)
		return nil
	})},
	{"comes back though it is banned", inside(func(s *session) error {
		s.l.node.ban(s.l, s.id(), 10*time.Minute)
		if err := s.mustEnd(2 * time.Second); err != nil {
			return err
		}
		for range 3 {
			if err := s.mustRefuse(s.info(), s.key); err != nil {
				return err
			}
			if !s.sleep(10 * time.Second) {
				break
			}
		}
		return nil
	})},
}

// hostileExchanges are about addresses.
var hostileExchanges = []hostileStep{
	{"addresses that nobody asked for", inside(func(s *session) error {
		lies := s.falsehoods(50)
		err := s.moves(func() { s.repeat(4, p2p.PEXChannel, tell(lies)) }, func() uint64 { return s.l.pex.Stats().Unsolicited })
		for _, a := range lies {
			if err == nil && len(s.l.pm.Addresses(a.NodeID)) > 0 && s.l.pex.Stats().Asked == 0 {
				err = fmt.Errorf("the node learnt %v", a)
			}
		}
		return err
	})},
	{"asks for addresses without end", inside(func(s *session) error {
		return s.moves(func() {
			s.repeat(200, p2p.PEXChannel, protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), nil))
		}, func() uint64 { return s.l.pex.Stats().Refused })
	})},
	{"nonsense for addresses", inside(func(s *session) error {
		s.repeat(20, p2p.PEXChannel, fill(1000, byte(s.rng.Uint32())))
		return nil
	})},
	{"false addresses, when it is asked", inside(func(s *session) error {
		for time.Now().Before(s.deadline) {
			select {
			case <-s.heard:
				s.send(p2p.PEXChannel, tell(s.falsehoods(250)))
			case <-s.ended:
				return nil
			case <-time.After(time.Second):
			}
		}
		return nil
	})},
}

// inside makes a step of what a peer does that was let in.
func inside(do func(*session) error) func(*hostile) error {
	return func(h *hostile) error {
		s, err := h.enter()
		if err != nil {
			return err
		}
		defer s.conn.Close()
		return do(s)
	}
}

func (s *session) repeat(times int, id p2p.ChannelID, data []byte) {
	for range times {
		if !s.send(id, data) {
			return
		}
	}
}

// moves does something and wants a counter of the node to grow by it, unless the
// node hung up on it or takes no messages now.
func (s *session) moves(do func(), count func() uint64) error {
	if !s.takes() {
		return errGone
	}
	before := count()
	do()
	grown := s.until(5*time.Second, func() bool { return count() > before || !s.takes() })
	select {
	case <-s.ended:
		return nil
	default:
	}
	if !grown && s.ctx.Err() == nil {
		return errors.New("it was not counted")
	}
	return nil
}

// falsehoods are addresses at which nobody is, or somebody else.
func (h *hostile) falsehoods(n int) []p2p.NodeAddress {
	var as []p2p.NodeAddress
	for i := range n {
		a := h.n.nodes[h.rng.IntN(len(h.n.nodes))].Address()
		if i%4 > 0 {
			a.Hostname = fmt.Sprintf("%d.%d.1.1", 130+h.rng.IntN(20), h.rng.IntN(256))
		}
		a.NodeID = p2p.NodeID(fmt.Sprintf("%040x", h.rng.Uint64()))
		as = append(as, a)
	}
	return as
}

// tell is a reply of peer exchange.
func tell(as []p2p.NodeAddress) []byte {
	var body []byte
	for _, a := range as {
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), a.String())
		body = protowire.AppendBytes(protowire.AppendTag(body, 1, protowire.BytesType), entry)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, 4, protowire.BytesType), body)
}
