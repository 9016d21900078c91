package cometbft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// raw is a channel of messages as they stand: Empty has no fields, so what
// arrives are unknown ones, which it keeps.
type raw = p2p.TypedChannel[*emptypb.Empty]

// router is a kith node of a test: a Router over mconn, with what it connected to
// and what it logged at hand.
type router struct {
	*p2p.Router
	pm       *p2p.PeerManager
	listens  string // ID@127.0.0.1:port, "" if it does not listen
	channels map[p2p.ChannelID]*raw
	pex      *p2p.PEX
	faults   *faults

	mu    sync.Mutex
	conns []*mconn.Connection // that were made, oldest first
	close func()
}

// routerSetup is what is special about a router.
type routerSetup struct {
	info      p2p.NodeInfo // Channels are opened as raw ones
	key       p2p.PrivKey
	transport *mconn.Transport // nil: it only dials
	peers     p2p.PeerManagerOptions
	pex       bool // instead of a raw channel 0x00
}

// newRouter makes a Router; Start is the caller's. close ends everything.
func newRouter(s routerSetup) (*router, error) {
	if s.transport == nil {
		var err error
		if s.transport, err = mconn.New(mconn.Options{PingInterval: pingEvery, PongTimeout: pongWait}); err != nil {
			return nil, err
		}
	}
	r := &router{channels: make(map[p2p.ChannelID]*raw), faults: &faults{seen: make(chan error, 1), down: make(chan error, 1)}}
	channels := s.info.Channels
	s.info.Channels = nil
	var err error
	s.peers.MinRetryTime, s.peers.MaxRetryTime = 100*time.Millisecond, time.Second
	s.peers.Logger = slog.New(r.faults)
	if r.pm, err = p2p.NewPeerManager(s.key.Public().NodeID(), addrbook.NewMemoryStore(), s.peers); err != nil {
		return nil, err
	}
	if r.Router, err = p2p.NewRouter(p2p.RouterOptions{
		NodeInfo: s.info, PrivKey: s.key, PeerManager: r.pm, Transports: []p2p.Transport{&watched{s.transport, r}}, Logger: slog.New(r.faults),
	}); err != nil {
		return nil, err
	}
	r.close = sync.OnceFunc(func() {
		_ = r.Stop()
		r.pm.Close()
	})
	for _, id := range channels {
		if id == pexChannel && s.pex {
			if r.pex, err = p2p.NewPEX(r.Router, p2p.PEXOptions{}); err != nil {
				return nil, err
			}
			continue
		}
		if r.channels[id], err = p2p.OpenTyped[*emptypb.Empty](r.Router, id, p2p.WithDescriptor(p2p.ChannelDescriptor{RecvMessageCapacity: 8 << 20})); err != nil {
			return nil, err
		}
	}
	for _, e := range s.transport.Endpoints() {
		r.listens = fmt.Sprintf("%s@127.0.0.1:%d", s.key.Public().NodeID(), e.Port)
	}
	return r, nil
}

// runPEX runs the exchange of peers until the test ends.
func (r *router) runPEX(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.pex.Run(context.Background())
	}()
	t.Cleanup(func() {
		r.close()
		<-done
	})
}

// newest is the connection that was made last.
func (r *router) newest() *mconn.Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conns[len(r.conns)-1]
}

// watched is a transport that notes its connections: a Router keeps them to
// itself.
type watched struct {
	*mconn.Transport
	r *router
}

func (w *watched) note(c p2p.Connection, err error) (p2p.Connection, error) {
	if err == nil {
		w.r.mu.Lock()
		w.r.conns = append(w.r.conns, c.(*mconn.Connection))
		w.r.mu.Unlock()
	}
	return c, err
}

func (w *watched) Dial(ctx context.Context, e p2p.Endpoint) (p2p.Connection, error) {
	return w.note(w.Transport.Dial(ctx, e))
}
func (w *watched) Accept() (p2p.Connection, error) { return w.note(w.Transport.Accept()) }

// faults is a log handler that keeps why the first connection failed (seen), and
// why the first peer went down.
type faults struct{ seen, down chan error }

func (f *faults) Enabled(context.Context, slog.Level) bool { return true }
func (f *faults) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f *faults) WithGroup(string) slog.Handler            { return f }
func (f *faults) Handle(_ context.Context, r slog.Record) error {
	var to chan error
	switch {
	case strings.Contains(r.Message, "no connection"):
		to = f.seen
	case r.Message == "peer down":
		to = f.down
	default:
		return nil
	}
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			select {
			case to <- err:
			default:
			}
		}
		return true
	})
	return nil
}

// routed is a session over a Router that has one peer.
type routed struct {
	*router
	conn   *mconn.Connection // for its counts
	info   p2p.NodeInfo
	in     chan received
	closed chan struct{} // the peer is gone, or Close was called
	end    func()
	done   sync.WaitGroup
}

type received struct {
	channel p2p.ChannelID
	message []byte
}

// dialRouter dials a node with a Router of its own. The error is that of the first
// dial, if that failed.
func dialRouter(ctx context.Context, n *node, info p2p.NodeInfo, key p2p.PrivKey) (session, error) {
	r, err := newRouter(routerSetup{info: info, key: key, peers: p2p.PeerManagerOptions{DisconnectCooldownPeriod: time.Hour}})
	if err != nil {
		return nil, err
	}
	a, err := p2p.ParseNodeAddress("mconn://" + n.address())
	if err == nil {
		_, err = r.pm.Add(a)
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r.meet(ctx, n, r.faults.seen)
}

// acceptRouter waits for the node to dial a Router. What the node gave up before
// the Router started fails there, and the node dials again.
func acceptRouter(ctx context.Context, n *node, transport *mconn.Transport, info p2p.NodeInfo, key p2p.PrivKey) (session, error) {
	r, err := newRouter(routerSetup{info: info, key: key, transport: transport})
	if err != nil {
		return nil, err
	}
	s, err := r.meet(ctx, n, nil)
	if err != nil {
		return nil, err
	}
	if peers := r.Router.Stats().Peers; len(peers) != 1 || peers[0].ID != n.id || peers[0].Direction.String() != "inbound" {
		s.Close()
		return nil, fmt.Errorf("want one peer, %s, inbound: %+v", n.id, peers)
	}
	return s, nil
}

// meet starts a router whose first peer has to be the node, and makes a session
// of that; the first of the faults ends it. On error the router is closed.
func (r *router) meet(ctx context.Context, n *node, faults <-chan error) (session, error) {
	updates := r.pm.Subscribe()
	s := &routed{router: r, in: make(chan received, 64), closed: make(chan struct{})}
	s.end = sync.OnceFunc(func() { close(s.closed) })
	if err := r.Start(); err != nil {
		updates.Close()
		r.close()
		return nil, err
	}
	var err error
	select {
	case u := <-updates.Updates():
		if u.Status != p2p.PeerStatusUp || u.NodeID != n.id {
			err = fmt.Errorf("%+v", u)
		}
	case err = <-faults:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		updates.Close()
		r.close()
		return nil, err
	}
	s.conn = r.newest()
	for _, p := range r.Router.Stats().Peers {
		s.info = p.Info
	}
	for id, c := range r.channels {
		s.done.Go(func() { s.receive(id, c) })
	}
	s.done.Go(func() {
		defer updates.Close()
		for {
			select {
			case u, ok := <-updates.Updates():
				if ok && u.Status != p2p.PeerStatusDown {
					continue
				}
			case <-s.closed:
			}
			s.end()
			return
		}
	})
	return s, nil
}

func (s *routed) receive(id p2p.ChannelID, c *raw) {
	for in, err := range c.Receive(context.Background()) {
		if err != nil || in.From != s.info.NodeID {
			return
		}
		select {
		case s.in <- received{id, in.Message.ProtoReflect().GetUnknown()}:
		case <-s.closed:
			return
		}
	}
}

func (s *routed) Send(ch p2p.ChannelID, message []byte) error {
	c := s.channels[ch]
	if c == nil {
		return errors.New("the channel is not open")
	}
	m := new(emptypb.Empty)
	m.ProtoReflect().SetUnknown(message)
	return c.Send(context.Background(), s.info.NodeID, m)
}

func (s *routed) Receive() (p2p.ChannelID, []byte, error) {
	select {
	case m := <-s.in:
		return m.channel, m.message, nil
	case <-s.closed:
		return 0, nil, io.EOF
	}
}

func (s *routed) Info() p2p.NodeInfo { return s.info }
func (s *routed) Stats() mconn.Stats { return s.conn.Stats() }
func (s *routed) Close() {
	s.end()
	s.router.close()
	s.done.Wait()
}
