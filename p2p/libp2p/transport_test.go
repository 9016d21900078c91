package libp2p

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/kith-p2p/kith/address"
	kithhost "github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/p2p"
)

const (
	peerText  = "12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV"
	relayText = "12D3KooWEPBfSPvYvmDtn2HSwLbLmB4PVdw9nzEVWVSiMDUVvSJM"
)

func peerID(tb testing.TB, s string) peer.ID {
	tb.Helper()
	id, err := peer.Decode(s)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// Endpoints and multiaddrs are two spellings of one thing, also through an address
// as people write it.
func TestEndpointsFromAndToMultiaddrs(t *testing.T) {
	id := peerID(t, peerText)
	for at, want := range map[string]string{
		"/ip4/1.2.3.4/tcp/4001":                                           "libp2p://1.2.3.4:4001/p2p/" + peerText,
		"/ip4/1.2.3.4/tcp/5001":                                           "libp2p://1.2.3.4:5001/p2p/" + peerText,
		"/ip6/2001:db8::1/udp/4001/quic-v1":                               "libp2p://[2001:db8::1]:4001/udp/quic-v1/p2p/" + peerText,
		"/ip4/1.2.3.4/tcp/80/ws":                                          "libp2p://1.2.3.4:80/tcp/ws/p2p/" + peerText,
		"/ip4/1.2.3.4/tcp/4001/p2p/" + relayText + "/p2p-circuit":         "libp2p://1.2.3.4:4001/p2p/" + relayText + "/p2p-circuit/p2p/" + peerText,
		"/ip4/1.2.3.4/udp/4001/quic-v1/p2p/" + relayText + "/p2p-circuit": "libp2p://1.2.3.4:4001/udp/quic-v1/p2p/" + relayText + "/p2p-circuit/p2p/" + peerText,
		"/dnsaddr/example.org":                                            "libp2p:/dnsaddr/example.org/p2p/" + peerText,
		"/dns4/example.org/tcp/443/wss":                                   "libp2p:/dns4/example.org/tcp/443/wss/p2p/" + peerText,
		"/ip4/1.2.3.4/udp/4001/webrtc-direct":                             "libp2p:/p2p/" + peerText, // not known to package address
		"":                                                                "libp2p:/p2p/" + peerText,
	} {
		m, err := ma.NewMultiaddr(at)
		if err != nil && at != "" {
			t.Fatal(err)
		}
		e := endpointOf(m, id)
		if e.String() != want {
			t.Errorf("%s is %s, want %s", at, e, want)
		}
		if err := e.Validate(); err != nil {
			t.Errorf("%s: %v", e, err)
		}
		if strings.Contains(at, "webrtc") {
			continue
		}
		to, err := (&Transport{h: newFakeHost(relayText, t)}).target(e)
		if err != nil || to.id != id || to.at.String() != at {
			t.Errorf("%s is dialled at %s of %s (%v)", e, to.at, to.id, err)
		}
	}
	e := behind(ma.StringCast("/ip4/1.2.3.4/tcp/4001/p2p/"+relayText+"/p2p-circuit"), id)
	if e.Validate() != nil || len(e.IP) > 0 || !strings.Contains(e.Path, "/p2p-circuit/p2p/"+peerText) {
		t.Errorf("behind a relay: %v", e)
	}
}

// newFakeHost is a host of which only the ID is asked.
func newFakeHost(id string, tb testing.TB) fakeHost { return fakeHost{id: peerID(tb, id)} }

type fakeHost struct {
	node
	id peer.ID
}

func (h fakeHost) ID() peer.ID { return h.id }

// What cannot be dialled is refused with a reason, before anything is dialled.
func TestDialRefuses(t *testing.T) {
	n := newNode(t, "")
	tr, err := New(n, Options{Lookup: func(e p2p.Endpoint) (peer.ID, bool) {
		if e.Port == 7 {
			return n.ID(), true
		}
		return "", false
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	rsa, _, err := crypto.GenerateSecp256k1Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := peer.IDFromPrivateKey(rsa)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		e    p2p.Endpoint
		want error
	}{
		"no peer ID":                {p2p.Endpoint{Protocol: Protocol, IP: net.IPv4(127, 0, 0, 1), Port: 1}, ErrPeerIDRequired},
		"no peer ID over QUIC":      {p2p.Endpoint{Protocol: Protocol, IP: net.IPv4(127, 0, 0, 1), Port: 1, Path: "/udp/quic-v1"}, address.ErrPeerIDRequired},
		"no peer ID behind a relay": {p2p.Endpoint{Protocol: Protocol, IP: net.IPv4(127, 0, 0, 1), Port: 1, Path: "/p2p/" + relayText + "/p2p-circuit"}, ErrPeerIDRequired},
		"a name without a peer ID":  {p2p.Endpoint{Protocol: Protocol, Path: "/dnsaddr/example.org"}, ErrPeerIDRequired},
		"ourselves":                 {listenOf(n), ErrSelf},
		"ourselves, looked up":      {p2p.Endpoint{Protocol: Protocol, IP: net.IPv4(127, 0, 0, 1), Port: 7}, ErrSelf},
		"another protocol":          {p2p.Endpoint{Protocol: "mconn", IP: net.IPv4(127, 0, 0, 1), Port: 1}, nil},
		"a draft of QUIC":           {p2p.Endpoint{Protocol: Protocol, IP: net.IPv4(127, 0, 0, 1), Port: 1, Path: "/udp/quic/p2p/" + peerText}, address.ErrInvalid},
		"a key without a NodeID":    {p2p.Endpoint{Protocol: Protocol, Path: "/p2p/" + other.String()}, ErrIdentity},
	} {
		conn, err := tr.Dial(t.Context(), c.e)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if conn != nil {
			t.Errorf("%s: a connection", name)
		}
	}
	if s := tr.Stats(); s != (Stats{}) {
		t.Errorf("something was counted: %+v", s)
	}
}

func listenOf(n node) p2p.Endpoint { return endpointOf(nil, n.ID()) }

// The peer ID that the endpoint lacks is looked up.
func TestLookup(t *testing.T) {
	p := networks[1].make(t)
	bare := p.at
	bare.Path = ""
	a, err := New(p.a, Options{Lookup: func(e p2p.Endpoint) (peer.ID, bool) {
		return p.b.ID(), e.String() == bare.String()
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := New(p.b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	p.at = bare
	x, _ := session(t, p, a, b, 1)
	if x.node != p.b.id() {
		t.Errorf("found %v", x.node)
	}
}

// One host has one transport, and another one when that is closed and its
// sessions are gone.
func TestOneTransportAHost(t *testing.T) {
	p := networks[1].make(t)
	a, b := transports(t, p, Options{})
	if _, err := New(p.a, Options{}); !errors.Is(err, ErrHostInUse) {
		t.Fatal(err)
	}
	x, y := session(t, p, a, b, 1)
	a.Close()
	if _, err := New(p.a, Options{}); !errors.Is(err, ErrHostInUse) {
		t.Fatalf("a host with a live session: %v", err)
	}
	x.Close()
	y.Close()
	again, err := New(p.a, Options{})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := a.Dial(t.Context(), p.at); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed transport dials: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	n := newNode(t, "")
	for name, o := range map[string]Options{
		"negative":                 {HandshakeTimeout: -1},
		"negative backlog":         {Backlog: -1},
		"pong after the next ping": {PingInterval: time.Second, PongTimeout: time.Second},
		"interval below timeout":   {PingInterval: DefaultPongTimeout},
	} {
		if _, err := New(n, o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	key, _, err := crypto.GenerateSecp256k1Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.NoListenAddrs, libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := New(h, Options{}); !errors.Is(err, ErrIdentity) {
		t.Errorf("a host with another kind of key: %v", err)
	}
}

// Two sessions over one libp2p connection, one dialled by each side, as when both
// dial at the same time: each carries its own messages, and the end of one changes
// nothing for the other.
func TestTwoSessionsOverOneConnection(t *testing.T) {
	for _, nw := range networks {
		t.Run(nw.name, func(t *testing.T) {
			p := nw.make(t)
			p.join(t)
			goroutinesBack(t)
			a, b := transports(t, p, Options{})
			x1, y1 := session(t, p, a, b, 1, 2)
			back := pair{p.b, p.a, endpointOf(nil, p.a.ID())}
			y2, x2 := session(t, back, b, a, 1, 2)
			if x1.Conn() != x2.Conn() || y1.Conn() != y2.Conn() {
				t.Fatal("the sessions are on two libp2p connections")
			}
			for i, ends := range [][2]*Connection{{x1, y1}, {x2, y2}, {y1, x1}, {y2, x2}} {
				go func() {
					for j := range 100 {
						_ = ends[0].SendMessage(p2p.ChannelID(1+j%2), []byte{byte(i)})
					}
				}()
			}
			for i, c := range []*Connection{y1, y2, x1, x2} {
				for range 100 {
					if _, data, err := c.ReceiveMessage(); err != nil || len(data) != 1 || data[0] != byte(i) {
						t.Fatalf("session %d: %v, %v", i, data, err)
					}
				}
			}
			x1.Close()
			if _, _, err := y1.ReceiveMessage(); !errors.Is(err, io.EOF) {
				t.Errorf("the other end of the closed session: %v", err)
			}
			if err := x2.SendMessage(2, []byte("still here")); err != nil {
				t.Fatal(err)
			}
			if _, data, err := y2.ReceiveMessage(); err != nil || string(data) != "still here" {
				t.Errorf("%q, %v", data, err)
			}
			x2.Close()
			y1.Close()
			y2.Close()
			if n := len(p.a.Network().ConnsToPeer(p.b.ID())); n != 1 {
				t.Errorf("%d libp2p connections are left, want the one", n)
			}
			until(t, "no stream of ours is left", func() bool { return ourStreams(p) == 0 })
		})
	}
}

// ourStreams counts the streams of our protocols on both hosts.
func ourStreams(p pair) (n int) {
	for _, h := range []node{p.a, p.b} {
		for _, c := range h.Network().Conns() {
			for _, s := range c.GetStreams() {
				if s.Protocol() == ControlProtocol || s.Protocol() == ChannelProtocol {
					n++
				}
			}
		}
	}
	return n
}

// A dial that was ordered clears the swarm's backoff for the peer: whether to dial
// again so soon was the PeerManager's to say. The address given is used although
// libp2p knows another one.
func TestDialClearsTheSwarmsBackoff(t *testing.T) {
	p := networks[1].make(t)
	a, b := transports(t, p, Options{})
	backoff := p.a.Network().(*swarm.Swarm).Backoff()
	nobody := p.at
	nobody.Port = 1
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if _, err := a.Dial(ctx, nobody); err == nil {
		t.Fatal("somebody is at port 1")
	}
	if where, _ := peer.SplitAddr(mustMultiaddr(t, nobody)); !backoff.Backoff(p.b.ID(), where) {
		t.Fatal("the swarm does not back off, so this tests nothing")
	}
	real, _ := peer.SplitAddr(mustMultiaddr(t, p.at))
	for range 3 {
		backoff.AddBackoff(p.b.ID(), real)
	}
	x, _ := session(t, p, a, b, 1)
	if x.RemoteEndpoint().String() != p.at.String() {
		t.Errorf("it is at %v", x.RemoteEndpoint())
	}
}

func mustMultiaddr(tb testing.TB, e p2p.Endpoint) ma.Multiaddr {
	tb.Helper()
	m, err := e.Multiaddr()
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Dials of one peer at the same time, as the Router's race over several endpoints
// makes them, are one dial of the swarm and one connection; the endpoint that nobody
// is at holds up none.
func TestOneDialAPeer(t *testing.T) {
	p := networks[1].make(t)
	a, b := transports(t, p, Options{})
	nobody := p.at
	nobody.Port = 1
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	results := make(chan error, 8)
	for i := range cap(results) {
		go func() {
			e := p.at
			if i%2 == 0 {
				e = nobody
			}
			c, err := a.Dial(ctx, e)
			if err == nil {
				if got := c.RemoteEndpoint().String(); got != p.at.String() {
					t.Errorf("the winner is %v, want %v", got, p.at)
				}
				defer c.Close()
			}
			if i%2 == 0 {
				err = nil // alone it would have failed
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := len(p.a.Network().ConnsToPeer(p.b.ID())); n != 1 {
		t.Errorf("%d connections", n)
	}
	_ = b
}

// gate is a gater that lets nobody in or out while shut.
type gate struct{ shut atomic.Bool }

func (g *gate) InterceptPeerDial(peer.ID) bool               { return !g.shut.Load() }
func (g *gate) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool  { return true }
func (g *gate) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return !g.shut.Load()
}
func (g *gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// One gater decides for everything on the host, this transport included: nobody
// whom it refuses is dialled, or gets as far as Accept.
func TestTheHostsGaterDecides(t *testing.T) {
	g := &gate{}
	gated := newNode(t, "/ip4/127.0.0.1/tcp/0", func(c *kithhost.Config) { c.Gater = g })
	other := newNode(t, "/ip4/127.0.0.1/tcp/0")
	p := pair{gated, other, listenPoint(other)}
	a, b := transports(t, p, Options{})
	g.shut.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if _, err := a.Dial(ctx, p.at); !errors.Is(err, swarm.ErrGaterDisallowedConnection) {
		t.Errorf("outbound: %v", err)
	}
	back := pair{other, gated, listenPoint(gated)}
	if c, err := b.Dial(ctx, back.at); err == nil {
		if _, _, err := c.Handshake(ctx, info(other, 1), other.key); err == nil {
			t.Error("inbound: let in")
		}
		c.Close()
	}
	if s := a.Stats(); s.Accepted+s.Dialled > 0 {
		t.Errorf("%+v", s)
	}
	g.shut.Store(false)
	session(t, p, a, b, 1)
}

// Protect needs a session to know whom it means, and outlives it until Unprotect.
func TestProtectAndUnprotect(t *testing.T) {
	p := networks[1].make(t)
	a, b := transports(t, p, Options{})
	cm := p.a.ConnManager()
	protected := func() bool { return cm.IsProtected(p.b.ID(), "") }
	a.Protect(p.b.id())
	a.Unprotect(p.b.id())
	if protected() {
		t.Fatal("a peer without a session is protected")
	}
	x, _ := session(t, p, a, b, 1)
	a.Protect(p.b.id())
	a.Protect(p.b.id())
	cm.Protect(p.b.ID(), "somebody else's")
	x.Close()
	if !cm.IsProtected(p.b.ID(), protectTag) {
		t.Fatal("the protection ended with the session")
	}
	a.Unprotect(p.b.id())
	a.Unprotect(p.b.id())
	if cm.IsProtected(p.b.ID(), protectTag) || !protected() {
		t.Fatal("Unprotect removes its own protection, and only that")
	}
	if len(a.known)+len(a.protected) > 0 {
		t.Errorf("remembered: %v %v", a.known, a.protected)
	}
}

// A connection that the connection manager may trim is trimmed; a protected one is
// not.
func TestTrimmingSparesProtectedPeers(t *testing.T) {
	few := func(c *kithhost.Config) { c.LowWater, c.HighWater = 1, 2 }
	hub := newNode(t, "/ip4/127.0.0.1/tcp/0", few)
	h, err := New(hub, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var nodes []node
	for range 4 {
		n := newNode(t, "")
		tr, err := New(n, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		session(t, pair{n, hub, listenPoint(hub)}, tr, h, 1)
		nodes = append(nodes, n)
	}
	kept := nodes[0]
	h.Protect(kept.id())
	hub.ConnManager().(interface{ ForceTrim() }).ForceTrim() // as when memory is short
	until(t, "others are trimmed", func() bool {
		n := 0
		for _, o := range nodes[1:] {
			if hub.Network().Connectedness(o.ID()) == network.Connected {
				n++
			}
		}
		return n <= 1
	})
	if hub.Network().Connectedness(kept.ID()) != network.Connected {
		t.Error("the protected peer was trimmed")
	}
}

// A peer has room for so many sessions, and the backlog for so many connections;
// what is above is refused, and leaves nothing.
func TestSessionsPerPeerAreBounded(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	a, err := New(p.a, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := New(p.b, Options{SessionsPerPeer: 3, Backlog: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var open []p2p.Connection
	for range 8 {
		c, err := a.Dial(t.Context(), p.at)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	until(t, "six are refused, and leave nothing", func() bool { s := b.Stats(); return s.Refused == 6 && s.Sessions == 2 })
	if s := b.Stats(); s.Accepted != 2 || s.Sessions != 2 {
		t.Errorf("%+v", s)
	}
	for range 2 {
		c, err := b.Accept()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	last, err := a.Dial(t.Context(), p.at)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "one more comes in", func() bool { return b.Stats().Accepted == 3 })
	for _, c := range open {
		c.Close()
	}
	b.Close()
	until(t, "none is left", func() bool { return b.Stats().Sessions == 0 })
	a.mu.Lock()
	n := a.perPeer[p.b.ID()]
	a.mu.Unlock()
	if n != 1 {
		t.Errorf("%d sessions are counted where one is open", n)
	}
	last.Close()
	for key := range b.sessions {
		t.Errorf("session %v is left", key)
	}
}
