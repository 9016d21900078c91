package p2p

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
)

// PEXChannel is the channel of peer exchange, as on CometBFT.
const PEXChannel ChannelID = 0x00

const (
	pexSend     = 100    // addresses in a reply of ours
	pexAccept   = 250    // that we take of another's: what CometBFT sends
	pexMaxBytes = 64_000 // of a message

	// pexAskEvery is how often we ask one peer at most: CometBFT bans who asks
	// more often than every 10 s.
	pexAskEvery = 11 * time.Second
	// pexReplyWait is how long a reply may take before the peer is asked again,
	// and pexMostOwed how many replies may then come late.
	pexReplyWait = time.Minute
	pexMostOwed  = 3
	// pexFast and pexSlow are the pauses between two questions, to whomever: fast
	// while all that comes is new, slow when nothing is.
	pexFast = time.Second
	pexSlow = 2 * time.Minute
	// A peer may ask pexBurst times at once, and then every pexRefill.
	pexBurst  = 4
	pexRefill = 5 * time.Second
	// pexStray is how many peers that are gone may be remembered.
	pexStray = 16
)

// PEXOptions is what the peer exchange may be told. The zero value is the default.
type PEXOptions struct {
	// Silent asks nobody; it only answers.
	Silent bool
}

// PEX is the reactor of peer exchange: it asks peers for addresses, teaches them
// to the PeerManager's book, and answers. Between kith nodes addresses are URLs;
// towards CometBFT they are (id, ip, port).
//
// It sends at most 100 addresses and takes up to 250; what comes beyond is cut and
// counted, and nobody is disconnected for it. What a peer does wrong, such as
// answers that nobody asked for or questions without end, lowers its score.
type PEX struct {
	o       PEXOptions
	r       *Router
	channel *TypedChannel[*pexMessage]

	mu    sync.Mutex // guards core
	core  pexCore
	again chan struct{} // one token: a reply came, ask again sooner

	stats pexCounters
}

type pexCounters struct{ asked, replies, unsolicited, answered, refused, learnt, cut, invalid atomic.Uint64 }

// PEXStats are the counts of a PEX since it was made.
type PEXStats struct {
	Asked, Replies uint64 // ours, and what came for them
	Unsolicited    uint64 // replies that nobody asked for
	Answered       uint64 // questions of peers
	Refused        uint64 // questions that came too often
	Learnt         uint64 // addresses that were new
	Cut, Invalid   uint64 // addresses above what we take, and malformed ones
}

// NewPEX opens the channel of peer exchange on a Router: before Start, so that
// peers learn that we have it.
func NewPEX(r *Router, o PEXOptions) (*PEX, error) {
	channel, err := OpenTyped[*pexMessage](r, PEXChannel, WithDescriptor(ChannelDescriptor{
		Name: "pex", Class: 1, RecvMessageCapacity: pexMaxBytes, SendQueueCapacity: 8, RecvQueueCapacity: 8,
	}))
	if err != nil {
		return nil, err
	}
	return &PEX{o: o, r: r, channel: channel, core: newPEXCore(), again: make(chan struct{}, 1)}, nil
}

// Run asks and answers until the context ends or the Router stops. It returns
// the context's error, or nil. Call it once.
func (x *PEX) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var asking sync.WaitGroup
	if !x.o.Silent {
		asking.Go(func() { x.ask(ctx) })
	}
	defer asking.Wait()
	defer stop()
	for in, err := range x.channel.Receive(ctx) {
		if err != nil {
			if errors.Is(err, ErrClosed) {
				return nil
			}
			return err
		}
		x.handle(in.From, in.Message)
	}
	return nil
}

// Stats are the counts so far.
func (x *PEX) Stats() PEXStats {
	return PEXStats{
		Asked: x.stats.asked.Load(), Replies: x.stats.replies.Load(), Unsolicited: x.stats.unsolicited.Load(),
		Answered: x.stats.answered.Load(), Refused: x.stats.refused.Load(), Learnt: x.stats.learnt.Load(),
		Cut: x.stats.cut.Load(), Invalid: x.stats.invalid.Load(),
	}
}

// ask sends a question now and then, to the peer that was not asked for longest.
func (x *PEX) ask(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-x.again:
		case <-ctx.Done():
			return
		case <-x.channel.Done():
			return
		}
		peers := *x.r.peers.Load()
		var up []NodeID
		for id, p := range peers {
			if p.channels.Contains(PEXChannel) {
				up = append(up, id)
			}
		}
		x.mu.Lock()
		x.core.keep(peers)
		id, pause := x.core.next(up, x.now())
		x.mu.Unlock()
		switch {
		case id == "":
		case x.channel.TrySend(id, x.question(id)) == nil:
			x.stats.asked.Add(1)
		default:
			x.mu.Lock()
			x.core.replied(id)
			x.mu.Unlock()
		}
		timer.Reset(pause)
	}
}

func (x *PEX) now() time.Time { return x.r.pm.core.o.Now() }

// question is in the form that a peer understands.
func (x *PEX) question(to NodeID) *pexMessage {
	if p := (*x.r.peers.Load())[to]; p != nil && p.info.Extensions.Kith {
		return &pexMessage{field: pexAsk}
	}
	return &pexMessage{field: pexAskComet}
}

func (x *PEX) handle(from NodeID, m *pexMessage) {
	x.mu.Lock()
	if peers := *x.r.peers.Load(); len(x.core.peers) > len(peers)+pexStray {
		x.core.keep(peers) // a silent PEX has no other occasion
	}
	x.mu.Unlock()
	switch m.field {
	case pexAskComet:
		x.answer(from, pexTellComet)
	case pexAsk:
		x.answer(from, pexTell)
	default:
		x.learn(from, m)
	}
}

// answer sends addresses, unless the peer asks too often.
func (x *PEX) answer(to NodeID, form protowire.Number) {
	x.mu.Lock()
	ok := x.core.mayAsk(to, x.now())
	x.mu.Unlock()
	if !ok {
		x.stats.refused.Add(1)
		x.channel.Report(PeerError{NodeID: to, Err: errors.New("p2p: asks for peers too often")})
		return
	}
	reply := &pexMessage{field: form}
	for _, a := range x.r.pm.Advertise(to, pexSend) {
		if form == pexTellComet && (a.Protocol != address.MConn || a.Port == 0 || !hostIP(a).IsValid()) {
			continue // cannot be said so
		}
		if !reply.add(a) {
			break
		}
	}
	if x.channel.TrySend(to, reply) == nil {
		x.stats.answered.Add(1)
	}
}

// learn teaches the book what a peer told, if it was asked.
func (x *PEX) learn(from NodeID, m *pexMessage) {
	x.mu.Lock()
	asked := x.core.replied(from)
	x.mu.Unlock()
	if !asked {
		x.stats.unsolicited.Add(1)
		x.channel.Report(PeerError{NodeID: from, Err: errors.New("p2p: sends peers that nobody asked for")})
		return
	}
	x.stats.replies.Add(1)
	source := Source{Kind: addrbook.PEX, Peer: from}
	if p := (*x.r.peers.Load())[from]; p != nil {
		remote := p.conn.Raw().conn.RemoteEndpoint()
		source.IP, source.Protocol = ipOf(remote), remote.Protocol
	}
	taken, learnt := 0, 0
	for entry := range m.entries() {
		if taken == pexAccept {
			x.stats.cut.Add(1)
			continue
		}
		taken++
		a, err := m.address(entry)
		if err != nil {
			x.stats.invalid.Add(1)
			continue
		}
		if added, _ := x.r.pm.AddFrom(a, source); added {
			learnt++
		}
	}
	x.stats.learnt.Add(uint64(learnt))
	x.mu.Lock()
	x.core.learnt(learnt, taken)
	x.mu.Unlock()
	signal(x.again)
}
