package p2p

import (
	"sync"
	"time"
)

// A ConcurrentReceiver is a Connection whose channels do not wait for each other
// when they are received, either: the Router then reads through ReceiveMessages, so
// that a channel with ReceivePause whose queue is full stops alone. Connections of
// a FlowControlled transport are ConcurrentReceivers.
type ConcurrentReceiver interface {
	Connection
	// ReceiveMessages calls deliver with every message until the connection ends,
	// and returns what ReceiveMessage would have. Calls for one channel follow each
	// other, in order; those for different channels may come at the same time. A
	// call may block, until the connection is closed at the latest: that stops its
	// channel only, and ReceiveMessages does not wait for it. The bytes are the
	// callee's. It is called once, instead of ReceiveMessage.
	ReceiveMessages(deliver func(ChannelID, []byte)) error
}

// rttTeller is a connection that measures round trips.
type rttTeller interface{ RTT() time.Duration }

// readChannels is read for a connection whose channels arrive independently. It
// returns when no channel is being handed a message any more.
func (p *remote) readChannels(conn ConcurrentReceiver, near rttTeller) error {
	var (
		gate    sync.RWMutex // guards over, and that handing grows only before it is set
		over    bool
		handing sync.WaitGroup
	)
	err := conn.ReceiveMessages(func(id ChannelID, data []byte) {
		gate.RLock()
		late := over
		if !late {
			handing.Add(1)
		}
		gate.RUnlock()
		if !late {
			p.take(near, new(lastChannel), id, data)
			handing.Done()
		}
	})
	gate.Lock()
	over = true
	gate.Unlock()
	_ = p.conn.CloseWith(closeCause(err)) // releases those that wait for room
	handing.Wait()
	return err
}

// lastChannel is the channel of a read loop's message before, which is mostly that of
// the next one, too.
type lastChannel struct {
	of   *map[ChannelID]*channelCore // the channels that were open then
	id   ChannelID
	core *channelCore // nil: there was none
}

func (l *lastChannel) find(r *Router, id ChannelID) *channelCore {
	if of := r.channels.Load(); l.of != of || l.id != id {
		*l = lastChannel{of, id, (*of)[id]}
	}
	return l.core
}

// take hands a message to its channel. near is nil where nobody measures.
func (p *remote) take(near rttTeller, last *lastChannel, id ChannelID, data []byte) {
	n := p.received.Add(1)
	p.receivedBytes.Add(uint64(len(data)))
	if n%usefulEvery == 1 {
		p.conn.NoteUseful(usefulEvery)
		if near != nil {
			p.conn.NoteRTT(near.RTT())
		}
	}
	c := last.find(p.r, id)
	if c == nil {
		p.r.counters.unknownChannel.Add(1)
		p.r.giveBack(data)
		return
	}
	c.arrived(p, data)
}
