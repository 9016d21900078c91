package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
)

// Errors of channels, beside those of the queue.
var (
	// ErrChannelOpen says that the channel is open already.
	ErrChannelOpen = errors.New("p2p: the channel is open already")
	// ErrPauseUnsupported says that a channel wants ReceivePause, but a transport
	// of the Router has one reader for all channels, which it would stop.
	ErrPauseUnsupported = errors.New("p2p: ReceivePause needs transports with flow control for each channel")
	// ErrRequestsNeedTyped says that OpenChannel was asked for a channel with
	// requests: an Envelope has no way to reply to one, so that whoever asks would
	// wait to its deadline. OpenTyped has.
	ErrRequestsNeedTyped = errors.New("p2p: an Envelope cannot answer requests: open the channel with OpenTyped, or without requests")
)

// channelCore is a channel under both faces, Channel and TypedChannel: it turns
// messages into bytes for the peers' schedulers and back.
type channelCore struct {
	r     *Router
	id    ChannelID
	d     ChannelDescriptor
	codec codec
	in    *inboundQueue
	calls *callTable

	once sync.Once
	done chan struct{}

	former SendStats // of sessions that ended; Router.mu guards it

	undecodable, malformed, unencodable, noPeer, late, gone, unsupported atomic.Uint64
}

func (r *Router) openCore(id ChannelID, messageType proto.Message, typed bool, opts []ChannelOption) (*channelCore, error) {
	var d ChannelDescriptor
	for _, o := range opts {
		o(&d)
	}
	d = d.withDefaults(id)
	if err := d.validate(); err != nil {
		return nil, err
	}
	if d.Requests && !typed {
		return nil, fmt.Errorf("%w (channel %s)", ErrRequestsNeedTyped, d.Name)
	}
	if d.ReceivePolicy == ReceivePause {
		for _, t := range r.o.Transports {
			if _, ok := t.(FlowControlled); !ok {
				return nil, fmt.Errorf("%w: %v has none", ErrPauseUnsupported, t.Protocols())
			}
		}
	}
	codec, err := newCodec(messageType)
	if err != nil {
		return nil, err
	}
	if typed { // the messages are the wrappers themselves
		codec.wrapper = false
	}
	c := &channelCore{r: r, id: id, d: d, codec: codec, calls: newCallTable(), done: make(chan struct{})}
	perPeer := queueLimits{messages: d.RecvQueueCapacity, bytes: d.RecvQueueBytes}
	if d.Requests { // the longest message fits with its head, and a number of ours
		perPeer.bytes = max(perPeer.bytes, d.RecvMessageCapacity+callHeadMax+callNumber)
	}
	total := queueLimits{messages: 16 * d.RecvQueueCapacity, bytes: max(perPeer.bytes, d.RecvTotalBytes)}
	if c.in, err = newInboundQueue(d.ReceivePolicy, perPeer, total, d.RecvMessageCapacity); err != nil {
		return nil, err
	}
	if err := r.addChannel(c); err != nil {
		return nil, err
	}
	return c, nil
}

// close takes the channel out of the Router and ends everything that waits.
func (c *channelCore) close() {
	c.once.Do(func() {
		c.r.removeChannel(c)
		close(c.done)
		c.in.close()
		c.calls.close()
	})
}

func (c *channelCore) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// frame encodes a message behind its head: that of a plain one is a byte, which
// is cut off for peers without requests.
func (c *channelCore) frame(h callHead, m proto.Message) ([]byte, error) {
	var head [callHeadMax]byte
	return c.encode(h.append(head[:0]), m)
}

func (c *channelCore) encode(head []byte, m proto.Message) ([]byte, error) {
	b, err := c.codec.encode(head, m, c.d.RecvMessageCapacity)
	if err != nil {
		c.unencodable.Add(1)
		return nil, fmt.Errorf("%w (channel %s)", err, c.d.Name)
	}
	return b, nil
}

func (c *channelCore) plainFor(p *remote, frame []byte) []byte {
	if p.calls.Contains(c.id) {
		return frame
	}
	return frame[1:]
}

func (c *channelCore) deadline() time.Time {
	if c.d.SendTimeout == 0 {
		return time.Time{}
	}
	return time.Now().Add(c.d.SendTimeout)
}

func (c *channelCore) peer(id NodeID) (*remote, error) {
	if c.closed() {
		return nil, ErrClosed
	}
	p := (*c.r.peers.Load())[id]
	if p == nil {
		c.noPeer.Add(1)
		return nil, fmt.Errorf("%w: %v is not connected", ErrPeerUnknown, id)
	}
	return p, nil
}

// send queues one message for one peer. With wait, and where the policy is to
// block, it waits for room until the context ends.
func (c *channelCore) send(ctx context.Context, to NodeID, m proto.Message, wait bool) error {
	p, err := c.peer(to)
	if err != nil {
		return err
	}
	var data []byte
	if p.calls.Contains(c.id) {
		data, err = c.frame(callHead{}, m)
	} else {
		data, err = c.encode(nil, m)
	}
	if err != nil {
		return err
	}
	return c.put(ctx, p, data, wait)
}

// put queues what is for this peer alone; it keeps the bytes.
func (c *channelCore) put(ctx context.Context, p *remote, data []byte, wait bool) error {
	var err error
	if wait {
		err = p.queue.put(ctx, c.id, data, c.deadline(), true)
	} else {
		err = p.queue.try(c.id, data, c.deadline(), true)
	}
	if err == nil || errors.Is(err, ErrMessageTooLarge) {
		return err
	}
	c.count(err)
	return fmt.Errorf("%w: %s to %v", err, c.d.Name, p.id)
}

// count counts what the queues' own counts, which end with their sessions and
// know no channel that the peer lacks, may not tell.
func (c *channelCore) count(err error) {
	switch {
	case errors.Is(err, ErrQueueClosed):
		c.gone.Add(1)
	case errors.Is(err, ErrChannelUnsupported):
		c.unsupported.Add(1)
	}
}

// broadcast queues one message for every peer that has the channel, encoded
// once, and says for how many it was queued. It never waits: a peer whose queue
// is full loses the message, counted there.
func (c *channelCore) broadcast(m proto.Message) (queued int, err error) {
	if c.closed() {
		return 0, ErrClosed
	}
	frame, err := c.frame(callHead{}, m)
	if err != nil {
		return 0, err
	}
	deadline := c.deadline()
	for _, p := range *c.r.peers.Load() {
		if p.channels.Contains(c.id) && c.offer(p, frame, deadline) == nil {
			queued++
		}
	}
	return queued, nil
}

// sendMany is broadcast for some, and says for which.
func (c *channelCore) sendMany(to []NodeID, m proto.Message) (queued []NodeID, err error) {
	if c.closed() {
		return nil, ErrClosed
	}
	frame, err := c.frame(callHead{}, m)
	if err != nil {
		return nil, err
	}
	deadline := c.deadline()
	var faults []error
	for _, id := range to {
		p, err := c.peer(id)
		if err == nil {
			err = c.offer(p, frame, deadline)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		queued = append(queued, id)
	}
	return queued, errors.Join(faults...)
}

// offer queues an encoded message, which others share, unless it would have to
// wait.
func (c *channelCore) offer(p *remote, frame []byte, deadline time.Time) error {
	err := p.queue.trySend(c.id, c.plainFor(p, frame), deadline)
	if err == nil {
		return nil
	}
	c.count(err)
	return fmt.Errorf("%w: %s to %v", err, c.d.Name, p.id)
}

// callNumber is what a request's own number takes in the queue.
const callNumber = 8

// arrived is called by the read loops: it queues a message for the receiver, and
// settles what is not for the receiver. It blocks only with ReceivePause. On a
// channel with requests, what is queued has its head, and a request the number
// behind it under which it is registered.
func (c *channelCore) arrived(p *remote, data []byte) {
	stop := p.conn.Done()
	if !p.calls.Contains(c.id) {
		queued := data
		if c.d.Requests {
			queued = append([]byte{byte(callPlain)}, data...)
		}
		if c.in.push(stop, p.id, queued) != nil {
			c.r.giveBack(data)
		}
		return
	}
	head, body, err := parseCall(data)
	if err != nil {
		c.malformed.Add(1)
		c.r.fault(p.id, c, err)
		return
	}
	switch head.kind {
	case callPlain:
		queued := data
		if !c.d.Requests { // the channel was opened again, without
			queued = body
		}
		if c.in.push(stop, p.id, queued) != nil {
			c.r.giveBack(data)
		}
	case callRequest:
		call := c.calls.arrive(c, p, head)
		if call != nil && c.in.push(stop, p.id, binary.BigEndian.AppendUint64(data, call.number)) != nil {
			call.end()
		}
	case callReply:
		c.calls.reply(p, head.id, reply{data, body})
	case callCancel:
		c.calls.cancel(p, head.id)
	}
}

// receive blocks for the next message that can be decoded. Those that cannot are
// counted and held against their senders; requests that were cancelled, or came
// too late, are passed over.
func (c *channelCore) receive(ctx context.Context) (incoming, error) {
	for {
		got, err := c.in.receive(ctx)
		if err != nil {
			if errors.Is(err, ErrQueueClosed) {
				err = ErrClosed
			}
			return incoming{}, err
		}
		in, body := incoming{from: got.from}, got.data
		if c.d.Requests {
			if in.call, body = c.unqueue(body); body == nil {
				continue
			}
		}
		if in.message, err = c.codec.decode(body); err == nil {
			c.recycle(got.data)
			return in, nil
		}
		c.undecodable.Add(1)
		if in.call != nil {
			in.call.end()
		}
		c.r.fault(got.from, c, err)
	}
}

// unqueue takes apart what arrived queued; without a body for a request that is
// over.
func (c *channelCore) unqueue(data []byte) (call *incomingCall, body []byte) {
	if callKind(data[0]) == callPlain {
		return nil, data[1:]
	}
	end := len(data) - callNumber
	if call = c.calls.lookup(binary.BigEndian.Uint64(data[end:])); call == nil {
		return nil, nil
	}
	_, body, _ = parseCall(data[:end])
	return call, body
}

// recycle gives the memory of a message that was decoded back to the transport.
func (c *channelCore) recycle(data []byte) {
	if c.codec.copies {
		c.r.giveBack(data)
	}
}

// giveBack is recycle of what nobody has looked at: a channel that nobody reads must
// not keep the collector busy.
func (r *Router) giveBack(data []byte) {
	if to := r.recycler.Load(); to != nil {
		(*to).Recycle(data)
	}
}

// incoming is a message as the receiver sees it.
type incoming struct {
	from    NodeID
	message proto.Message
	call    *incomingCall
}

// report is what a user says of a peer on a channel.
func (c *channelCore) report(e PeerError) {
	if e.Err == nil {
		e.Err = errors.New("p2p: an error without a reason")
	}
	c.r.o.Logger.Warn("peer error", "peer", e.NodeID, "channel", c.d.Name, "err", e.Err, "fatal", e.Fatal)
	if e.Fatal {
		c.r.pm.Errored(e.NodeID, e.Err)
		return
	}
	c.r.pm.Report(e.NodeID, Behaviour{Status: PeerStatusBad, Kind: c.d.Name})
}

// fault is what the Router itself holds against a peer. It never blocks: the read
// loops call it.
func (r *Router) fault(id NodeID, c *channelCore, err error) {
	r.faults.note(badMessage{id, c.d.Name, err})
	r.pm.Report(id, Behaviour{Status: PeerStatusBad, Kind: "undecodable message"})
}
