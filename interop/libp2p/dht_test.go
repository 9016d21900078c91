package libp2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/discovery"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	routedhost "github.com/libp2p/go-libp2p/p2p/host/routed"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// newStockDHT is a stock host with the stock DHT, of kith's network and of local
// addresses, that finds peers by it.
func newStockDHT(t *testing.T) (host.Host, *kad.IpfsDHT) {
	t.Helper()
	h := newStock(t)
	d, err := kad.New(h, kad.ProtocolPrefix("/kith/lan"), kad.Mode(kad.ModeServer))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return routedhost.Wrap(h, d), d
}

// Stock hosts and nodes are in one DHT. All that they have in common is one node,
// or one stock host; each finds any other by its ID alone, and connects.
func TestDHT(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin func(t *testing.T) string // an address to begin at
	}{
		{"a node in the middle", func(t *testing.T) string {
			return newKith(t, kith.Config{DHT: kith.DHTLAN, NoPEX: true}).Addrs()[0]
		}},
		{"a stock host in the middle", func(t *testing.T) string {
			h, _ := newStockDHT(t)
			return stockAddress(t, h, "tcp")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			at := c.begin(t)
			middle, err := peer.AddrInfoFromString(at)
			if err != nil {
				t.Fatal(err)
			}
			ours := []*kith.Node{}
			for range 2 {
				ours = append(ours, newKith(t, kith.Config{DHT: kith.DHTLAN, NoPEX: true, Bootstrap: []string{at}}))
			}
			var stock []host.Host
			var dhts []*kad.IpfsDHT
			for range 2 {
				h, d := newStockDHT(t)
				if err := h.Connect(ctxOf(t), *middle); err != nil {
					t.Fatal(err)
				}
				stock, dhts = append(stock, h), append(dhts, d)
			}
			for i, d := range dhts {
				for _, id := range []peer.ID{ours[0].ID(), ours[1].ID(), stock[1-i].ID()} {
					eventually(t, fmt.Sprintf("stock host %d finds %v", i, id), func() error {
						ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						defer cancel()
						info, err := d.FindPeer(ctx, id)
						if err == nil && (info.ID != id || len(info.Addrs) == 0) {
							err = fmt.Errorf("found %v", info)
						}
						return err
					})
				}
			}
			for i, n := range ours {
				for _, id := range []peer.ID{stock[0].ID(), stock[1].ID(), ours[1-i].ID()} {
					eventually(t, fmt.Sprintf("node %d finds %v", i, id), func() error {
						ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						defer cancel()
						got, places, err := n.Find(ctx, id.String())
						if err == nil && (got != id || len(places) == 0) {
							err = fmt.Errorf("found %v at %v", got, places)
						}
						return err
					})
				}
			}
			// Those that have no connection yet make one.
			if err := stock[0].Connect(ctxOf(t), peer.AddrInfo{ID: ours[1].ID()}); err != nil {
				t.Error(err)
			}
			if r := <-ping.Ping(ctxOf(t), stock[0], ours[1].ID()); r.Error != nil {
				t.Error(r.Error)
			}
			stock[1].SetStreamHandler("/interop/theirs/1", func(s network.Stream) { echo(s) })
			if conn, err := ours[0].Dial(ctxOf(t), stock[1].ID().String(), "/interop/theirs/1"); err != nil {
				t.Error(err)
			} else {
				talk(t, conn)
			}
			// Nobody knows this one.
			const nobody = "12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"
			id, err := peer.Decode(nobody)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := dhts[0].FindPeer(ctxOf(t), id); !errors.Is(err, routing.ErrNotFound) {
				t.Errorf("%v, %v", info, err)
			}
			if _, places, err := ours[0].Find(ctxOf(t), nobody); !errors.Is(err, kith.ErrUnknownPeer) {
				t.Errorf("%v, %v", places, err)
			}
		})
	}
}

// A node finds a stock host that it has never met, and says that the DHT told it;
// and what a stock host would store with us is refused.
func TestDHTTells(t *testing.T) {
	noLeaks(t)
	n := newKith(t, kith.Config{DHT: kith.DHTLAN, NoPEX: true})
	h, d := newStockDHT(t)
	dial(t, h, n, "tcp")
	eventually(t, "the host takes the node into its table", func() error {
		if d.RoutingTable().Find(n.ID()) == "" {
			return errors.New("not yet")
		}
		return nil
	})
	far := newKith(t, kith.Config{DHT: kith.DHTLAN, NoPEX: true, Bootstrap: n.Addrs()[:1]})
	eventually(t, "the far node finds the host", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, places, err := far.Find(ctx, h.ID().String())
		if err == nil && !slices.ContainsFunc(places, func(p discovery.Place) bool { return p.Addr.Equal(h.Addrs()[0]) }) {
			err = fmt.Errorf("%v", places)
		}
		return err
	})
	if err := d.PutValue(ctxOf(t), "/pk/"+string(h.ID()), []byte("a record")); err == nil {
		t.Error("a record was stored")
	}
}
