package p2p_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/race"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// names is a resolver that knows what it was told.
type names map[string][]string

func (n names) LookupIPAddr(_ context.Context, host string) (ips []net.IPAddr, err error) {
	for _, ip := range n[host] {
		ips = append(ips, net.IPAddr{IP: net.ParseIP(ip)})
	}
	return ips, nil
}

// watched is a transport that notes what it dials, of which some endpoints never
// answer, and how many handshakes begin.
type watched struct {
	p2p.Transport
	deaf       map[string]bool // IPs
	handshakes atomic.Int32

	mu     sync.Mutex
	dialed []string
	hung   int // dials of deaf endpoints that have not ended
}

type watchedConn struct {
	p2p.Connection
	t *watched
}

func (t *watched) Dial(ctx context.Context, e p2p.Endpoint) (p2p.Connection, error) {
	t.mu.Lock()
	t.dialed = append(t.dialed, e.IP.String())
	if t.deaf[e.IP.String()] {
		t.hung++
	}
	t.mu.Unlock()
	if t.deaf[e.IP.String()] {
		<-ctx.Done()
		t.mu.Lock()
		t.hung--
		t.mu.Unlock()
		return nil, ctx.Err()
	}
	return t.watch(t.Transport.Dial(ctx, e))
}

func (t *watched) Accept() (p2p.Connection, error) { return t.watch(t.Transport.Accept()) }

func (t *watched) watch(c p2p.Connection, err error) (p2p.Connection, error) {
	if err != nil {
		return nil, err
	}
	return &watchedConn{c, t}, nil
}

func (c *watchedConn) Handshake(ctx context.Context, info p2p.NodeInfo, key p2p.PrivKey) (p2p.NodeInfo, p2p.PubKey, error) {
	c.t.handshakes.Add(1)
	return c.Connection.Handshake(ctx, info, key)
}

// watchedNode is a node on a memory network that listens at a place.
func (w *world) watchedNode(place string, change ...func(*p2p.RouterOptions)) (*testNode, *watched) {
	t := new(watched)
	n := w.node(append(change, func(o *p2p.RouterOptions) {
		o.Transports[0].Close()
		tr, err := w.net.Listen(o.PrivKey.Public().NodeID(), netip.MustParseAddrPort(place))
		if err != nil {
			w.Fatal(err)
		}
		t.Transport = tr
		o.Transports = []p2p.Transport{t}
	})...)
	return n, t
}

// Happy Eyeballs: a peer whose name has several addresses is reached at the one
// that answers, although those before it never do, and a Stagger later for each.
func TestRouterRacesTheEndpointsOfAName(t *testing.T) {
	const alive = "192.0.2.7"
	for name, c := range map[string]struct {
		ips, dialed []string
		deaf        map[string]bool
	}{
		"the first is dead":       {[]string{"192.0.2.8", alive}, []string{"192.0.2.8", alive}, map[string]bool{"192.0.2.8": true}},
		"IPv6 first, and dead":    {[]string{alive, "2001:db8::1"}, []string{"2001:db8::1", alive}, map[string]bool{"2001:db8::1": true}},
		"two are dead":            {[]string{"192.0.2.8", "192.0.2.9", alive}, []string{"192.0.2.8", "192.0.2.9", alive}, map[string]bool{"192.0.2.8": true, "192.0.2.9": true}},
		"the first is enough":     {[]string{alive, "192.0.2.8"}, []string{alive}, map[string]bool{"192.0.2.8": true}},
		"the first refuses dials": {[]string{"192.0.2.8", alive}, []string{"192.0.2.8", alive}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
				a, from := w.watchedNode("192.0.2.6:26656")
				b, _ := w.watchedNode(alive + ":26656")
				from.deaf = c.deaf
				p2p.SetResolverForTest(a.r, names{"peer.example": c.ips})
				w.start(a, b)
				sub := a.pm.Subscribe()
				defer sub.Close()
				began := time.Now()
				if _, err := a.pm.Add(p2p.NodeAddress{NodeID: b.id, Protocol: memory.ProtocolIP, Hostname: "peer.example", Port: 26656}); err != nil {
					t.Fatal(err)
				}
				if u := <-sub.Updates(); u.Status != p2p.PeerStatusUp || u.NodeID != b.id {
					t.Errorf("%+v", u)
				}
				if took, want := time.Since(began), time.Duration(len(c.deaf))*race.Stagger; len(c.dialed) > 1 && took != want {
					t.Errorf("took %v, not %v", took, want)
				}
				from.mu.Lock()
				defer from.mu.Unlock()
				if !slices.Equal(from.dialed, c.dialed) || from.hung != 0 {
					t.Errorf("dialled %v, not %v; %d dials go on", from.dialed, c.dialed, from.hung)
				}
			})
		})
	}
}

// FilterPeerByIP is asked before the handshake, of what we dial and of what we
// accept: whom it refuses learns nothing of us and costs us no key exchange.
func TestIPFilterComesBeforeTheHandshake(t *testing.T) {
	const here, there = "192.0.2.6:26656", "192.0.2.7:26656"
	errNo := errors.New("no such IPs")
	for _, inbound := range []bool{false, true} {
		inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
			var asked []string
			var refused filterCauses
			filter := func(o *p2p.RouterOptions) {
				o.Logger = slog.New(&refused)
				o.FilterPeerByIP = func(_ context.Context, ip net.IP, _ uint16) error {
					asked = append(asked, ip.String())
					return errNo
				}
			}
			told := make(chan error, 64)
			tell := func(o *p2p.RouterOptions) {
				o.Dialled = func(_ p2p.NodeAddress, err error) {
					select {
					case told <- err:
					default:
					}
				}
			}
			var a, b *testNode
			var filtering *watched
			if inbound {
				a, _ = w.watchedNode(here, tell)
				b, filtering = w.watchedNode(there, filter)
			} else {
				a, filtering = w.watchedNode(here, tell, filter)
				b, _ = w.watchedNode(there)
			}
			w.start(a, b)
			at := p2p.NodeAddress{NodeID: b.id, Protocol: memory.ProtocolIP, Hostname: "192.0.2.7", Port: 26656}
			if _, err := a.pm.Add(at); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				err := <-told
				if !inbound && (!errors.Is(err, p2p.ErrFiltered) || !errors.Is(err, errNo)) || err == nil {
					t.Errorf("inbound %v: the dial says %v", inbound, err)
				}
			}
			a.r.Stop()
			b.r.Stop()
			if n := filtering.handshakes.Load(); n != 0 {
				t.Errorf("inbound %v: %d handshakes with whom the filter refuses", inbound, n)
			}
			want := "192.0.2.7"
			if inbound {
				want = "192.0.2.6"
			}
			if len(asked) < 2 || slices.ContainsFunc(asked, func(ip string) bool { return ip != want }) {
				t.Errorf("inbound %v: the filter was asked of %v", inbound, asked)
			}
			if inbound && refused.filtered.Load() < 2 {
				t.Errorf("%d refusals were logged as ErrFiltered", refused.filtered.Load())
			}
		})
	}
}

// filterCauses counts the records about an ErrFiltered.
type filterCauses struct{ filtered atomic.Int32 }

func (*filterCauses) Enabled(context.Context, slog.Level) bool { return true }
func (c *filterCauses) WithAttrs([]slog.Attr) slog.Handler     { return c }
func (c *filterCauses) WithGroup(string) slog.Handler          { return c }
func (c *filterCauses) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && errors.Is(err, p2p.ErrFiltered) {
			c.filtered.Add(1)
		}
		return true
	})
	return nil
}
