package p2p

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/connmgr"
)

// usefulEvery is after how many received messages the engine hears that a peer
// is useful, and how far away it is.
const usefulEvery = 64

// lastWords is how long a session reads on when it cannot write any more: what the
// peer sent before it closed, its reason perhaps, may still arrive.
const lastWords = time.Second

// remote is a peer that is up: one session of it.
type remote struct {
	r        *Router
	id       NodeID
	number   uint64
	info     NodeInfo
	conn     *connmgr.Conn[dialTarget, *link]
	channels ChannelIDSet // what the peer announced
	calls    ChannelIDSet // on which both sides announced requests, as link.calls
	queue    *sendQueue   // all that waits to be sent

	received, receivedBytes atomic.Uint64
}

// newRemote makes the session of a connection; channels are those that are open.
func newRemote(r *Router, c *connmgr.Conn[dialTarget, *link], channels map[ChannelID]*channelCore) (*remote, error) {
	l := c.Raw()
	p := &remote{r: r, id: l.info.NodeID, number: c.ID(), info: l.info, conn: c, channels: make(ChannelIDSet), calls: l.calls}
	for _, id := range l.info.Channels {
		p.channels[id] = struct{}{}
	}
	if len(r.o.Transports) == 1 { // with several, a message could go back to another than it came from
		if to, ok := l.conn.(Recycler); ok {
			r.recycler.Store(&to)
		}
	}
	total := queueLimits{messages: r.o.SendQueueMessages, bytes: r.o.SendQueueBytes}
	var sends []sendChannel
	for id, ch := range channels {
		total.bytes = max(total.bytes, 4*ch.d.SendQueueBytes)
		if p.channels.Contains(id) {
			sends = append(sends, p.sendChannel(ch))
		}
	}
	var err error
	p.queue, err = newSendQueue(total, sends...)
	return p, err
}

// sendChannel is how a channel is sent to this peer.
func (p *remote) sendChannel(c *channelCore) sendChannel {
	s := sendChannel{
		id: c.id, class: c.d.Class, priority: c.d.Priority, policy: c.d.SendPolicy,
		limits: queueLimits{messages: c.d.SendQueueCapacity, bytes: c.d.SendQueueBytes}, maxMessage: c.d.RecvMessageCapacity,
	}
	if p.calls.Contains(c.id) {
		s.maxMessage += callHeadMax
		s.limits.bytes = max(s.limits.bytes, s.maxMessage)
	}
	return s
}

// run writes and reads until the connection ends.
func (p *remote) run() {
	conn := p.conn.Raw().conn
	read := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		err := runWriter(conn, p.queue)
		if err == nil {
			return
		}
		last := time.NewTimer(lastWords)
		defer last.Stop()
		select {
		case <-read:
		case <-last.C:
			_ = p.conn.CloseWith(closeCause(err))
		}
	})
	err := p.read(conn)
	close(read)
	_ = p.conn.CloseWith(closeCause(err))
	p.end()
	writer.Wait()
}

// end ends what waits for the peer: messages, senders and requests.
func (p *remote) end() {
	p.queue.close()
	for _, c := range *p.r.channels.Load() {
		c.calls.sessionEnded(p)
	}
}

// closeCause turns an end into a reason. What the transport knows of it (such as
// *mconn.GoodbyeError and *mconn.RefusedError) stays within.
func closeCause(err error) error {
	if err == io.EOF {
		return ErrPeerClosed
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", ErrPeerClosed, err)
	}
	return fmt.Errorf("p2p: connection lost: %w", err)
}

// read hands every message to its channel until the connection ends. It runs
// no code of the receivers.
func (p *remote) read(conn Connection) error {
	near, _ := conn.(rttTeller)
	if c, ok := conn.(ConcurrentReceiver); ok {
		return p.readChannels(c, near)
	}
	var last lastChannel
	for {
		id, data, err := conn.ReceiveMessage()
		if err != nil {
			return err
		}
		p.take(near, &last, id, data)
	}
}
