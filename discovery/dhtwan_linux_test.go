package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// smallInternet lends hosts of this machine addresses of the internet: whoever has
// one is at an address of its own in 127.0.0.0/8 (Linux has them all), and neither
// it nor the others are told. All else is real: TCP, handshakes, identify.
type smallInternet struct {
	mu     sync.Mutex // guards what follows
	local  map[netip.Addr]netip.Addr
	global map[netip.Addr]netip.Addr // the other way
	dialed map[netip.Addr]bool       // IPs that nobody has
}

func newInternet() *smallInternet {
	return &smallInternet{local: map[netip.Addr]netip.Addr{}, global: map[netip.Addr]netip.Addr{}, dialed: map[netip.Addr]bool{}}
}

// host makes one at an IP.
func (w *smallInternet) host(t testing.TB, ip string) corehost.Host {
	t.Helper()
	own := netip.MustParseAddr(ip)
	w.mu.Lock()
	at := netip.AddrFrom4([4]byte{127, 77, byte(len(w.local)), 1})
	w.local[own], w.global[at] = at, own
	w.mu.Unlock()
	h, err := libp2p.New(libp2p.Identity(newKey(t)), libp2p.DisableRelay(), libp2p.ListenAddrs(listenAt(own)),
		libp2p.Transport(func(u transport.Upgrader, limits network.ResourceManager) transport.Transport {
			return &wanTransport{w, at, u, limits}
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func listenAt(ip netip.Addr) ma.Multiaddr { return ma.StringCast("/ip4/" + ip.String() + "/tcp/0") }

// known returns what an address is called on the internet.
func (w *smallInternet) known(a net.Addr) ma.Multiaddr {
	at := netip.MustParseAddrPort(a.String())
	w.mu.Lock()
	defer w.mu.Unlock()
	return ma.StringCast(fmt.Sprintf("/ip4/%s/tcp/%d", w.global[at.Addr()], at.Port()))
}

// wanTransport is the TCP of one host.
type wanTransport struct {
	w        *smallInternet
	at       netip.Addr // 127.x.y.z
	upgrader transport.Upgrader
	limits   network.ResourceManager
}

func (t *wanTransport) CanDial(a ma.Multiaddr) bool {
	_, name, err := manet.DialArgs(a)
	_, ip := netip.ParseAddrPort(name)
	return err == nil && ip == nil && len(a) == 2 && a[0].Code() == ma.P_IP4 && a[1].Code() == ma.P_TCP
}
func (t *wanTransport) Protocols() []int { return []int{ma.P_TCP} }
func (t *wanTransport) Proxy() bool      { return false }

func (t *wanTransport) Dial(ctx context.Context, to ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	_, text, err := manet.DialArgs(to)
	if err != nil {
		return nil, err
	}
	place := netip.MustParseAddrPort(text)
	t.w.mu.Lock()
	at, ok := t.w.local[place.Addr()]
	if !ok {
		t.w.dialed[place.Addr()] = true
	}
	t.w.mu.Unlock()
	if !ok {
		return nil, errors.New("nobody is there")
	}
	scope, err := t.limits.OpenConnection(network.DirOutbound, true, to)
	if err != nil {
		return nil, err
	}
	if err := scope.SetPeer(p); err != nil {
		scope.Done()
		return nil, err
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: t.at.AsSlice()}}
	c, err := d.DialContext(ctx, "tcp4", netip.AddrPortFrom(at, place.Port()).String())
	if err != nil {
		scope.Done()
		return nil, err
	}
	up, err := t.upgrader.Upgrade(ctx, t, wanConn{c, t.w}, network.DirOutbound, p, scope)
	if err != nil {
		scope.Done()
	}
	return up, err
}

func (t *wanTransport) Listen(ma.Multiaddr) (transport.Listener, error) {
	l, err := net.Listen("tcp4", netip.AddrPortFrom(t.at, 0).String())
	if err != nil {
		return nil, err
	}
	return t.upgrader.UpgradeGatedMaListener(t, t.upgrader.GateMaListener(wanListener{l, t.w})), nil
}

type wanConn struct {
	net.Conn
	w *smallInternet
}

func (c wanConn) LocalMultiaddr() ma.Multiaddr  { return c.w.known(c.Conn.LocalAddr()) }
func (c wanConn) RemoteMultiaddr() ma.Multiaddr { return c.w.known(c.Conn.RemoteAddr()) }

type wanListener struct {
	net.Listener
	w *smallInternet
}

func (l wanListener) Multiaddr() ma.Multiaddr { return l.w.known(l.Addr()) }
func (l wanListener) Accept() (manet.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wanConn{c, l.w}, nil
}

// The DHT of the internet, by its own rules, over TCP: who knows one node finds
// everybody by ID alone, and teaches where; a liar among them names private and
// victims' addresses and keeps nobody from it; a node that is not on the internet
// enters no routing table.
func TestWANOverTCP(t *testing.T) {
	noLeaks(t)
	const n = 8
	w := newInternet()
	boot, evil, private := w.host(t, "8.1.1.1"), w.host(t, "9.9.9.9"), w.host(t, "10.0.0.9")
	asked := liar(evil, "/kith/kad/1.0.0", lies(t))
	first := runDHT(t, DHTConfig{Host: boot, WAN: true, Mode: DHTServer}, nil)
	hosts, dhts, books := make([]corehost.Host, n), make([]*DHT, n), make([]*addrbook.Book, n)
	for i := range n {
		hosts[i], books[i] = w.host(t, fmt.Sprintf("%d.%d.1.1", 20+i, 2+i)), newBook(t, addrbook.Options{})
		mode := DHTServer
		if i%4 == 3 {
			mode = DHTClient
		}
		dhts[i] = runDHT(t, DHTConfig{Host: hosts[i], WAN: true, Mode: mode, Bootstrap: knows(boot, evil)}, func(found []Found) {
			for _, f := range found {
				books[i].Add(f.Address, f.From)
			}
		})
	}
	runDHT(t, DHTConfig{Host: private, WAN: true, Mode: DHTServer, Bootstrap: knows(boot)}, nil)
	for i, d := range dhts {
		eventually(t, fmt.Sprintf("%d knows the first and the liar", i), func() bool {
			ps := hosts[i].Network().Peers()
			return size(d) >= 2 && slices.Contains(ps, boot.ID()) && slices.Contains(ps, evil.ID())
		})
	}
	eventually(t, "the private one is there", func() bool { return len(boot.Network().ConnsToPeer(private.ID())) > 0 })
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			who := hosts[(i+3)%n]
			finder := NewFinder(FinderConfig{Host: hosts[i], Book: books[i], DHT: dhts[i]})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for found := false; !found; { // it may only just have joined
				places, err := finder.Search(ctx, who.ID())
				found = err == nil && slices.ContainsFunc(places, func(p Place) bool { return p.Addr.Equal(who.Addrs()[0]) })
				if !found && ctx.Err() != nil {
					t.Errorf("%d looks for %v in vain: %v, %v", i, who.Addrs(), places, err)
					return
				}
			}
			if places, err := finder.Find(t.Context(), newID(t)); !errors.Is(err, routing.ErrNotFound) {
				t.Errorf("nobody is found at %v: %v", places, err)
			}
		})
	}
	all.Wait()
	if asked.Load() == 0 {
		t.Error("the liar was not asked")
	}
	counted := uint64(0)
	for i, d := range dhts {
		refused, _ := d.Report()
		counted += refused[addrbook.RefusedScope]
		for _, id := range books[i].Peers() {
			for _, a := range books[i].Addresses(id) {
				if _, ours := w.local[hostIP(a)]; !ours || !hostIP(a).IsValid() || addrbook.ScopeOf(hostIP(a)) != addrbook.ScopeGlobal {
					t.Errorf("the book of %d learnt %v", i, a)
				}
			}
		}
	}
	for _, d := range append(dhts, first) {
		d.mu.Lock()
		if table := d.live.nets[0].node.RoutingTable().ListPeers(); slices.Contains(table, private.ID()) {
			t.Errorf("the private one is in the routing table of %s", d.cfg.Host.ID())
		}
		d.mu.Unlock()
	}
	if counted == 0 {
		t.Error("nothing that the liar said is counted")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for ip := range w.dialed {
		if addrbook.ScopeOf(ip) != addrbook.ScopeGlobal {
			t.Errorf("%v was dialled", ip)
		}
	}
}

// On the internet a node that nobody can reach only asks; it answers from when
// libp2p finds it reachable until that changes.
func TestWANServesWhileReachable(t *testing.T) {
	noLeaks(t)
	w := newInternet()
	h, other := w.host(t, "8.1.1.1"), w.host(t, "9.1.1.1")
	do := runDHT(t, DHTConfig{Host: other, WAN: true, Mode: DHTServer}, nil)
	d := runDHT(t, DHTConfig{Host: h, WAN: true, Bootstrap: knows(other)}, nil)
	eventually(t, "it knows the other", func() bool { return size(d) == 1 })
	serves := func() bool { return slices.Contains(h.Mux().Protocols(), "/kith/kad/1.0.0") }
	if serves() || size(do) != 0 {
		t.Error("it answers before anybody has reached it")
	}
	found, err := h.EventBus().Emitter(new(event.EvtLocalReachabilityChanged))
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	for _, c := range []struct {
		now    network.Reachability
		serves bool
	}{{network.ReachabilityPublic, true}, {network.ReachabilityPrivate, false}, {network.ReachabilityPublic, true}} {
		if err := found.Emit(event.EvtLocalReachabilityChanged{Reachability: c.now}); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("it is %v", c.now), func() bool { return serves() == c.serves })
	}
	eventually(t, "the other knows it", func() bool { return size(do) == 1 })
}
