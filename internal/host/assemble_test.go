package host

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/config"
	coreconnmgr "github.com/libp2p/go-libp2p/core/connmgr"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
)

// stock is the host that libp2p's constructor makes of the same settings.
func stock(t *testing.T, opts ...libp2p.Option) corehost.Host {
	t.Helper()
	h, err := libp2p.New(append([]libp2p.Option{
		libp2p.NoListenAddrs, libp2p.EnableRelay(), libp2p.UserAgent("kith"), libp2p.DisableMetrics(), libp2p.Ping(true),
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()), libp2p.Transport(libp2pquic.NewTransport), libp2p.Transport(websocket.New),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func join(t *testing.T, from, to corehost.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := from.Connect(ctx, peer.AddrInfo{ID: to.ID(), Addrs: to.Addrs()}); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// What is put together by hand is what libp2p's constructor puts together.
func TestLikeLibp2p(t *testing.T) {
	ours, theirs := newHost(t), stock(t)
	same := func(what string, of func(corehost.Host) []string) {
		t.Helper()
		a, b := of(ours), of(theirs)
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) || len(a) == 0 {
			t.Errorf("%s:\nours   %q\nlibp2p %q", what, a, b)
		}
	}
	same("protocols", func(h corehost.Host) (out []string) {
		for _, p := range h.Mux().Protocols() {
			out = append(out, string(p))
		}
		return out
	})
	same("events", func(h corehost.Host) (out []string) {
		for _, e := range h.EventBus().GetAllEventTypes() {
			out = append(out, e.String())
		}
		return out
	})
	same("transports", func(h corehost.Host) (out []string) {
		n := h.Network().(interface {
			TransportForDialing(ma.Multiaddr) transport.Transport
			TransportForListening(ma.Multiaddr) transport.Transport
		})
		for _, a := range []string{
			"/ip4/1.2.3.4/tcp/1", "/ip6/::1/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/tcp/1/ws", "/dns4/a.b/tcp/1/wss", "/ip4/1.2.3.4/tcp/1/tls/ws",
			"/ip4/1.2.3.4/tcp/1/p2p/12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV/p2p-circuit", "/p2p-circuit",
		} {
			m := ma.StringCast(a)
			out = append(out, fmt.Sprintf("%s dial %T listen %T", a, n.TransportForDialing(m), n.TransportForListening(m)))
		}
		return out
	})
	same("listeners before any address", func(h corehost.Host) (out []string) {
		return append(out, fmt.Sprint(h.Network().ListenAddresses(), h.Addrs()))
	})
	same("kinds of parts", func(h corehost.Host) (out []string) {
		return append(out, fmt.Sprintf("%T %T %T %T %T", h.Network(), h.Peerstore(), h.ConnManager(), h.EventBus(), h.Mux()))
	})
	same("own keys", func(h corehost.Host) (out []string) {
		k := h.Peerstore().PrivKey(h.ID())
		return append(out, fmt.Sprint(k != nil && h.Peerstore().PubKey(h.ID()).Equals(k.GetPublic())))
	})
	same("AutoNAT", func(h corehost.Host) (out []string) {
		n := h.(interface{ GetAutoNat() autonat.AutoNAT }).GetAutoNat()
		return append(out, fmt.Sprintf("%T %v", n, n.Status()))
	})
	same("limits on connections", func(h corehost.Host) (out []string) {
		_, counts := h.Network().ResourceManager().(coreconnmgr.GetConnLimiter)
		return append(out, fmt.Sprint(counts))
	})
}

// What identify tells a third host of each.
func TestIdentifiesLikeLibp2p(t *testing.T) {
	const at = "/ip4/127.0.0.1/tcp/0"
	third := stock(t, libp2p.ListenAddrStrings(at))
	told := func(h corehost.Host) string {
		join(t, h, third)
		var version string
		eventually(t, "identified", func() bool {
			v, err := third.Peerstore().Get(h.ID(), "AgentVersion")
			version, _ = v.(string)
			return err == nil
		})
		ps, err := third.Peerstore().GetProtocols(h.ID())
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(ps)
		proto, _ := third.Peerstore().Get(h.ID(), "ProtocolVersion")
		signed, _ := peerstore.GetCertifiedAddrBook(third.Peerstore())
		return fmt.Sprintf("%s %v %v signed=%t addresses=%d", version, proto, ps, signed.GetPeerRecord(h.ID()) != nil, len(third.Peerstore().Addrs(h.ID())))
	}
	a, b := told(newHost(t, at)), told(stock(t, libp2p.ListenAddrStrings(at)))
	if a != b {
		t.Errorf("identify:\nours   %s\nlibp2p %s", a, b)
	}
}

// A host learns how others see it, can be pinged, and says who it is: the
// services of the basic host run.
func TestServicesRun(t *testing.T) {
	a, b := newHost(t, "/ip4/127.0.0.1/tcp/0"), newHost(t, "/ip4/127.0.0.1/tcp/0")
	join(t, a, b)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if r := <-ping.Ping(ctx, a, b.ID()); r.Error != nil {
		t.Errorf("ping: %v", r.Error)
	}
	ids := a.(interface{ IDService() identify.IDService }).IDService()
	for _, c := range a.Network().ConnsToPeer(b.ID()) {
		select {
		case <-ids.IdentifyWait(c):
		case <-ctx.Done():
			t.Fatal("not identified")
		}
	}
	b.SetStreamHandler("/later", func(s network.Stream) { s.Close() }) // is pushed
	eventually(t, "a push of identify", func() bool {
		ok, err := a.Peerstore().SupportsProtocols(b.ID(), "/later")
		return err == nil && len(ok) == 1
	})
}

func TestDialsOverRelay(t *testing.T) {
	relay := stock(t, libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.EnableRelayService(), libp2p.ForceReachabilityPublic())
	hidden, caller := newHost(t), newHost(t)
	join(t, hidden, relay)
	join(t, caller, relay)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := client.Reserve(ctx, hidden, peer.AddrInfo{ID: relay.ID(), Addrs: relay.Addrs()}); err != nil {
		t.Fatal(err)
	}
	over := ma.StringCast(fmt.Sprintf("%s/p2p/%s/p2p-circuit", relay.Addrs()[0], relay.ID()))
	if err := caller.Connect(ctx, peer.AddrInfo{ID: hidden.ID(), Addrs: []ma.Multiaddr{over}}); err != nil {
		t.Fatal(err)
	}
	hidden.SetStreamHandler("/x/echo", func(s network.Stream) {
		b := make([]byte, 1)
		s.Read(b)
		s.Write(b)
		s.Close()
	})
	s, err := caller.NewStream(network.WithAllowLimitedConn(ctx, "test"), hidden.ID(), "/x/echo")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	if _, err := s.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := s.Read(b); err != nil || b[0] != 7 {
		t.Fatal(b, err)
	}
}

func TestServiceLimits(t *testing.T) {
	for _, memory := range []int64{128 << 20, 1 << 30, 24 << 30} {
		ours, theirs := rcmgr.DefaultLimits, rcmgr.DefaultLimits
		addServiceLimits(&ours)
		libp2p.SetDefaultServiceLimits(&theirs)
		a, b := ours.Scale(memory, 4096), theirs.Scale(memory, 4096)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("limits at %d MiB:\nours   %+v\nlibp2p %+v", memory>>20, a.ToPartialLimitConfig(), b.ToPartialLimitConfig())
		}
		if reflect.DeepEqual(a, rcmgr.DefaultLimits.Scale(memory, 4096)) {
			t.Error("the limits of services change nothing")
		}
	}
}

// Connections of a QUIC node that started again are reset with these.
func TestQUICKeys(t *testing.T) {
	key := newKey(t)
	reset, err := config.PrivKeyToStatelessResetKey(key)
	if err != nil {
		t.Fatal(err)
	}
	token, err := config.PrivKeyToTokenGeneratorKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for purpose, want := range map[string][]byte{"libp2p quic stateless reset key": reset[:], "libp2p quic token generator key": token[:]} {
		if got, err := derive(key, purpose, len(want)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %x (%v), want %x", purpose, got, err, want)
		}
	}
}

// An inbound QUIC connection is counted once, from before its handshake to its
// end.
func TestCountsInboundQUIC(t *testing.T) {
	server, c := newHost(t, "/ip4/127.0.0.1/udp/0/quic-v1"), newHost(t)
	inbound := func() int {
		return server.Network().ResourceManager().(rcmgr.ResourceManagerState).Stat().System.NumConnsInbound
	}
	join(t, c, server)
	eventually(t, "one inbound connection", func() bool { return inbound() == 1 })
	c.Network().ClosePeer(server.ID())
	eventually(t, "no inbound connection", func() bool { return inbound() == 0 })
}

// Close frees the ports and ends every goroutine, whatever was open; so does a
// New that fails.
func TestCloseEndsEverything(t *testing.T) {
	key := newKey(t)
	listen := addrs(t, "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws")
	quiet := func() int { // what a first host leaves behind for the process is not the second's
		h, err := New(Config{Key: key, Listen: listen})
		if err != nil {
			t.Fatal(err)
		}
		h.Close()
		return settled()
	}()
	a, err := New(Config{Key: key, Listen: listen})
	if err != nil {
		t.Fatal(err)
	}
	bound := a.Network().ListenAddresses()
	b, err := New(Config{Key: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	join(t, b, a)
	if err := errors.Join(b.Close(), a.Close(), a.Close()); err != nil {
		t.Error(err)
	}
	bound = slices.DeleteFunc(slices.Clone(bound), func(m ma.Multiaddr) bool { return strings.HasSuffix(m.String(), "p2p-circuit") })
	again, err := New(Config{Key: key, Listen: bound})
	if err != nil {
		t.Fatalf("the ports are not free after Close: %v", err)
	}
	again.Close()
	for name, bad := range map[string]Config{
		"unknown security": {Key: key, Security: []protocol.ID{"/none"}},
		"bad listener":     {Key: key, Listen: addrs(t, "/ip4/127.0.0.1/udp/0/webrtc-direct")},
		"bad QUIC option":  {Key: key, QUIC: []quicreuse.Option{func(*quicreuse.ConnManager) error { return errors.New("no") }}},
	} {
		if h, err := New(bad); err == nil {
			h.Close()
			t.Errorf("%s: no error", name)
		}
	}
	eventually(t, fmt.Sprintf("%d goroutines again", quiet), func() bool { return runtime.NumGoroutine() <= quiet })
}

// settled is the number of goroutines when it no longer falls.
func settled() int {
	n := runtime.NumGoroutine()
	for still := 0; still < 50; still++ {
		time.Sleep(2 * time.Millisecond)
		if m := runtime.NumGoroutine(); m < n {
			n, still = m, 0
		}
	}
	return n
}

func TestPrivateNetworkForced(t *testing.T) {
	pnet.ForcePrivateNetwork = true
	defer func() { pnet.ForcePrivateNetwork = false }()
	if h, err := New(Config{Key: newKey(t)}); !errors.Is(err, pnet.ErrNotInPrivateNetwork) {
		if err == nil {
			h.Close()
		}
		t.Errorf("got %v, want %v", err, pnet.ErrNotInPrivateNetwork)
	}
}

// libp2p's own constructor links every transport that libp2p has, and the
// container that it is built with: 5 MB of a node's program, most of it resident.
func TestRegressionLinksEveryTransport(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, p := range []string{
		"github.com/libp2p/go-libp2p", "github.com/libp2p/go-libp2p/config", "go.uber.org/fx", "go.uber.org/dig",
		"github.com/pion/webrtc/v4", "github.com/quic-go/webtransport-go",
	} {
		if slices.Contains(deps, p) {
			t.Errorf("the host links %s", p)
		}
	}
	if !slices.Contains(deps, "github.com/libp2p/go-libp2p/p2p/net/swarm") {
		t.Error("this is no list of packages")
	}
}
