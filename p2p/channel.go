package p2p

import (
	"context"

	"google.golang.org/protobuf/proto"
)

// Envelope is a message on its way: to a peer, to all (Broadcast), or from one.
type Envelope struct {
	From      NodeID // of received ones
	To        NodeID // of sent ones
	Broadcast bool   // to all peers that have the channel; To is then ignored
	Message   proto.Message
	ChannelID ChannelID // of received ones
}

// PeerError is what a user of a channel holds against a peer. A fatal one ends
// the connection, another one lowers the peer's score.
type PeerError struct {
	NodeID NodeID
	Err    error
	Fatal  bool
}

// Channel is a channel as ADR 062 draws it: envelopes come out of In and go into
// Out, errors about peers into Error. OpenTyped has the same with types, reasons
// and contexts, and is what new programs should use.
//
// What is sent into Out is queued for its peer, or dropped and counted when that
// has no room, is not connected, or lacks the channel: a slow peer never holds
// up the others. Messages that cannot be decoded never come out of In; they are
// counted and held against the peer.
//
// Close closes Done and In. Out and Error stay open, and what is sent into them
// afterwards is dropped and counted, until the Router stops: after that, nobody
// takes from them, so a sender must watch Done as well.
type Channel struct {
	ID    ChannelID
	In    <-chan Envelope
	Out   chan<- Envelope
	Error chan<- PeerError

	core   *channelCore
	filled chan struct{} // closed when nobody fills In any more
}

// OpenChannel opens a channel for messages of one type; messageType is an
// example of it, such as new(mypb.Message). With a Wrapper, what is sent is
// wrapped and what arrives is unwrapped. It returns ErrChannelOpen for a channel
// that is open, ErrClosed after Stop, ErrPauseUnsupported for a policy that a
// transport cannot follow, ErrRequestsNeedTyped with WithRequests. Peers that
// connected before do not learn of it.
func (r *Router) OpenChannel(id ChannelID, messageType proto.Message, opts ...ChannelOption) (*Channel, error) {
	core, err := r.openCore(id, messageType, false, opts)
	if err != nil {
		return nil, err
	}
	in, out, faults := make(chan Envelope), make(chan Envelope), make(chan PeerError)
	c := &Channel{ID: id, In: in, Out: out, Error: faults, core: core, filled: make(chan struct{})}
	filling := r.inBackground(func() { c.fill(in) })
	if !filling || !r.inBackground(func() { c.drain(out, faults) }) {
		if !filling {
			close(in)
			close(c.filled)
		}
		_ = c.Close()
		return nil, ErrClosed
	}
	return c, nil
}

// fill moves what arrives into In.
func (c *Channel) fill(in chan<- Envelope) {
	defer close(c.filled)
	defer close(in)
	for {
		got, err := c.core.receive(context.Background())
		if err != nil {
			return
		}
		select {
		case in <- Envelope{From: got.from, Message: got.message, ChannelID: c.ID}:
		case <-c.core.done:
			return
		}
	}
}

// drain takes from Out and Error until the Router ends.
func (c *Channel) drain(out <-chan Envelope, faults <-chan PeerError) {
	for {
		select {
		case e := <-out:
			c.send(e)
		case f := <-faults:
			if c.core.closed() {
				c.core.late.Add(1)
				continue
			}
			c.core.report(f)
		case <-c.core.r.ending:
			return
		}
	}
}

func (c *Channel) send(e Envelope) {
	var err error
	switch {
	case c.core.closed():
		c.core.late.Add(1)
		return
	case e.Broadcast:
		_, err = c.core.broadcast(e.Message)
	default:
		err = c.core.send(context.Background(), e.To, e.Message, false)
	}
	if err != nil {
		c.core.r.o.Logger.Debug("message not sent", "channel", c.core.d.Name, "to", e.To, "err", err)
	}
}

// Done is closed by Close and when the Router stops.
func (c *Channel) Done() <-chan struct{} { return c.core.done }

// Close closes the channel: nothing arrives any more, and nothing is sent. It
// blocks until In is closed. A second call does nothing.
func (c *Channel) Close() error {
	c.core.close()
	<-c.filled
	return nil
}

// Stats are the channel's counts.
func (c *Channel) Stats() ChannelStats { return c.core.stats() }
