package p2ptest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
)

// The channels of the numbered messages.
const (
	channelUrgent p2p.ChannelID = 0x20 // short messages, to one peer or to all
	channelBulk   p2p.ChannelID = 0x21 // up to 16 KiB, the oldest dropped when there is no room
	channelCalls  p2p.ChannelID = 0x22 // requests
)

// sendQueueBytes is the most that may wait for one peer: a Router lets four times
// the largest channel's share, which is PEX's 1 MiB.
const sendQueueBytes = 4 << 20

var trafficChannels = map[p2p.ChannelID]p2p.ChannelDescriptor{
	channelUrgent: {Name: "urgent", Class: 0, RecvMessageCapacity: 1 << 10, SendQueueCapacity: 4, SendQueueBytes: 4 << 10,
		RecvQueueCapacity: 4, RecvQueueBytes: 4 << 10, RecvTotalBytes: 64 << 10},
	channelBulk: {Name: "bulk", Class: 2, RecvMessageCapacity: 40 << 10, SendQueueCapacity: 8, SendQueueBytes: 80 << 10, SendPolicy: p2p.SendDropOldest,
		SendTimeout: time.Minute, RecvQueueCapacity: 8, RecvQueueBytes: 80 << 10, RecvTotalBytes: 160 << 10, ReceivePolicy: p2p.ReceiveDropOldest},
	channelCalls: {Name: "calls", Class: 1, RecvMessageCapacity: 1 << 10, SendQueueCapacity: 64, SendQueueBytes: 16 << 10,
		RecvQueueCapacity: 64, RecvQueueBytes: 16 << 10, RecvTotalBytes: 64 << 10, Requests: true},
}

type payload = wrapperspb.BytesValue

// traffic is what one life of a node sends and receives.
type traffic struct {
	l     *life
	rng   *rand.Rand // the sender's
	chans map[p2p.ChannelID]*p2p.TypedChannel[*payload]

	waited atomic.Uint64 // messages that were received, and then held

	mu     sync.Mutex // guards the rest
	held   chan struct{}
	direct map[lane]uint64 // the last number of each lane
}

// lane is a sequence of numbered messages: of one kind, on one channel, from one
// node to another. Broadcasts have numbers of their own.
type lane struct {
	from, to  p2p.NodeID
	channel   p2p.ChannelID
	broadcast bool
}

func newTraffic(l *life, rng *rand.Rand) (*traffic, error) {
	t := &traffic{l: l, rng: rng, chans: make(map[p2p.ChannelID]*p2p.TypedChannel[*payload]), direct: make(map[lane]uint64)}
	for id, d := range trafficChannels {
		c, err := p2p.OpenTyped[*payload](l.router, id, p2p.WithDescriptor(d))
		if err != nil {
			return nil, err
		}
		t.chans[id] = c
	}
	return t, nil
}

func (t *traffic) stats() map[p2p.ChannelID]p2p.ChannelStats {
	all := make(map[p2p.ChannelID]p2p.ChannelStats)
	for id, c := range t.chans {
		all[id] = c.Stats()
	}
	return all
}

// run starts what sends and receives.
func (t *traffic) run(ctx context.Context, running *sync.WaitGroup) {
	for _, c := range t.chans {
		running.Go(func() { t.receive(ctx, c) })
	}
	if t.l.node.net.o.Traffic > 0 {
		seed := t.rng.Uint64()
		running.Go(func() { t.send(ctx) })
		running.Go(func() { t.call(ctx, rand.New(rand.NewPCG(seed, 1))) })
	}
}

// hold makes the receivers stop taking messages until release.
func (t *traffic) hold() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		t.held = make(chan struct{})
	}
}

func (t *traffic) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held != nil {
		close(t.held)
		t.held = nil
	}
}

// wait returns when the receivers may go on.
func (t *traffic) wait(ctx context.Context) {
	t.mu.Lock()
	held := t.held
	t.mu.Unlock()
	if held != nil {
		t.waited.Add(1)
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
}

// pause waits about d. It says no when the life is over.
func pause(ctx context.Context, rng *rand.Rand, d time.Duration) bool {
	timer := time.NewTimer(d/2 + time.Duration(rng.Int64N(int64(d))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// send sends to somebody or all, now and then.
func (t *traffic) send(ctx context.Context) {
	for pause(ctx, t.rng, t.l.node.net.o.Traffic) {
		if t.l.node.net.checker.isQuiet() {
			continue
		}
		peers := t.l.peers()
		if len(peers) == 0 {
			continue
		}
		to := peers[t.rng.IntN(len(peers))]
		switch t.rng.IntN(8) {
		case 0:
			t.broadcast(ctx)
		case 1:
			for range 1 + t.rng.IntN(4) {
				t.one(channelBulk, to, 1<<10+t.rng.IntN(15<<10))
			}
		default:
			t.one(channelUrgent, to, t.rng.IntN(100))
		}
	}
}

// one sends a message to one peer, which must not take any time.
func (t *traffic) one(id p2p.ChannelID, to p2p.NodeID, size int) {
	c := t.l.node.net.checker
	m := t.number(lane{from: t.l.node.id, to: to, channel: id}, size)
	began := time.Now()
	err := t.chans[id].TrySend(to, m)
	c.sent(t.l, began, err)
}

func (t *traffic) broadcast(ctx context.Context) {
	m := t.number(lane{from: t.l.node.id, channel: channelUrgent, broadcast: true}, 10)
	began := time.Now()
	_, err := t.chans[channelUrgent].Broadcast(ctx, m)
	if ctx.Err() != nil {
		return
	}
	t.l.node.net.checker.sent(t.l, began, err)
}

// number makes the next message of a lane.
//
//	1 byte    0, or 1 for a broadcast
//	4 bytes   the sender's life
//	8 bytes   the number within that
//	the rest  bytes of the value of the last of the number
func (t *traffic) number(l lane, size int) *payload {
	t.mu.Lock()
	t.direct[l]++
	number := t.direct[l]
	t.mu.Unlock()
	b := make([]byte, 13+size)
	if l.broadcast {
		b[0] = 1
	}
	binary.BigEndian.PutUint32(b[1:], t.l.number)
	binary.BigEndian.PutUint64(b[5:], number)
	for i := 13; i < len(b); i++ {
		b[i] = byte(number)
	}
	return &payload{Value: b}
}

// parse reads what number wrote.
func parse(b []byte) (broadcast bool, life uint32, number uint64, ok bool) {
	if len(b) < 13 || b[0] > 1 {
		return false, 0, 0, false
	}
	number = binary.BigEndian.Uint64(b[5:])
	for _, v := range b[13:] {
		if v != byte(number) {
			return false, 0, 0, false
		}
	}
	return b[0] == 1, binary.BigEndian.Uint32(b[1:]), number, true
}

// receive takes messages and has them checked.
func (t *traffic) receive(ctx context.Context, c *p2p.TypedChannel[*payload]) {
	for in, err := range c.Receive(ctx) {
		if err != nil {
			return
		}
		t.wait(ctx)
		t.l.node.net.checker.received(t.l, c, in)
		if in.IsRequest() {
			began := time.Now()
			if err := in.Reply(ctx, in.Message); !errors.Is(err, p2p.ErrReplyUnwanted) && ctx.Err() == nil {
				t.l.node.net.checker.sent(t.l, began, err)
			}
		}
	}
}

// callTimeout is how long a request waits for its reply.
const callTimeout = 5 * time.Second

// call sends requests, one at a time.
func (t *traffic) call(ctx context.Context, rng *rand.Rand) {
	net := t.l.node.net
	for pause(ctx, rng, 4*net.o.Traffic) {
		peers := t.l.peers()
		if len(peers) == 0 || net.checker.isQuiet() {
			continue
		}
		to := peers[rng.IntN(len(peers))]
		m := t.number(lane{from: t.l.node.id, to: to, channel: channelCalls}, rng.IntN(100))
		began := time.Now()
		waiting, stop := context.WithTimeout(ctx, callTimeout)
		reply, err := t.chans[channelCalls].Request(waiting, to, m)
		stop()
		switch took := time.Since(began); {
		case took > callTimeout:
			net.checker.fail(fmt.Errorf("node %d: a request with a deadline of %v took %v", t.l.node.index, callTimeout, took))
		case err == nil && string(reply.Value) != string(m.Value):
			net.checker.fail(fmt.Errorf("node %d: the reply of %v is to something else", t.l.node.index, to))
		case err == nil:
			net.checker.answered.Add(1)
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, p2p.ErrPeerClosed), ctx.Err() != nil:
		default:
			net.checker.sent(t.l, time.Now(), err)
		}
	}
}
