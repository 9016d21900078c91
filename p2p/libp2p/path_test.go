package libp2p

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
)

// behindRelay is a pair that meets over a relay, though b has a direct address, too,
// which goDirect makes a use.
func behindRelay(tb testing.TB, listen string, opts ...relay.Option) (p pair, r relayNode, goDirect func()) {
	tb.Helper()
	r = newRelay(tb, opts...)
	a, b := newNode(tb, ""), r.announced(newNode(tb, listen))
	r.reserve(tb, b)
	return pair{a, b, endpointOf(r.circuit, b.ID())}, r, func() {
		tb.Helper()
		at, _ := splitEndpoint(tb, listenPoint(b))
		a.Peerstore().AddAddr(b.ID(), at, peerstore.TempAddrTTL)
		ctx, stop := context.WithTimeout(network.WithForceDirectDial(tb.Context(), "test"), 20*time.Second)
		defer stop()
		if _, err := a.Network().DialPeer(ctx, b.ID()); err != nil {
			tb.Fatal(err)
		}
	}
}

func splitEndpoint(tb testing.TB, e p2p.Endpoint) (at, id ma.Multiaddr) {
	tb.Helper()
	return ma.SplitFunc(mustMultiaddr(tb, e), func(c ma.Component) bool { return c.Protocol().Code == ma.P_P2P })
}

// When a direct connection comes up beside a relayed one, the session moves there
// in the middle of the traffic: nothing is lost, repeated or put in another order,
// and it lives on when the relay is gone.
func TestASessionMovesFromTheRelayToADirectConnection(t *testing.T) {
	for name, listen := range map[string]string{"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"} {
		t.Run(name, func(t *testing.T) {
			p, r, goDirect := behindRelay(t, listen, relay.WithInfiniteLimits())
			a, b := transports(t, p, Options{})
			x, y := session(t, p, a, b, 1, 2, 3)
			if !x.path.Load().relayed || !y.path.Load().relayed {
				t.Fatal("the session does not begin on the relay")
			}
			if len(y.RemoteEndpoint().IP) > 0 {
				t.Errorf("the relay's IP is given as the peer's: %v", y.RemoteEndpoint())
			}
			const least = 300
			stop := make(chan struct{})
			failed := make(chan error, 16)
			for _, from := range []*Connection{x, y} {
				for id := p2p.ChannelID(1); id <= 3; id++ {
					go func() {
						for i := uint32(0); ; i++ {
							select {
							case <-stop:
								if i > least {
									failed <- from.SendMessage(id, []byte("end"))
									return
								}
							default:
							}
							message := append(binary.BigEndian.AppendUint32(nil, i), bytes.Repeat([]byte{byte(id)}, int(i%5000))...)
							if err := from.SendMessage(id, message); err != nil {
								failed <- err
								return
							}
						}
					}()
				}
			}
			received := make(chan error, 2)
			for _, to := range []*Connection{x, y} {
				go func() {
					seen := map[p2p.ChannelID]uint32{}
					for ends := 0; ends < 3; {
						id, data, err := to.ReceiveMessage()
						switch {
						case err != nil:
							received <- err
							return
						case string(data) == "end":
							ends++
						case binary.BigEndian.Uint32(data) != seen[id] || len(data) != 4+int(seen[id]%5000):
							t.Errorf("message %d of channel %d has number %d", seen[id], id, binary.BigEndian.Uint32(data))
						}
						seen[id]++
					}
					received <- nil
				}()
			}
			goDirect()
			for _, c := range []*Connection{x, y} {
				until(t, "the session is on the direct connection", func() bool { return !c.path.Load().relayed })
			}
			until(t, "no channel is on the relay", func() bool {
				n := 0
				for _, h := range []node{p.a, p.b} {
					for _, conn := range h.Network().Conns() {
						if !isRelayed(conn.RemoteMultiaddr()) {
							continue
						}
						for _, s := range conn.GetStreams() {
							if s.Protocol() == ChannelProtocol || s.Protocol() == ControlProtocol {
								n++
							}
						}
					}
				}
				return n == 0
			})
			if err := r.host.Close(); err != nil {
				t.Fatal(err)
			}
			until(t, "the relayed connection is gone", func() bool {
				return len(p.a.Network().ConnsToPeer(p.b.ID())) == 1 && len(p.b.Network().ConnsToPeer(p.a.ID())) == 1
			})
			close(stop)
			for range 6 {
				if err := <-failed; err != nil {
					t.Error(err)
				}
			}
			for range 2 {
				if err := <-received; err != nil {
					t.Error(err)
				}
			}
			if x.RemoteEndpoint().String() != listenPoint(p.b).String() {
				t.Errorf("it is at %v, want %v", x.RemoteEndpoint(), listenPoint(p.b))
			}
			if err := x.CloseWithReason("enough", nil); err != nil {
				t.Fatal(err)
			}
			if _, _, err := y.ReceiveMessage(); err == nil || err == io.EOF {
				t.Errorf("the goodbye is lost: %v", err)
			}
			y.Close()
			until(t, "no stream of ours is left", func() bool { return ourStreams(p) == 0 })
		})
	}
}

// Over a relay with limits, which cuts a circuit after some bytes, a session begins,
// moves, and goes on beyond what the relay allows. The Routers never see it go.
func TestAMoveIsNothingToTheRouters(t *testing.T) {
	limits := relay.DefaultResources()
	limits.Limit = &relay.RelayLimit{Duration: time.Minute, Data: 64 << 10}
	p, _, goDirect := behindRelay(t, "/ip4/127.0.0.1/tcp/0", relay.WithResources(limits))
	x, y := route(t, p.a), route(t, p.b)
	cx, cy := open(t, x, 1, p2p.ChannelDescriptor{}), open(t, y, 1, p2p.ChannelDescriptor{})
	start(t, x, y)
	updates := x.pm.Subscribe()
	defer updates.Close()
	meet(t, x, y, p.at.NodeAddress(p.b.id()))
	if u := <-updates.Updates(); u.Status != p2p.PeerStatusUp {
		t.Fatalf("%+v", u)
	}
	goDirect()
	until(t, "both ends have moved", func() bool {
		return len(x.r.Stats().Peers[0].Endpoint.IP) > 0 && !bytes.Contains([]byte(x.r.Stats().Peers[0].Endpoint.Path), []byte("circuit")) &&
			len(y.r.Stats().Peers[0].Endpoint.IP) > 0
	})
	for i := range 100 {
		if err := cx.Send(t.Context(), p.b.id(), wrapperspb.Bytes(numbered(i, 10_000))); err != nil {
			t.Fatal(err)
		}
		if in := next(t, cy); number(in.Message.Value) != i {
			t.Fatalf("message %d is %d", i, number(in.Message.Value))
		}
	}
	select {
	case u := <-updates.Updates():
		t.Errorf("the PeerManager heard of it: %+v", u)
	default:
	}
}

// A direct endpoint is not answered with the relayed connection that there is.
func TestADirectDialDoesNotEndOnTheRelay(t *testing.T) {
	p, _, _ := behindRelay(t, "/ip4/127.0.0.1/tcp/0", relay.WithInfiniteLimits())
	a, b := transports(t, p, Options{})
	session(t, p, a, b, 1)
	p.at = listenPoint(p.b)
	x, _ := session(t, p, a, b, 1)
	if x.path.Load().relayed {
		t.Errorf("dialled %v, it is at %v", p.at, x.RemoteEndpoint())
	}
}

// Only the peer whose session it is moves it, only from a relay, and to a direct
// connection: everything else is a stray.
func TestHostileMoves(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	a, b := transports(t, p, Options{})
	check := bystander(t, p, a, b)
	r, y := shakeRaw(t, p, b, 1)
	for name, id := range map[string]sessionID{"a session that is not relayed": r.session, "no session": {9, 9}} {
		before := b.Stats().Strays
		rawStream(t, p, MoveProtocol, id[:])
		until(t, name+" is refused", func() bool { return b.Stats().Strays == before+1 })
	}
	_ = rawStream(t, p, MoveProtocol, []byte("short")).CloseWrite()
	until(t, "half a number is refused", func() bool { return b.Stats().Strays == 3 })
	r.channel(1, 0, 1, 'a')
	if _, data, err := y.ReceiveMessage(); err != nil || string(data) != "a" {
		t.Errorf("%q, %v", data, err)
	}
	check()
}
