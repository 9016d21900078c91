package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

func newHost(t *testing.T, listen ...string) corehost.Host {
	t.Helper()
	h, err := New(Config{Key: newKey(t), Listen: addrs(t, listen...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func newKey(t *testing.T) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func addrs(t *testing.T, ss ...string) []ma.Multiaddr {
	t.Helper()
	var out []ma.Multiaddr
	for _, s := range ss {
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func TestEveryTransportConnects(t *testing.T) {
	for _, listen := range []string{
		"/ip4/127.0.0.1/tcp/0",
		"/ip4/127.0.0.1/udp/0/quic-v1",
		"/ip4/127.0.0.1/tcp/0/ws",
		"/ip6/::1/tcp/0",
	} {
		t.Run(listen, func(t *testing.T) {
			server, client := newHost(t, listen), newHost(t)
			if err := client.Connect(t.Context(), peer.AddrInfo{ID: server.ID(), Addrs: server.Addrs()}); err != nil {
				t.Fatal(err)
			}
			if n := len(client.Network().ConnsToPeer(server.ID())); n != 1 {
				t.Fatalf("%d connections, want 1", n)
			}
		})
	}
}

// One address of two is taken: libp2p alone would start with the other one.
func TestEveryAddressMustBind(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken, err := manet.FromNetAddr(l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(Config{Key: newKey(t), Listen: []ma.Multiaddr{addrs(t, "/ip4/127.0.0.1/udp/0/quic-v1")[0], taken}})
	var le *ListenError
	if !errors.As(err, &le) || !le.Addr.Equal(taken) {
		t.Fatalf("got %v, want a ListenError for %s", err, taken)
	}
	if !errors.Is(err, syscall.EADDRINUSE) && !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("the cause is lost: %v", err)
	}
}

func TestConfigFaults(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no key":       {},
		"water marks":  {Key: newKey(t), LowWater: 10, HighWater: 5},
		"bad listener": {Key: newKey(t), Listen: addrs(t, "/ip4/127.0.0.1/udp/0/webrtc-direct")},
	} {
		if h, err := New(cfg); err == nil {
			h.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

// The limits must let one peer hold 3,000 streams of one protocol, whatever its
// name, whichever side made the connection: libp2p's defaults stop at 64 + 4/GiB,
// and at 256 over QUIC.
func TestStreamLimits(t *testing.T) {
	const name, want = "/x/any-name", 3000
	for _, listen := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"} {
		listens, dials := newHost(t, listen), newHost(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := dials.Connect(ctx, peer.AddrInfo{ID: listens.ID(), Addrs: listens.Addrs()}); err != nil {
			t.Fatal(err)
		}
		for who, side := range map[string]struct{ opens, holds corehost.Host }{"dialler": {dials, listens}, "listener": {listens, dials}} {
			t.Run(listen+", opened by the "+who, func(t *testing.T) {
				var got sync.WaitGroup
				got.Add(want)
				side.holds.SetStreamHandler(name, func(s network.Stream) {
					got.Done()
					s.Read(make([]byte, 1)) // held until the other side closes
					s.Close()
				})
				for i := range want {
					s, err := side.opens.NewStream(ctx, side.holds.ID(), name)
					if err != nil {
						t.Fatalf("stream %d: %v", i, err)
					}
					defer s.Close()
					if _, err := s.Write(nil); err != nil { // flush the negotiation
						t.Fatalf("stream %d: %v", i, err)
					}
				}
				done := make(chan struct{})
				go func() { got.Wait(); close(done) }()
				select {
				case <-done:
				case <-ctx.Done():
					t.Fatal("not all streams reached the handler")
				}
			})
		}
	}
}

func TestRankDials(t *testing.T) {
	const (
		lanTCP  = "/ip4/192.168.1.2/tcp/4001"
		lanQUIC = "/ip4/192.168.1.2/udp/4001/quic-v1"
		lanWS   = "/ip4/192.168.1.2/tcp/4002/ws"
		pubTCP  = "/ip4/8.8.8.8/tcp/4001"
		pubQUIC = "/ip4/8.8.8.8/udp/4001/quic-v1"
		pubTCP6 = "/ip6/2606:4700::1/tcp/4001"
		relay   = "/ip4/192.168.1.9/tcp/4001/p2p/12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV/p2p-circuit"
	)
	first := func(in ...string) string {
		best := ""
		var delay time.Duration
		for _, d := range rankDials(addrs(t, in...)) {
			if best == "" || d.Delay < delay {
				best, delay = d.Addr.String(), d.Delay
			}
		}
		return best
	}
	for i, c := range []struct {
		in   []string
		want string
	}{
		{[]string{lanQUIC, lanTCP, lanWS}, lanTCP},
		{[]string{lanQUIC, lanWS}, lanQUIC},
		{[]string{pubQUIC, pubTCP}, pubTCP},
		{[]string{pubQUIC, pubTCP, pubTCP6}, pubTCP6},
		{[]string{pubQUIC, relay}, pubQUIC},
		{[]string{relay, lanTCP}, lanTCP},
		{[]string{relay, pubQUIC}, pubQUIC},
		{[]string{relay}, relay},
	} {
		if got := first(c.in...); got != c.want {
			t.Errorf("case %d: %s first, want %s", i, got, c.want)
		}
	}
	all := []string{lanTCP, lanQUIC, lanWS, pubTCP, pubQUIC, relay}
	if n := len(rankDials(addrs(t, all...))); n != len(all) {
		t.Errorf("ranking returned %d of %d addresses", n, len(all))
	}
	if fmt.Sprint(rankDials(nil)) != "[]" {
		t.Error("ranking nothing returned something")
	}
}
