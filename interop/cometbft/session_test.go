package cometbft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// The channels of a CometBFT node that are spoken here.
const (
	pexChannel     p2p.ChannelID = 0x00
	mempoolChannel p2p.ChannelID = 0x30
	blockChannel   p2p.ChannelID = 0x40
)

// A session is a relation with one node, however it was made. Receive returns
// an error that matches io.EOF once it is closed.
type session interface {
	Send(ch p2p.ChannelID, message []byte) error
	Receive() (p2p.ChannelID, []byte, error)
	Info() p2p.NodeInfo
	Stats() mconn.Stats
	Close()
}

// ways are the ways to make one: we dial the node, or it dials us, because it was
// told to (persistent_peers). Each test runs over all of them.
var ways = []way{
	{"connection", dialConnection, nil},
	{"router", dialRouter, nil},
	{"accepted connection", nil, acceptConnection},
	{"accepted router", nil, acceptRouter},
}

// A way has one of its functions.
type way struct {
	name   string
	dial   func(context.Context, *node, p2p.NodeInfo, p2p.PrivKey) (session, error)
	accept func(context.Context, *node, *mconn.Transport, p2p.NodeInfo, p2p.PrivKey) (session, error)
}

// A meeting is a session, who we are in it and whether the node dialled us.
type meeting struct {
	session
	us       p2p.NodeID
	accepted bool
}

// meet makes a session with the channels for a test, and ends it with that.
type meet func(t *testing.T, channels ...p2p.ChannelID) meeting

// We ping much more often than a CometBFT node does, which has its minute built in.
const (
	pingEvery = 5 * time.Second
	pongWait  = 4900 * time.Millisecond
)

// connection is a session that is one bare connection.
type connection struct {
	*mconn.Connection
	info p2p.NodeInfo
}

func (c connection) Send(ch p2p.ChannelID, message []byte) error { return c.SendMessage(ch, message) }
func (c connection) Receive() (p2p.ChannelID, []byte, error)     { return c.ReceiveMessage() }
func (c connection) Info() p2p.NodeInfo                          { return c.info }
func (c connection) Close()                                      { c.Connection.Close() }

func dialConnection(ctx context.Context, n *node, info p2p.NodeInfo, key p2p.PrivKey) (session, error) {
	transport, err := mconn.New(mconn.Options{PingInterval: pingEvery, PongTimeout: pongWait})
	if err != nil {
		return nil, err
	}
	defer transport.Close()
	c, err := transport.Dial(ctx, n.endpoint)
	if err != nil {
		return nil, err
	}
	return shake(ctx, c, n.id, info, key)
}

// acceptConnection waits for the node to dial a transport. Dials that the node gave
// up before anybody accepted come first: they fail, and it dials again.
func acceptConnection(ctx context.Context, n *node, transport *mconn.Transport, info p2p.NodeInfo, key p2p.PrivKey) (session, error) {
	defer transport.Close()
	defer context.AfterFunc(ctx, func() { transport.Close() })()
	var last error
	for {
		c, err := transport.Accept()
		if err != nil {
			return nil, fmt.Errorf("%w, after %w", err, errors.Join(context.Cause(ctx), last))
		}
		s, err := shake(ctx, c, n.id, info, key)
		if err == nil {
			return s, nil
		}
		c.Close()
		last = err
	}
}

// shake makes a session of a connection and checks who is at the other end.
func shake(ctx context.Context, c p2p.Connection, id p2p.NodeID, info p2p.NodeInfo, key p2p.PrivKey) (session, error) {
	peer, proved, err := c.Handshake(ctx, info, key)
	if err != nil {
		return nil, err
	}
	mc := c.(*mconn.Connection)
	if proved.NodeID() != id || peer.NodeID != id || peer.Extensions.Kith {
		mc.Close()
		return nil, fmt.Errorf("it is %s, says %s, want %s", proved.NodeID(), peer.NodeID, id)
	}
	limits := make(map[p2p.ChannelID]int)
	for _, ch := range info.Channels {
		limits[ch] = 8 << 20
	}
	mc.SetChannelLimits(limits)
	return connection{mc, peer}, nil
}

// seededKey is the key whose seed is 32 times b.
func seededKey(t testing.TB, b byte) p2p.PrivKey {
	t.Helper()
	key, err := identity.PrivKeyFromSeed(bytes.Repeat([]byte{b}, identity.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newKey is a key of a test.
func newKey(t *testing.T) p2p.PrivKey {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// ourInfo is what we say to a node.
func ourInfo(n *node, key p2p.PrivKey, channels ...p2p.ChannelID) p2p.NodeInfo {
	return p2p.NodeInfo{
		ProtocolVersion: p2p.ProtocolVersion{P2P: 8, Block: 11},
		NodeID:          key.Public().NodeID(), ListenAddr: "tcp://127.0.0.1:12199", Network: n.network,
		Version: "0.1.0", Moniker: "kith", Channels: channels,
		// Towards CometBFT none of this may show.
		Extensions: p2p.Extensions{RequestChannels: channels, ListenAddrs: []string{"x"}, Observed: "127.0.0.1"},
	}
}

// each runs a test over both releases and all ways. A node is shared by the
// tests of one call; each of them may meet it so many times.
func each(t *testing.T, meetings int, test func(t *testing.T, n *node, meet meet)) {
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			// Where the node finds us has to be known before it starts.
			type place struct {
				key       p2p.PrivKey
				transport *mconn.Transport
			}
			places := make(map[string]chan place)
			var all []string
			for _, w := range ways {
				places[w.name] = make(chan place, meetings)
				for range meetings {
					p := place{key: newKey(t)}
					if w.accept != nil {
						p.transport = listen(t)
						all = append(all, at(p.key, p.transport))
					}
					places[w.name] <- p
				}
			}
			n := startNode(t, r, setup{flags: []string{"--p2p.persistent_peers", strings.Join(all, ",")}})
			for _, w := range ways {
				t.Run(w.name, func(t *testing.T) {
					t.Parallel()
					test(t, n, func(t *testing.T, channels ...p2p.ChannelID) meeting {
						t.Helper()
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						defer cancel()
						var p place
						select {
						case p = <-places[w.name]:
						default:
							t.Fatalf("the test meets the node more than %d times", meetings)
						}
						var s session
						var err error
						if info := ourInfo(n, p.key, channels...); w.accept != nil {
							s, err = w.accept(ctx, n, p.transport, info, p.key)
						} else {
							s, err = w.dial(ctx, n, info, p.key)
						}
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(s.Close)
						return meeting{s, p.key.Public().NodeID(), w.accept != nil}
					})
				})
			}
		})
	}
}

// next receives until a message of the channel satisfies take.
func next(t *testing.T, s session, ch p2p.ChannelID, take func(message []byte) bool) {
	t.Helper()
	watchdog := time.AfterFunc(patience, s.Close)
	defer watchdog.Stop()
	for {
		got, message, err := s.Receive()
		if err != nil {
			t.Fatalf("waiting for an answer on %#x: %v", uint16(ch), err)
		}
		if got == ch && take(message) {
			return
		}
	}
}
