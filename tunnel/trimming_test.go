package tunnel

import (
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	cm "github.com/libp2p/go-libp2p/p2p/net/connmgr"
)

// trimming is a host whose connections are trimmed down to one when told, and only
// then, however young they are.
type trimming struct {
	host.Host
	cm *cm.BasicConnMgr
}

func (h trimming) ConnManager() connmgr.ConnManager { return h.cm }

func newTrimming(t *testing.T) (node, *cm.BasicConnMgr) {
	t.Helper()
	m, err := cm.NewConnManager(1, 1, cm.WithGracePeriod(0), cm.WithSilencePeriod(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	h := trimming{newHost(t, overTCP), m}
	h.Network().Notify(m.Notifee())
	p := NewP2P(h.ID(), h, nil)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return node{p, h}, m
}

// Trimming closes every connection but one that is worth more than the others,
// and that of the peer with a live tunnel, while bytes move through it. The
// connection of a peer whose tunnel has ended is closed like the others.
func TestTrimmingNeverCutsATunnel(t *testing.T) {
	for _, side := range []string{"the serving node trims", "the forwarding node trims"} {
		for _, state := range []string{"live", "ended"} {
			t.Run(side+"/"+state, func(t *testing.T) {
				n, manager := newTrimming(t)
				other := newNode(t, overTCP)
				from, to := other, n
				if side == "the forwarding node trims" {
					from, to = n, other
				}
				expose(t, to, "echo", service(t, echo), AllowAny())
				c := dial(t, forwardTo(t, from, to, "echo"))
				roundTrip(t, c, "before")

				connect := func() peer.ID {
					h := newHost(t)
					if err := h.Connect(t.Context(), peer.AddrInfo{ID: n.id, Addrs: n.h.Addrs()}); err != nil {
						t.Fatal(err)
					}
					return h.ID()
				}
				best := connect()
				manager.TagPeer(best, "worth more", 100)
				plain := []peer.ID{connect(), connect(), connect()}
				eventually(t, "all connections are known to the manager", func() bool { return manager.GetInfo().ConnCount == 5 })

				// Data flows while it trims.
				data := make([]byte, 4<<20)
				rand.Read(data)
				sent := make(chan error, 1)
				if state == "live" {
					first := data[:1<<20]
					go func() {
						_, err := c.Write(data)
						sent <- errors.Join(err, c.CloseWrite())
					}()
					if _, err := io.ReadFull(c, make([]byte, len(first))); err != nil {
						t.Fatal(err)
					}
				} else {
					c.Close()
					eventually(t, "the tunnel ends", func() bool { return !manager.IsProtected(other.id, "") && n.Streams.Len() == 0 })
				}
				manager.TrimOpenConns(t.Context())

				connected := func(id peer.ID) bool { return n.h.Network().Connectedness(id) == network.Connected }
				for _, id := range plain {
					eventually(t, "a plain connection is closed", func() bool { return !connected(id) })
				}
				if !connected(best) {
					t.Error("the connection that is worth more is closed")
				}
				if state == "ended" {
					eventually(t, "a connection without a tunnel is closed", func() bool { return !connected(other.id) })
					return
				}
				rest, err := io.ReadAll(c)
				if err != nil || len(rest) != len(data)-1<<20 {
					t.Errorf("after trimming %d bytes came, %v; want %d", len(rest), err, len(data)-1<<20)
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
				if !connected(other.id) {
					t.Error("the connection of the tunnel is closed")
				}
			})
		}
	}
}
