package kith

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What a review found, each as it showed.

// Eight peers in all, eight of them dialled: nobody could come in.
func TestRegressionFewPeersStillComeIn(t *testing.T) {
	a := startWith(t, Config{MaxPeers: 8})
	b := startWith(t, Config{MaxPeers: 1, Bootstrap: a.Addrs()[:1]})
	eventually(t, "they are peers", func() bool { return up(a, b) && up(b, a) })
}

// A node that is closed before it ran leaves neither transports nor channels open,
// and neither does one that could not be made.
func TestRegressionCloseWithoutRun(t *testing.T) {
	for name, cfg := range map[string]Config{"closed": {}, "not made": {DHT: "nonsense"}} {
		t.Run(name, func(t *testing.T) {
			tr, err := mconn.New(mconn.Options{Listen: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			at := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(tr.Endpoints()[0].Port)}
			cfg.Home, cfg.LocalOnly, cfg.Transports = t.TempDir(), true, []p2p.Transport{tr}
			if n, err := New(cfg); err == nil {
				c, err := p2p.OpenTyped[*wrapperspb.StringValue](n.Router(), 0x10)
				if err != nil {
					t.Fatal(err)
				}
				if err := n.Close(); err != nil {
					t.Error(err)
				}
				<-c.Done()
			}
			l, err := net.ListenTCP("tcp4", &at)
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
		})
	}
}

// Run beside Close returns nil, whichever comes first; a second Run is refused and
// does the node no harm.
func TestRegressionRunBesideClose(t *testing.T) {
	for range 20 {
		n, err := New(Config{Home: t.TempDir(), LocalOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		ran := make(chan error)
		go func() { ran <- n.Run(context.Background()) }()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}
	n := startWith(t, Config{})
	eventually(t, "it runs", func() bool { return n.running.Load() })
	if err := n.Run(t.Context()); err == nil || n.ctx.Err() != nil {
		t.Errorf("a second Run: %v, the node's end: %v", err, n.ctx.Err())
	}
}

// The ban of a network holds on transports beside libp2p, and in either spelling.
func TestRegressionBannedNetworkOverMConn(t *testing.T) {
	over := func(listen string) p2p.Transport {
		tr, err := mconn.New(mconn.Options{Listen: listen})
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	tr := over("127.0.0.1:0")
	a := startWith(t, Config{Transports: []p2p.Transport{tr}})
	if err := a.Ban(t.Context(), "::ffff:127.0.0.0/104", time.Hour, "a test"); err != nil {
		t.Fatal(err)
	}
	b := startWith(t, Config{Transports: []p2p.Transport{over("")}})
	at := tr.Endpoints()[0].NodeAddress(a.NodeID())
	if _, err := b.Remember(t.Context(), at.String()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b was turned away", func() bool { e, ok := b.Book().Entry(at); return ok && e.Failures >= 2 })
	if up(a, b) {
		t.Error("a peer of a banned network is up")
	}
	if was, err := a.Unban(t.Context(), "127.0.0.0/8"); err != nil || !was {
		t.Error(was, err)
	}
	eventually(t, "b may come", func() bool { return up(a, b) })
}
