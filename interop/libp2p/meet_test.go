package libp2p

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/stream"
	"github.com/kith-p2p/kith/tunnel"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// Each learns by identify who the other is, what it speaks and where it
// listens, and both ping.
func TestIdentifyAndPing(t *testing.T) {
	each(t, func(t *testing.T, over string) {
		n, h := newKith(t, kith.Config{}), newStock(t)
		if err := n.Server().Start("/interop/echo/1", func(b []byte) ([]byte, error) { return b, nil }); err != nil {
			t.Fatal(err)
		}
		c := dial(t, h, n, over)
		if c.RemotePeer() != n.ID() {
			t.Errorf("connected to %v", c.RemotePeer())
		}
		if key := c.RemotePublicKey(); key == nil || !n.ID().MatchesPublicKey(key) {
			t.Errorf("its key is %v", key)
		}
		eventually(t, "the host identifies the node", func() error {
			if agent, _ := h.Peerstore().Get(n.ID(), "AgentVersion"); agent != "kith/interop" {
				return fmt.Errorf("agent %v", agent)
			}
			want := []protocol.ID{ping.ID, "/ipfs/id/1.0.0", "/meshsub/1.1.0", "/floodsub/1.0.0", "/kith/rpc/1.0.0", "/interop/echo/1"}
			if got, err := h.Peerstore().SupportsProtocols(n.ID(), want...); err != nil || len(got) != len(want) {
				return fmt.Errorf("of %q it speaks %q, %v", want, got, err)
			}
			got := h.Peerstore().Addrs(n.ID())
			for _, over := range overs {
				if want := addressOf(t, n, over).Addrs[0]; !slices.ContainsFunc(got, want.Equal) {
					return fmt.Errorf("it listens on %v, but on %v too", got, want)
				}
			}
			return nil
		})
		eventually(t, "the node identifies the host", func() error {
			i := slices.IndexFunc(n.Peers(), func(p kith.Peer) bool { return p.ID == h.ID() })
			if i < 0 {
				return fmt.Errorf("%v is not among the peers", h.ID())
			}
			p := n.Peers()[i]
			if !p.Connected || p.Direction != "inbound" || p.Agent == "" || !is(over, p.Address) || !slices.Contains(p.Known, h.Addrs()[0].String()) {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
		pongs := ping.Ping(ctxOf(t), h, n.ID())
		for range 3 {
			if r := <-pongs; r.Error != nil || r.RTT <= 0 {
				t.Errorf("%+v", r)
			}
		}
		for pong, err := range n.Ping(ctxOf(t), h.ID().String(), time.Millisecond) {
			if err != nil || pong.RTT <= 0 || !is(over, pong.Address) {
				t.Errorf("%+v, %v", pong, err)
			}
			if pong.Seq > 2 || err != nil {
				break
			}
		}
	})
}

// A stock host opens a service of the node, as a stream of the service's name,
// and the node one of the host: bytes, half-closes and resets travel, and the
// service is closed to others.
func TestStreams(t *testing.T) {
	const name = "/interop/echo/1"
	each(t, func(t *testing.T, over string) {
		n, h, stranger := newKith(t, kith.Config{}), newStock(t), newStock(t)
		service, err := n.Listen(name, h.ID().String())
		if err != nil {
			t.Fatal(err)
		}
		defer service.Close()
		callers := make(chan peer.ID, 8)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := service.Accept()
				if err != nil {
					return
				}
				id, _ := stream.PeerOf(c)
				callers <- id
				echo(c)
			}
		}()
		dial(t, h, n, over)
		dial(t, stranger, n, over)

		s, err := h.NewStream(ctxOf(t), n.ID(), name)
		if err != nil {
			t.Fatal(err)
		}
		talk(t, s)
		if got := <-callers; got != h.ID() {
			t.Errorf("the caller is %v", got)
		}
		if s, err := stranger.NewStream(ctxOf(t), n.ID(), name); err == nil {
			if got, err := io.ReadAll(s); err == nil {
				t.Errorf("a stranger read %q and the end", got)
			}
		}
		if s, err := h.NewStream(ctxOf(t), n.ID(), "/interop/unknown/1"); err == nil {
			t.Errorf("a service that there is not: %v", s.Protocol())
		}

		h.SetStreamHandler("/interop/theirs/1", func(s network.Stream) { echo(s) })
		h.SetStreamHandler("/interop/reset/1", func(s network.Stream) {
			_, _ = io.ReadFull(s, make([]byte, 5))
			_ = s.Reset()
		})
		c, err := n.Dial(ctxOf(t), stockAddress(t, h, over), "/interop/theirs/1")
		if err != nil {
			t.Fatal(err)
		}
		talk(t, c)
		if c, err = n.Dial(ctxOf(t), h.ID().String(), "/interop/reset/1"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(c); err == nil || len(got) > 0 {
			t.Errorf("from a stream that was reset: %q, %v", got, err)
		}
		c.Close()
		// Whether there is a service shows in the first read at the latest.
		c, err = n.Dial(ctxOf(t), h.ID().String(), "/interop/unknown/1")
		if err == nil {
			_, err = io.ReadAll(c)
			c.Close()
		}
		if !errors.Is(err, &tunnel.Error{Reason: tunnel.ReasonNoService}) && !errors.Is(err, stream.ErrNoSuchService) {
			t.Errorf("a service that the host does not have: %v", err)
		}
		service.Close()
		<-done
		select {
		case id := <-callers:
			t.Errorf("%v got in", id)
		default:
		}
	})
}

// echo speaks first, sends back what comes until its end, then a farewell.
func echo(c io.ReadWriteCloser) {
	defer c.Close()
	_, _ = io.WriteString(c, "hello")
	_, _ = io.Copy(c, c)
	_, _ = io.WriteString(c, "goodbye")
}

// talk is the other side of echo: what is sent after its greeting comes back, and
// the farewell after our half is closed.
func talk(t *testing.T, c io.ReadWriteCloser) {
	t.Helper()
	defer c.Close()
	hello := make([]byte, 5)
	if _, err := io.ReadFull(c, hello); err != nil || string(hello) != "hello" {
		t.Errorf("%q, %v", hello, err)
	}
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, append(data, "goodbye"...)) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
