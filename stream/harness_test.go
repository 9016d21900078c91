package stream

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/kith-p2p/kith/internal/host"
)

// networks is what every behaviour is tested over: a makes connections, b
// takes them, and a knows where b is.
var networks = []struct {
	name  string
	hosts func(testing.TB) (a, b corehost.Host)
}{
	{"tcp-noise", func(tb testing.TB) (a, b corehost.Host) {
		return connected(tb, "/ip4/127.0.0.1/tcp/0", secured(noise.ID))
	}},
	{"tcp-tls", func(tb testing.TB) (a, b corehost.Host) {
		return connected(tb, "/ip4/127.0.0.1/tcp/0", secured(libp2ptls.ID))
	}},
	{"quic", func(tb testing.TB) (a, b corehost.Host) {
		return connected(tb, "/ip4/127.0.0.1/udp/0/quic-v1")
	}},
	{"websocket", func(tb testing.TB) (a, b corehost.Host) {
		return connected(tb, "/ip4/127.0.0.1/tcp/0/ws")
	}},
	{"relayed", func(tb testing.TB) (a, b corehost.Host) {
		return relayed(tb, relay.WithInfiniteLimits())
	}},
	{"simulated", simulated},
	{"self", func(tb testing.TB) (a, b corehost.Host) {
		h := newHost(tb, "")
		return h, h
	}},
}

// overNetworks runs body once per network, with fresh hosts, and fails if body
// leaves a stream or a goroutine of ours behind.
func overNetworks(t *testing.T, body func(t *testing.T, a, b corehost.Host)) {
	for _, nw := range networks {
		t.Run(nw.name, func(t *testing.T) {
			a, b := nw.hosts(t)
			t.Cleanup(func() { checkNothingLeft(t, a, b) })
			body(t, a, b)
		})
	}
}

// secured allows one security transport only.
func secured(id protocol.ID) func(*host.Config) {
	return func(c *host.Config) { c.Security = []protocol.ID{id} }
}

func newHost(tb testing.TB, listen string, opts ...func(*host.Config)) corehost.Host {
	tb.Helper()
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := host.Config{Key: key}
	for _, o := range opts {
		o(&cfg)
	}
	if listen != "" {
		cfg.Listen = []ma.Multiaddr{ma.StringCast(listen)}
	}
	h, err := host.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { h.Close() })
	return h
}

func connected(tb testing.TB, listen string, opts ...func(*host.Config)) (a, b corehost.Host) {
	a, b = newHost(tb, "", opts...), newHost(tb, listen, opts...)
	a.Peerstore().AddAddrs(b.ID(), b.Network().ListenAddresses(), peerstore.PermanentAddrTTL)
	connect(tb, a, peer.AddrInfo{ID: b.ID()})
	return a, b
}

func connect(tb testing.TB, from corehost.Host, to peer.AddrInfo) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := from.Connect(ctx, to); err != nil {
		tb.Fatal(err)
	}
}

// relayed returns two hosts where b can be reached only through a relay.
func relayed(tb testing.TB, opts ...relay.Option) (a, b corehost.Host) {
	a, b = newHost(tb, ""), newHost(tb, "")
	r := newHost(tb, "/ip4/127.0.0.1/tcp/0")
	service, err := relay.New(r, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { service.Close() })
	at := peer.AddrInfo{ID: r.ID()}
	for _, addr := range r.Network().ListenAddresses() { // /p2p-circuit is one of them
		if _, err := addr.ValueForProtocol(ma.P_TCP); err == nil {
			at.Addrs = append(at.Addrs, addr)
		}
	}
	connect(tb, b, at)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := client.Reserve(ctx, b, at); err != nil {
		tb.Fatal(err)
	}
	circuit := ma.StringCast(fmt.Sprintf("%s/p2p/%s/p2p-circuit", at.Addrs[0], r.ID()))
	a.Peerstore().AddAddrs(b.ID(), []ma.Multiaddr{circuit}, peerstore.PermanentAddrTTL)
	return a, b
}

var tags atomic.Uint64

const tagPrefix = "/kith-test/"

func newTag() protocol.ID { return protocol.ID(tagPrefix + strconv.FormatUint(tags.Add(1), 10)) }

// pipe returns the two ends of a fresh connection, both closed with the test.
func pipe(tb testing.TB, a, b corehost.Host, opts ...DialOption) (dialled, accepted *Conn) {
	tb.Helper()
	c1, c2, stop, err := makePipe(a, b, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(stop)
	return c1, c2
}

func makePipe(a, b corehost.Host, opts ...DialOption) (c1, c2 *Conn, stop func(), err error) {
	tag := newTag()
	ln, err := Listen(b, tag)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	d, err := Dial(ctx, a, b.ID(), tag, opts...)
	if err != nil {
		ln.Close()
		return nil, nil, nil, err
	}
	unstick := context.AfterFunc(ctx, func() { ln.Close() })
	defer unstick()
	s, err := ln.Accept()
	if err != nil {
		d.Close()
		ln.Close()
		return nil, nil, nil, err
	}
	stop = func() {
		d.Close()
		s.Close()
		ln.Close()
	}
	return d.(*Conn), s.(*Conn), stop, nil
}

// hold makes b answer no negotiation before the returned function is called.
func hold(tb testing.TB, b corehost.Host) (release func()) {
	gate := make(chan struct{})
	b.Network().SetStreamHandler(func(s network.Stream) {
		<-gate
		tag, handle, err := b.Mux().Negotiate(s)
		if err == nil {
			err = s.SetProtocol(tag)
		}
		if err != nil {
			s.Reset()
			return
		}
		handle(tag, s)
	})
	open := false
	release = func() {
		if !open {
			open = true
			close(gate)
		}
	}
	tb.Cleanup(release)
	return release
}

// within fails the test if f takes longer than d.
func within(tb testing.TB, d time.Duration, what string, f func()) {
	tb.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		buf := make([]byte, 1<<20)
		tb.Fatalf("%s takes longer than %s\n%s", what, d, buf[:runtime.Stack(buf, true)])
	}
}

// eventually polls until ok returns "", and fails with its last complaint.
func eventually(tb testing.TB, ok func() string) {
	tb.Helper()
	var complaint string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if complaint = ok(); complaint == "" {
			return
		}
	}
	tb.Error(complaint)
}

var ours = regexp.MustCompile(`kith/stream\.\(\*(Conn|listener|loopHalf)\)`)

// checkNothingLeft waits until no stream of a test, no slot for one in the
// resource manager, no listener and no goroutine inside this package is left.
func checkNothingLeft(tb testing.TB, hosts ...corehost.Host) {
	tb.Helper()
	eventually(tb, func() string {
		for i, h := range hosts {
			for _, c := range h.Network().Conns() {
				for _, s := range c.GetStreams() {
					if strings.HasPrefix(string(s.Protocol()), tagPrefix) {
						return fmt.Sprintf("host %d still has a stream of %s", i, s.Protocol())
					}
				}
			}
			for n := uint64(1); n <= tags.Load(); n++ {
				tag := protocol.ID(tagPrefix + strconv.FormatUint(n, 10))
				var left int
				h.Network().ResourceManager().ViewProtocol(tag, func(s network.ProtocolScope) error {
					left = s.Stat().NumStreamsInbound + s.Stat().NumStreamsOutbound
					return nil
				})
				if left != 0 {
					return fmt.Sprintf("host %d: the resource manager still counts %d streams of %s", i, left, tag)
				}
			}
		}
		return ""
	})
	eventually(tb, func() string {
		buf := make([]byte, 4<<20)
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if ours.MatchString(g) {
				return "goroutine left:\n" + g
			}
		}
		return ""
	})
	listeners.mu.Lock()
	defer listeners.mu.Unlock()
	if n := len(listeners.m); n != 0 {
		tb.Errorf("%d listeners left", n)
	}
}

// fillWindow writes into c, whose peer does not read, until nothing more goes.
func fillWindow(tb testing.TB, c *Conn) {
	tb.Helper()
	c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for {
		if _, err := c.Write(make([]byte, 64<<10)); err != nil {
			if !isTimeout(err) {
				tb.Fatal(err)
			}
			break
		}
	}
	if err := c.SetWriteDeadline(time.Time{}); err != nil {
		tb.Fatal(err)
	}
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// nettestRepeats is how often TestConn runs: 1, or KITH_NETTEST_REPEATS. CI
// sets 5 with -race, `make race` 100.
func nettestRepeats(t *testing.T) int {
	v := os.Getenv("KITH_NETTEST_REPEATS")
	if v == "" {
		return 1
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("KITH_NETTEST_REPEATS=%q: want a number of at least 1", v)
	}
	return n
}

// echo serves one connection.
func echo(c net.Conn) {
	io.Copy(c, c)
	c.Close()
}
