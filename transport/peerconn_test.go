package transport_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/stream"
	"github.com/kith-p2p/kith/transport"
)

const tag = "/kith/bytes/1.0.0"

func newHost(t *testing.T, listen ...string) corehost.Host {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := host.Config{Key: key}
	for _, l := range listen {
		cfg.Listen = append(cfg.Listen, ma.StringCast(l))
	}
	h, err := host.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// at returns where a host listens, with its ID; /p2p-circuit is one of its addresses too.
func at(t *testing.T, h corehost.Host) ma.Multiaddr {
	t.Helper()
	for _, a := range h.Network().ListenAddresses() {
		if _, err := a.ValueForProtocol(ma.P_IP4); err == nil {
			return a.Encapsulate(ma.StringCast("/p2p/" + h.ID().String()))
		}
	}
	t.Fatal("the host does not listen")
	return nil
}

// Peers over real libp2p hosts: with the address in front, over each of the host's transports, and then without, over
// the connection that stands.
func TestPeers(t *testing.T) {
	for _, over := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"} {
		t.Run(over, func(t *testing.T) {
			ours, theirs := newHost(t), newHost(t, over)
			near := transport.New(transport.Options{Peers: stream.NewPeerNetwork(ours, tag)})
			far := transport.New(transport.Options{Peers: stream.NewPeerNetwork(theirs, tag)})
			name := ma.StringCast("/p2p/" + theirs.ID().String())
			where := at(t, theirs)
			l, err := far.Listen(name)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if !l.Multiaddr().Equal(name) {
				t.Errorf("listens on %v", l.Multiaddr())
			}
			if _, err := far.Listen(where); !errors.Is(err, stream.ErrAddrInUse) {
				t.Errorf("twice: %v", err)
			}
			for _, addr := range []ma.Multiaddr{where, name} {
				c, err := near.Dial(t.Context(), addr, false)
				if err != nil {
					t.Fatalf("%v: %v", addr, err)
				}
				mc, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				a := mc.(transport.Connection)
				if c.RemoteMultiaddr().String() != name.String() || a.RemoteMultiaddr().String() != "/p2p/"+ours.ID().String() ||
					!c.LocalMultiaddr().Equal(a.RemoteMultiaddr()) || !a.LocalMultiaddr().Equal(name) {
					t.Errorf("%v - %v, %v - %v", c.LocalMultiaddr(), c.RemoteMultiaddr(), a.LocalMultiaddr(), a.RemoteMultiaddr())
				}
				if id := c.(remote).RemotePeer(); id != theirs.ID() {
					t.Errorf("dialled %v", id)
				}
				if id := a.(remote).RemotePeer(); id != ours.ID() {
					t.Errorf("accepted %v", id)
				}
				if id, ok := stream.PeerOf(a); !ok || id != ours.ID() {
					t.Errorf("%v", id)
				}
				go func() {
					_, _ = io.Copy(a, a)
					_ = a.(interface{ CloseWrite() error }).CloseWrite()
				}()
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if c.Closed() {
					t.Error("half-closed is not closed")
				}
				got, err := io.ReadAll(c)
				if err != nil || string(got) != "hello" || !c.Closed() {
					t.Errorf("%q, %v, %v", got, err, c.Closed())
				}
				c.Close()
				a.Close()
			}
			// Somebody else's address is not listened on.
			if _, err := near.Listen(name); !errors.Is(err, transport.ErrAddress) {
				t.Errorf("as another peer: %v", err)
			}
		})
	}
}

type remote interface {
	RemotePeer() peer.ID
	LocalPeer() peer.ID
}

// Nobody at the address: the breaker of that address opens, that of the peer alone does not.
func TestPeerThatIsNotThere(t *testing.T) {
	ours, gone := newHost(t), newHost(t, "/ip4/127.0.0.1/tcp/0")
	where := at(t, gone)
	name := ma.StringCast("/p2p/" + gone.ID().String())
	gone.Close()
	tr := transport.New(transport.Options{Peers: stream.NewPeerNetwork(ours, tag), Threshold: 2, Backoff: time.Hour, MaxBackoff: time.Hour})
	for range 2 {
		if _, err := tr.Dial(t.Context(), where, false); err == nil || errors.Is(err, transport.ErrBreakerOpen) {
			t.Fatal(err)
		}
	}
	if _, err := tr.Dial(t.Context(), where, false); !errors.Is(err, transport.ErrBreakerOpen) {
		t.Fatal(err)
	}
	if s := tr.Panel().Lookup(name).State(); s != transport.Closed {
		t.Fatal(s)
	}
}

// A thousand dials that hang leave nothing behind when they are cancelled, and hold up no other.
func TestRegressionHangingDialsHoldUpNobody(t *testing.T) {
	ours, theirs := newHost(t), newHost(t, "/ip4/127.0.0.1/tcp/0")
	network := &hangs{PeerNetwork: stream.NewPeerNetwork(ours, tag), good: theirs.ID(), hanging: make(chan struct{}, 1000)}
	near := transport.New(transport.Options{Peers: network})
	far := transport.New(transport.Options{Peers: stream.NewPeerNetwork(theirs, tag)})
	name := ma.StringCast("/p2p/" + theirs.ID().String())
	l, err := far.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	results := make(chan error)
	for range 1000 {
		key, _, _ := crypto.GenerateEd25519Key(nil)
		id, _ := peer.IDFromPrivateKey(key)
		go func() {
			_, err := near.Dial(ctx, ma.StringCast("/p2p/"+id.String()), false)
			results <- err
		}()
	}
	for range 1000 {
		<-network.hanging
	}
	c, err := near.Dial(t.Context(), at(t, theirs), false)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	cancel()
	for range 1000 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	for name, b := range near.Panel().All() {
		if b.State() != transport.Closed {
			t.Errorf("%s: %v", name, b.State())
		}
	}
	// The connection between the hosts stays, with a few goroutines of libp2p's.
	for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before+100; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// hangs is a PeerNetwork where one peer answers.
type hangs struct {
	transport.PeerNetwork
	good    peer.ID
	hanging chan struct{}
}

func (h *hangs) DialPeer(ctx context.Context, info peer.AddrInfo) (net.Conn, error) {
	if info.ID == h.good {
		return h.PeerNetwork.DialPeer(ctx, info)
	}
	h.hanging <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}
