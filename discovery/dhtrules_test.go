package discovery

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/internal/host"
	kadpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/control"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/routing"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"
	"github.com/libp2p/go-msgio"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"
)

func addrs(ss ...string) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, s := range ss {
		out = append(out, ma.StringCast(s))
	}
	return out
}

const relay = "/p2p/12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV/p2p-circuit"

func TestNetRules(t *testing.T) {
	all := addrs(
		"/ip4/8.8.8.8/tcp/1", "/ip6/2606:4700::1/udp/1/quic-v1",
		"/ip4/10.0.0.1/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip4/169.254.1.1/tcp/1", "/ip6/fd00::1/tcp/1",
		"/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/::ffff:127.0.0.1/tcp/1",
		"/dns4/victim.example/tcp/1", "/dnsaddr/victim.example", "/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/udp/1/quic-v1", "/ip4/192.0.2.1/tcp/1",
		"/ip4/8.8.8.8/tcp/1"+relay, relay, "/unix/x", "/ip6/64:ff9b::7f00:1/tcp/1",
	)
	for name, c := range map[string]struct {
		r    netRules
		want []ma.Multiaddr
	}{
		"wan":              {netRules{wan: true}, all[:2]},
		"wan and loopback": {netRules{wan: true, loopback: true}, all[:2]},
		"lan":              {netRules{}, all[2:6]},
		"this machine":     {netRules{loopback: true}, all[2:9]},
	} {
		got := c.r.addresses(all)
		if !slices.EqualFunc(got, c.want, func(a, b ma.Multiaddr) bool { return a.Equal(b) }) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if !c.r.mayQuery(nil, peer.AddrInfo{Addrs: all}) || c.r.mayQuery(nil, peer.AddrInfo{Addrs: all[9:]}) {
			t.Errorf("%s: the wrong peers may be asked", name)
		}
	}
	var ports, hosts []ma.Multiaddr
	for i := range 1000 {
		ports = append(ports, ma.StringCast(fmt.Sprintf("/ip4/93.184.1.1/tcp/%d", i+1)))
		hosts = append(hosts, ma.StringCast(fmt.Sprintf("/ip4/93.%d.%d.1/tcp/1", i/250, i%250)))
	}
	wan := netRules{wan: true}
	if n := len(wan.addresses(ports)); n != maxKadPerIP {
		t.Errorf("%d ports of one IP, want %d", n, maxKadPerIP)
	}
	if n := len(wan.addresses(hosts)); n != maxKadAddrs {
		t.Errorf("%d addresses of one peer, want %d", n, maxKadAddrs)
	}
}

// liar answers every question of a DHT with what it is told to.
func liar(h corehost.Host, speaks protocol.ID, answer func(key peer.ID) []peer.AddrInfo) *atomic.Int64 {
	var asked atomic.Int64
	h.SetStreamHandler(speaks, func(s network.Stream) {
		defer s.Close()
		r := msgio.NewVarintReaderSize(s, 1<<20)
		w := msgio.NewVarintWriter(s)
		for {
			b, err := r.ReadMsg()
			if err != nil {
				return
			}
			var m kadpb.Message
			if proto.Unmarshal(b, &m) != nil {
				return
			}
			asked.Add(1)
			m.CloserPeers = kadpb.RawPeerInfosToPBPeers(answer(peer.ID(m.Key)))
			if b, err = proto.Marshal(&m); err != nil || w.WriteMsg(b) != nil {
				return
			}
		}
	})
	return &asked
}

// lies names the victim and private places, as the peer that is looked for and
// as many others.
func lies(t testing.TB) func(peer.ID) []peer.AddrInfo {
	var bad, victims []ma.Multiaddr
	bad = addrs("/ip4/10.0.0.1/tcp/22", "/ip4/127.0.0.1/tcp/22", "/ip4/192.168.1.1/tcp/80", "/ip6/::1/tcp/22", "/dns4/victim.example/tcp/80", "/ip4/93.184.9.9/tcp/4001"+relay)
	for i := range 200 {
		victims = append(victims, ma.StringCast(fmt.Sprintf("/ip4/93.184.1.1/tcp/%d", 1+i)))
	}
	var others []peer.ID
	for range 100 {
		others = append(others, newID(t))
	}
	return func(key peer.ID) []peer.AddrInfo {
		out := []peer.AddrInfo{{ID: key, Addrs: append(slices.Clone(bad), victims[:100]...)}}
		for _, id := range others {
			out = append(out, peer.AddrInfo{ID: id, Addrs: append(slices.Clone(bad), victims[100:]...)})
		}
		return out
	}
}

// On the internet, answers with private addresses are not believed, those with a
// victim's hardly, and nothing of it is taught.
func TestDHTAnswersWithPrivateOrTheVictimsAddresses(t *testing.T) {
	noLeaks(t)
	mn := mocknet.New()
	t.Cleanup(func() { mn.Close() })
	add := func(at string) corehost.Host {
		h, err := mn.AddPeer(newKey(t), ma.StringCast(at))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	evil, ours := add("/ip4/9.9.9.9/tcp/4001"), add("/ip4/8.8.8.8/tcp/4001")
	if err := mn.LinkAll(); err != nil {
		t.Fatal(err)
	}
	asked := liar(evil, "/kith/kad/1.0.0", lies(t))
	var got collector
	d := runDHT(t, DHTConfig{Host: ours, WAN: true, Mode: DHTServer, Bootstrap: func() []peer.AddrInfo {
		return []peer.AddrInfo{{ID: evil.ID(), Addrs: addrs("/ip4/9.9.9.9/tcp/4001")}}
	}}, got.learn)
	eventually(t, "the liar is in the routing table", func() bool { return size(d) > 0 })
	target := newID(t)
	finder := NewFinder(FinderConfig{Host: ours, DHT: d})
	places, err := finder.Find(t.Context(), target)
	if asked.Load() == 0 {
		t.Fatal("the liar was not asked")
	}
	if !errors.Is(err, routing.ErrNotFound) {
		t.Errorf("places where nobody was met are told: %v, %v", places, err)
	}
	for _, id := range ours.Peerstore().PeersWithAddrs() {
		if id == ours.ID() || id == evil.ID() {
			continue
		}
		in := ours.Peerstore().Addrs(id)
		if len(in) > maxKadPerIP || len((&netRules{wan: true}).addresses(in)) != len(in) {
			t.Errorf("the peerstore believes %v", in)
		}
		if id != target { // too many of one network: dropped as a crowd
			t.Errorf("a crowd at one place is believed: %v", in)
		}
	}
	for _, f := range got.all() {
		if id, _ := f.Address.PeerID(); id != evil.ID() {
			t.Errorf("taught: %v", f)
		}
	}
	// Of each of 101 peers, 6 addresses are not of the internet and 100 at a place
	// where all the others are, too.
	if refused, _ := d.Report(); refused[addrbook.RefusedScope] < 101*6 || refused[RefusedCrowd] < 101*100 {
		t.Errorf("what was dropped is not counted: %v", refused)
	}
}

// dials notes where a host dials.
type dials struct {
	mu sync.Mutex
	to map[string]int // by IP
}

func (d *dials) InterceptPeerDial(peer.ID) bool { return true }
func (d *dials) InterceptAddrDial(_ peer.ID, a ma.Multiaddr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to[ipOf(a).String()]++
	return ipOf(a).IsLoopback()
}
func (d *dials) InterceptAccept(network.ConnMultiaddrs) bool { return true }
func (d *dials) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}
func (d *dials) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// A liar on the local network cannot have us dial places of the internet, nor,
// unless it is said, services of this machine.
func TestLocalDHTDialsNoVictims(t *testing.T) {
	noLeaks(t)
	d := &dials{to: map[string]int{}}
	ours, err := host.New(host.Config{Key: newKey(t), Listen: addrs("/ip4/127.0.0.1/tcp/0"), Gater: d})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	evil := newHost(t)
	liar(evil, "/kith/lan/kad/1.0.0", lies(t))
	dht := runDHT(t, DHTConfig{Host: ours, Bootstrap: knows(evil)}, nil)
	eventually(t, "the liar is in the routing table", func() bool { return size(dht) > 0 })
	for range 3 {
		if info, err := dht.FindPeer(t.Context(), newID(t)); err == nil && slices.ContainsFunc(info.Addrs, func(a ma.Multiaddr) bool { return !(&netRules{loopback: true}).belongs(a) }) {
			t.Errorf("%v", info)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for ip := range d.to {
		if strings.HasPrefix(ip, "93.") {
			t.Errorf("dialled the victim: %v", d.to)
		}
	}
}

// What the peerstore knows from elsewhere does not come back as an answer of the
// WAN when it cannot be one.
func TestPrivateAddressesAreNoAnswerOfTheWAN(t *testing.T) {
	noLeaks(t)
	mn := mocknet.New()
	t.Cleanup(func() { mn.Close() })
	var hs []corehost.Host
	for _, at := range []string{"/ip4/8.8.8.8/tcp/1", "/ip4/9.9.9.9/tcp/1", "/ip4/7.7.7.7/tcp/1"} {
		h, err := mn.AddPeer(newKey(t), ma.StringCast(at))
		if err != nil {
			t.Fatal(err)
		}
		hs = append(hs, h)
	}
	if err := mn.LinkAll(); err != nil {
		t.Fatal(err)
	}
	target := hs[2].ID()
	liar(hs[1], "/kith/kad/1.0.0", func(key peer.ID) []peer.AddrInfo {
		return []peer.AddrInfo{{ID: key, Addrs: addrs("/ip4/10.0.0.8/tcp/22", "/ip4/127.0.0.1/tcp/22", "/dns4/victim.example/tcp/22", "/ip4/7.7.7.7/tcp/1")}}
	})
	hs[0].Peerstore().AddAddrs(target, addrs("/ip4/10.0.0.7/tcp/1"), peerstore.PermanentAddrTTL)
	d := runDHT(t, DHTConfig{Host: hs[0], WAN: true, Mode: DHTClient, Bootstrap: func() []peer.AddrInfo { return []peer.AddrInfo{{ID: hs[1].ID()}} }}, nil)
	eventually(t, "joined", func() bool { return size(d) > 0 })
	info, err := d.FindPeer(t.Context(), target)
	if err != nil || len(info.Addrs) != 1 || info.Addrs[0].String() != "/ip4/7.7.7.7/tcp/1" {
		t.Errorf("%v, %v", info, err)
	}
	nobody := newID(t)
	if info, err := d.FindPeer(t.Context(), nobody); !errors.Is(err, routing.ErrNotFound) {
		t.Errorf("%v, %v", info, err)
	}
	if in := hs[0].Peerstore().Addrs(nobody); len(in) != 1 || in[0].String() != "/ip4/7.7.7.7/tcp/1" {
		t.Errorf("the peerstore believes %v", in)
	}
}

// A node tells nobody what is not of the net that asks: private addresses to the
// internet, and where hidden peers are.
func TestDHTTellsNoPrivateAddresses(t *testing.T) {
	noLeaks(t)
	mn := mocknet.New()
	t.Cleanup(func() { mn.Close() })
	ours, err := mn.AddPeer(newKey(t), ma.StringCast("/ip4/8.8.8.8/tcp/1"))
	if err != nil {
		t.Fatal(err)
	}
	asker, err := mn.AddPeer(newKey(t), ma.StringCast("/ip4/9.9.9.9/tcp/1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := mn.LinkAll(); err != nil {
		t.Fatal(err)
	}
	both, lan, hidden := newID(t), newID(t), newID(t)
	ps := ours.Peerstore()
	ps.AddAddrs(both, addrs("/ip4/10.0.0.7/tcp/1", "/ip4/7.7.7.7/tcp/1", "/ip4/127.0.0.1/tcp/1"), peerstore.PermanentAddrTTL)
	ps.AddAddrs(lan, addrs("/ip4/10.0.0.8/tcp/1"), peerstore.PermanentAddrTTL)
	ps.AddAddrs(hidden, addrs("/ip4/7.7.7.8/tcp/1"), peerstore.PermanentAddrTTL)
	runDHT(t, DHTConfig{Host: ours, WAN: true, Mode: DHTServer, Hide: func(id peer.ID) bool { return id == hidden }}, nil)
	eventually(t, "it serves", func() bool { return slices.Contains(ours.Mux().Protocols(), "/kith/kad/1.0.0") })
	if err := asker.Connect(t.Context(), infoOf(ours)); err != nil {
		t.Fatal(err)
	}
	s, err := asker.NewStream(t.Context(), ours.ID(), "/kith/kad/1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	r, w := msgio.NewVarintReaderSize(s, 1<<20), msgio.NewVarintWriter(s)
	for id, want := range map[peer.ID]string{both: "[/ip4/7.7.7.7/tcp/1]", lan: "[]", hidden: "[]"} {
		q, err := proto.Marshal(kadpb.NewMessage(kadpb.Message_FIND_NODE, []byte(id), 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
		b, err := r.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		var m kadpb.Message
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		got := "[]"
		for _, p := range kadpb.PBPeersToPeerInfos(m.CloserPeers) {
			if p.ID == id {
				got = fmt.Sprint(p.Addrs)
			}
		}
		if got != want {
			t.Errorf("told %v, want %v", got, want)
		}
	}
	// values and providers are none of its business
	for _, kind := range []kadpb.Message_MessageType{kadpb.Message_PUT_VALUE, kadpb.Message_ADD_PROVIDER} {
		s, err := asker.NewStream(t.Context(), ours.ID(), "/kith/kad/1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		q, err := proto.Marshal(kadpb.NewMessage(kind, []byte("/x/y"), 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := msgio.NewVarintWriter(s).WriteMsg(q); err != nil {
			t.Fatal(err)
		}
		if b, err := msgio.NewVarintReaderSize(s, 1<<20).ReadMsg(); err == nil {
			t.Errorf("%v is answered: %q", kind, b)
		}
		s.Reset()
	}
}
