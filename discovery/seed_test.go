package discovery

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/internal/host"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/net/dns/dnsmessage"
)

// dnsServer answers on a loopback port, by UDP and TCP, and returns a resolver
// that asks it alone.
func dnsServer(t *testing.T, a map[string][]net.IP, txt map[string][]string) *net.Resolver {
	t.Helper()
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp4", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	reply := func(q []byte, room int) []byte {
		var m dnsmessage.Message
		if err := m.Unpack(q); err != nil || len(m.Questions) != 1 {
			return nil
		}
		m.Response, m.Additionals = true, nil
		question := m.Questions[0]
		head := dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class, TTL: 1}
		name := question.Name.String()
		switch question.Type {
		case dnsmessage.TypeA:
			for _, ip := range a[name] {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: [4]byte(ip.To4())}})
			}
		case dnsmessage.TypeTXT:
			for _, s := range txt[name] {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.TXTResource{TXT: []string{s}}})
			}
		}
		if a[name] == nil && txt[name] == nil {
			m.RCode = dnsmessage.RCodeNameError
		}
		out, err := m.Pack()
		if err != nil || len(out) > room {
			m.Answers, m.Truncated = nil, true
			out, _ = m.Pack()
		}
		return out
	}
	var all sync.WaitGroup
	t.Cleanup(func() { tcp.Close(); udp.Close(); all.Wait() })
	all.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo(reply(buf[:n], 512), from)
		}
	})
	all.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				var size [2]byte
				for {
					if _, err := io.ReadFull(c, size[:]); err != nil {
						return
					}
					q := make([]byte, binary.BigEndian.Uint16(size[:]))
					if _, err := io.ReadFull(c, q); err != nil {
						return
					}
					r := reply(q, 65535)
					c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...))
				}
			})
		}
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, tcp.Addr().String())
	}}
}

// newHost is a host of ours on this machine.
func newHost(t testing.TB, security ...protocol.ID) corehost.Host {
	t.Helper()
	h, err := host.New(host.Config{Key: newKey(t), Listen: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}, Security: security})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func place(t testing.TB, h corehost.Host) netip.AddrPort {
	t.Helper()
	port, err := h.Addrs()[0].ValueForProtocol(ma.P_TCP)
	if err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddrPort("127.0.0.1:" + port)
}

// A stranger is asked who it is, over either handshake.
func TestIdentifyTCP(t *testing.T) {
	noLeaks(t)
	for _, h := range []corehost.Host{newHost(t), newHost(t, noise.ID)} {
		a, err := IdentifyTCP(t.Context(), place(t, h))
		if err != nil {
			t.Fatal(err)
		}
		if id, _ := a.PeerID(); id != h.ID() || a.NodeID != nodeID(t, h.ID()) || a.Hostname != "127.0.0.1" || a.Port != place(t, h).Port() {
			t.Errorf("%v, not %v", a, h.ID())
		}
		if len(h.Network().Peers()) != 0 {
			t.Errorf("connections stay: %v", h.Network().Peers())
		}
	}
	silent, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if a, err := IdentifyTCP(ctx, netip.MustParseAddrPort(silent.Addr().String())); err == nil {
		t.Errorf("somebody silent: %v", a)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := IdentifyTCP(ctx, netip.MustParseAddrPort(silent.Addr().String())); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// btcd's way, with a real server and a real node behind the name.
func TestDNSSeed(t *testing.T) {
	h := newHost(t)
	r := dnsServer(t, map[string][]net.IP{"x9.seed.example.": {net.IPv4(127, 0, 0, 1)}, "seed.example.": {}}, nil)
	s, err := NewDNSSeed("seed.example", SeedOptions{DNSOptions: DNSOptions{Resolver: r, AnyScope: true}, Port: place(t, h).Port(), HasFiltering: true, Services: 9})
	if err != nil {
		t.Fatal(err)
	}
	book := newBook(t, addrbook.Options{})
	m := newMix(t, MixConfig{Learner: book, Sources: []Source{s}})
	defer start(t, m)()
	eventually(t, "the node is taught", func() bool { return statsOf(t, m, "seed seed.example").Added == 1 })
	if as := book.Addresses(nodeID(t, h.ID())); len(as) != 1 || as[0].Port != place(t, h).Port() {
		t.Errorf("%v", as)
	}
}

// The records of dnsaddr, through a real server: 10,000 do not fit into one
// answer of the DNS, so as many as do.
func TestDNSAddrOverTheWire(t *testing.T) {
	id := newID(t)
	var many []string
	for i := range 500 {
		many = append(many, "dnsaddr="+at(public(i), newID(t)))
	}
	r := dnsServer(t, nil, map[string][]string{
		"_dnsaddr.a.example.": {"dnsaddr=" + at("1.1.1.1", id), "garbage", "dnsaddr=/dnsaddr/b.example"}, "_dnsaddr.b.example.": many,
	})
	got, err := LookupDNSAddr(t.Context(), r, "a.example")
	if err != nil || len(got.Addresses) != dnsFound || got.Addresses[0] != parse(t, at("1.1.1.1", id)) || got.Cut == 0 {
		t.Errorf("%d addresses, %+v, %v", len(got.Addresses), got, err)
	}
	_, err = LookupDNSAddr(t.Context(), r, "nobody.example")
	if dns, ok := errors.AsType[*net.DNSError](err); !ok || !dns.IsNotFound {
		t.Errorf("%v", err)
	}
}

// identifies says that whoever is asked is there, and counts.
type identifies struct {
	asked, now, most atomic.Int64
	groups           sync.Map
}

func (d *identifies) at(_ context.Context, at netip.AddrPort) (address.NodeAddress, error) {
	d.asked.Add(1)
	n := d.now.Add(1)
	defer d.now.Add(-1)
	for most := d.most.Load(); n > most && !d.most.CompareAndSwap(most, n); most = d.most.Load() {
	}
	time.Sleep(time.Second)
	c, _ := d.groups.LoadOrStore(addrbook.Group(at.Addr()), new(atomic.Int64))
	c.(*atomic.Int64).Add(1)
	b := at.Addr().As4()
	return numbered(int(binary.BigEndian.Uint32(b[:])), at.Addr().String()), nil
}

// A seed that names 10,000 addresses has us ask 64, of them 4 of one network, 8
// at once, each hour.
func TestSeedWith10000Addresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crowd := &zone{ips: map[string][]net.IPAddr{"wide.example": nil, "victim.example": nil, "private.example": nil}}
		for i := range 10_000 {
			crowd.ips["wide.example"] = append(crowd.ips["wide.example"], net.IPAddr{IP: net.ParseIP(public(i))})
			crowd.ips["victim.example"] = append(crowd.ips["victim.example"], net.IPAddr{IP: net.IPv4(93, 184, byte(i>>8), byte(i))})
			crowd.ips["private.example"] = append(crowd.ips["private.example"], net.IPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i))})
		}
		var sources []Source
		asked := map[string]*identifies{}
		for name := range crowd.ips {
			asked[name] = &identifies{}
			s, err := NewDNSSeed(name, SeedOptions{DNSOptions: DNSOptions{Resolver: crowd}, Port: 1000, Identify: asked[name].at})
			if err != nil {
				t.Fatal(err)
			}
			sources = append(sources, s)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		book := newBook(t, addrbook.Options{})
		m := newMix(t, MixConfig{Learner: book, Sources: sources})
		stop := start(t, m)
		time.Sleep(30 * time.Minute)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
			t.Errorf("%d bytes", used)
		}
		for name, want := range map[string]int64{"wide.example": seedAsks, "victim.example": seedPerGroup, "private.example": 0} {
			d := asked[name]
			if d.asked.Load() != want || d.most.Load() > seedAtOnce {
				t.Errorf("%s: %d asked, %d at once", name, d.asked.Load(), d.most.Load())
			}
			d.groups.Range(func(g, n any) bool {
				if n.(*atomic.Int64).Load() > seedPerGroup {
					t.Errorf("%s: %v of %v", name, n, g)
				}
				return true
			})
		}
		if n := book.Stats().Addresses; n != seedAsks+seedPerGroup {
			t.Errorf("%d addresses in the book", n)
		}
		if s := statsOf(t, m, "seed private.example"); !errors.Is(s.LastError, ErrNobody) || s.State != StateFailed || s.Refused[addrbook.RefusedScope] != seedRead*s.Runs {
			t.Errorf("%+v", s)
		}
		// What nobody was asked about is counted.
		if s := statsOf(t, m, "seed wide.example"); s.Refused[RefusedCut] != 10_000-seedAsks || s.Offered != seedAsks {
			t.Errorf("%+v", s)
		}
		if s := statsOf(t, m, "seed victim.example"); s.Refused[RefusedCut] != 10_000-seedRead || s.Refused[RefusedCrowd] != seedRead-seedPerGroup {
			t.Errorf("%+v", s)
		}
		stop()
	})
}

// A seed whose places hang, lie, panic or may not be asked.
func TestSeedsOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{ips: map[string][]net.IPAddr{"a.example": {{IP: net.IPv4(1, 1, 1, 1)}, {IP: net.IPv4(2, 2, 2, 2)}}}}
		for name, o := range map[string]SeedOptions{
			"hangs": {Identify: func(ctx context.Context, _ netip.AddrPort) (address.NodeAddress, error) {
				<-ctx.Done()
				return address.NodeAddress{}, ctx.Err()
			}},
			"panics": {Identify: func(context.Context, netip.AddrPort) (address.NodeAddress, error) { panic("boom") }},
			"lies":   {Identify: func(context.Context, netip.AddrPort) (address.NodeAddress, error) { return numbered(1, "9.9.9.9"), nil }},
			"invalid": {Identify: func(_ context.Context, at netip.AddrPort) (address.NodeAddress, error) {
				return address.NodeAddress{Hostname: at.Addr().String()}, nil
			}},
			"gated": {Allow: func(netip.Addr) bool { return false }},
		} {
			o.Port, o.Resolver = 1000, z
			s, err := NewDNSSeed("a.example", o)
			if err != nil {
				t.Fatal(err)
			}
			var c collector
			started := time.Now()
			err = s.Run(t.Context(), c.learn)
			if !errors.Is(err, ErrNobody) || len(c.all()) != 0 || time.Since(started) > askTimeout {
				t.Errorf("%s: %v, %v after %v", name, err, c.all(), time.Since(started))
			}
			if _, later := errors.AsType[*RetryError](err); later != (name != "gated") {
				t.Errorf("%s: %#v", name, err)
			}
			refused, _ := s.(Reporter).Report()
			if refused[RefusedNobody]+refused[addrbook.RefusedBanned] != 2 {
				t.Errorf("%s: %v", name, refused)
			}
		}
		for _, o := range []SeedOptions{{}, {Port: 1, DNSOptions: DNSOptions{Every: -1}}} {
			if _, err := NewDNSSeed("a.example", o); !errors.Is(err, ErrOptions) {
				t.Errorf("%+v: %v", o, err)
			}
		}
	})
}

// The places of a seed that did not answer were asked again after seconds, as a
// source that fails is, and not every hour.
func TestRegressionPlacesAskedMoreOftenThanEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{ips: map[string][]net.IPAddr{"a.example": {{IP: net.IPv4(1, 1, 1, 1)}, {IP: net.IPv4(2, 2, 2, 2)}}}}
		var asked atomic.Int64
		var there atomic.Bool
		s, err := NewDNSSeed("a.example", SeedOptions{
			DNSOptions: DNSOptions{Resolver: z, Every: 3 * time.Hour}, Port: 1000,
			Identify: func(_ context.Context, at netip.AddrPort) (address.NodeAddress, error) {
				asked.Add(1)
				if !there.Load() {
					return address.NodeAddress{}, errNoName
				}
				return numbered(int(at.Addr().As4()[0]), at.Addr().String()), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		m := newMix(t, MixConfig{Learner: newBook(t, addrbook.Options{}), Sources: []Source{s}})
		defer start(t, m)()
		time.Sleep(time.Minute)
		for day := range 2 {
			time.Sleep(24*time.Hour - 2*time.Minute)
			synctest.Wait()
			z.mu.Lock()
			if rounds := int(asked.Load() / 2); rounds != 8*(day+1) || len(z.asked) != rounds {
				t.Errorf("on day %d they were asked %d times, the DNS %d times, want every 3 h", day, rounds, len(z.asked))
			}
			z.mu.Unlock()
			time.Sleep(2 * time.Minute)
		}
		if s := statsOf(t, m, s.Name()); s.State != StateFailed || !errors.Is(s.LastError, ErrNobody) || !errors.Is(s.LastError, errNoName) {
			t.Errorf("%+v", s)
		}
		// A person who turns it on asks at once; and it works again.
		there.Store(true)
		if err := m.Switch(t.Context(), s.Name(), true); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := statsOf(t, m, s.Name()); s.State != StateRunning || s.Added != 2 {
			t.Errorf("%+v", s)
		}
	})
}
