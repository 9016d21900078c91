package libp2p

import (
	"context"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/kith-p2p/kith/identity"
	kithhost "github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/p2p"
)

// node is a host with its key.
type node struct {
	host.Host
	key p2p.PrivKey
}

func (n node) id() p2p.NodeID { return n.key.Public().NodeID() }

func newNode(tb testing.TB, listen string, change ...func(*kithhost.Config)) node {
	tb.Helper()
	key, err := identity.Generate()
	if err != nil {
		tb.Fatal(err)
	}
	cfg := kithhost.Config{Key: key.Libp2p()}
	if listen != "" {
		cfg.Listen = []ma.Multiaddr{ma.StringCast(listen)}
	}
	for _, c := range change {
		c(&cfg)
	}
	h, err := kithhost.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { h.Close() })
	return node{h, key}
}

func secured(id protocol.ID) func(*kithhost.Config) {
	return func(c *kithhost.Config) { c.Security = []protocol.ID{id} }
}

// pair is two hosts that are not connected yet, and where a finds b.
type pair struct {
	a, b node
	at   p2p.Endpoint
}

// networks is what every behaviour is tested over.
var networks = []struct {
	name string
	make func(testing.TB) pair
}{
	{"tcp-noise", func(tb testing.TB) pair { return direct(tb, "/ip4/127.0.0.1/tcp/0", secured(noise.ID)) }},
	{"tcp-tls", func(tb testing.TB) pair { return direct(tb, "/ip4/127.0.0.1/tcp/0", secured(libp2ptls.ID)) }},
	{"quic", func(tb testing.TB) pair { return direct(tb, "/ip4/127.0.0.1/udp/0/quic-v1") }},
	{"websocket", func(tb testing.TB) pair { return direct(tb, "/ip4/127.0.0.1/tcp/0/ws") }},
	{"relayed", func(tb testing.TB) pair { return relayed(tb, relay.WithInfiniteLimits()) }},
}

func direct(tb testing.TB, listen string, change ...func(*kithhost.Config)) pair {
	tb.Helper()
	a, b := newNode(tb, "", change...), newNode(tb, listen, change...)
	return pair{a, b, listenPoint(b)}
}

// listenPoint is where a host listens; /p2p-circuit is one of its addresses, too.
func listenPoint(n node) p2p.Endpoint {
	at := n.Network().ListenAddresses()
	return endpointOf(at[slices.IndexFunc(at, func(a ma.Multiaddr) bool { return !isRelayed(a) })], n.ID())
}

// relayed is two hosts of which b can be reached through a relay only.
func relayed(tb testing.TB, opts ...relay.Option) pair {
	tb.Helper()
	r := newRelay(tb, opts...)
	a, b := newNode(tb, ""), r.announced(newNode(tb, ""))
	r.reserve(tb, b)
	return pair{a, b, endpointOf(r.circuit, b.ID())}
}

// relayNode is a host that relays.
type relayNode struct {
	host    node
	at      peer.AddrInfo
	circuit ma.Multiaddr // where whoever has a place on it is reached
}

func newRelay(tb testing.TB, opts ...relay.Option) relayNode {
	tb.Helper()
	r := newNode(tb, "/ip4/127.0.0.1/tcp/0")
	service, err := relay.New(r, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { service.Close() })
	m, err := listenPoint(r).Multiaddr()
	if err != nil {
		tb.Fatal(err)
	}
	at, err := peer.AddrInfoFromP2pAddr(m)
	if err != nil {
		tb.Fatal(err)
	}
	return relayNode{r, *at, m.Encapsulate(ma.StringCast("/p2p-circuit"))}
}

// announced makes a host say that it is reached through the relay. It has to, since
// relays withhold loopback addresses.
func (r relayNode) announced(n node) node {
	return node{announcing{n.Host, r.circuit}, n.key}
}

// announcing is a host with one address more.
type announcing struct {
	host.Host
	also ma.Multiaddr
}

func (h announcing) Addrs() []ma.Multiaddr { return append(h.Host.Addrs(), h.also) }

// reserve takes a place on the relay.
func (r relayNode) reserve(tb testing.TB, n node) {
	tb.Helper()
	connect(tb, n, r.at)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := client.Reserve(ctx, n, r.at); err != nil {
		tb.Fatal(err)
	}
}

func connect(tb testing.TB, from host.Host, to peer.AddrInfo) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := from.Connect(ctx, to); err != nil {
		tb.Fatal(err)
	}
}

// join connects a to b, so that what libp2p starts for that is there, and waits
// until both have identified each other.
func (p pair) join(tb testing.TB) {
	tb.Helper()
	m, err := p.at.Multiaddr()
	if err != nil {
		tb.Fatal(err)
	}
	info, err := peer.AddrInfoFromP2pAddr(m)
	if err != nil {
		tb.Fatal(err)
	}
	connect(tb, p.a, *info)
	settle(tb)
}

// settle waits until the number of goroutines has been the same for a while.
func settle(tb testing.TB) {
	tb.Helper()
	steady, last := 0, 0
	for end := time.Now().Add(30 * time.Second); steady < 20; time.Sleep(10 * time.Millisecond) {
		if n := runtime.NumGoroutine(); n == last {
			steady++
		} else {
			steady, last = 0, n
		}
		if time.Now().After(end) {
			tb.Fatal("goroutines come and go")
		}
	}
}

// goroutinesBack checks, when the test ends, that it left no goroutine behind. What
// libp2p keeps for its connections has to be there before.
func goroutinesBack(tb testing.TB) {
	tb.Helper()
	before := runtime.NumGoroutine()
	tb.Cleanup(func() {
		for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				tb.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	})
}

// transports are transports of two hosts, closed with the test.
func transports(tb testing.TB, p pair, o Options) (a, b *Transport) {
	tb.Helper()
	var made []*Transport
	for _, h := range []host.Host{p.a, p.b} {
		t, err := New(h, o)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { t.Close() })
		made = append(made, t)
	}
	return made[0], made[1]
}

func info(n node, channels ...p2p.ChannelID) p2p.NodeInfo {
	return p2p.NodeInfo{NodeID: n.id(), ListenAddr: "0.0.0.0:0", Network: "test", Moniker: "n", Channels: channels}
}

// until waits for a condition.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("waited 30 s: %s", what)
		}
	}
}

// session is two ends of a session whose handshake is done.
func session(tb testing.TB, p pair, a, b *Transport, channels ...p2p.ChannelID) (x, y *Connection) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	accepted := make(chan error, 1)
	go func() {
		c, err := b.Accept()
		if err == nil {
			y = c.(*Connection)
			_, _, err = y.Handshake(ctx, info(p.b, channels...), p.b.key)
		}
		accepted <- err
	}()
	c, err := a.Dial(ctx, p.at)
	if err != nil {
		tb.Fatal(err)
	}
	x = c.(*Connection)
	if _, _, err := x.Handshake(ctx, info(p.a, channels...), p.a.key); err != nil {
		tb.Fatal(err)
	}
	if err := <-accepted; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		x.Close()
		y.Close()
	})
	return x, y
}
