package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
)

func at(ip string, id peer.ID) string { return "/ip4/" + ip + "/tcp/4001/p2p/" + id.String() }

func TestLookupDNSAddr(t *testing.T) {
	a, b, c := newID(t), newID(t), newID(t)
	z := &zone{
		txt: map[string][]string{
			"_dnsaddr.boot.example": {
				"v=spf1 -all", // somebody else's
				"dnsaddr=" + at("1.1.1.1", a),
				"dnsaddr=/dnsaddr/eu.boot.example/p2p/" + b.String(),
				"dnsaddr=/dns4/host.example/tcp/443/wss/p2p/" + c.String(),
				"dnsaddr=/dns6/six.example/udp/4001/quic-v1/p2p/" + c.String(),
			},
			"_dnsaddr.eu.boot.example": {"dnsaddr=" + at("2.2.2.2", b), "dnsaddr=" + at("2.2.2.3", c)},
		},
		ips: map[string][]net.IPAddr{
			"host.example": {{IP: net.IPv4(3, 3, 3, 3)}, {IP: net.ParseIP("2606:4700::1")}},
			"six.example":  {{IP: net.IPv4(3, 3, 3, 4)}, {IP: net.ParseIP("2606:4700::1")}},
		},
	}
	got, err := LookupDNSAddr(t.Context(), z, "boot.example")
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, a := range got.Addresses {
		hosts = append(hosts, a.Hostname)
		if err := a.Validate(); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(hosts)
	if want := []string{"1.1.1.1", "2.2.2.2", "2606:4700::1", "3.3.3.3"}; !slices.Equal(hosts, want) || got.Malformed+got.Cut+got.Failed != 0 || got.Lookups != 4 {
		t.Errorf("%v, want %v: %+v", hosts, want, got)
	}
	if !slices.ContainsFunc(got.Addresses, func(a address.NodeAddress) bool { return strings.Contains(a.Path, "sni/host.example") }) {
		t.Errorf("the name that TLS needs is lost: %v", got.Addresses)
	}
	one, err := LookupDNSAddr(t.Context(), z, "/dnsaddr/boot.example/p2p/"+b.String())
	if err != nil || len(one.Addresses) != 1 || one.Addresses[0].Hostname != "2.2.2.2" {
		t.Errorf("of one peer: %+v, %v", one, err)
	}
}

// Malformed records are passed over and counted, the good one is found.
func TestMalformedDNSAddrs(t *testing.T) {
	id := newID(t)
	z := &zone{txt: map[string][]string{"_dnsaddr.x.example": {
		"dnsaddr=", "dnsaddr=/", "dnsaddr=//", "dnsaddr=nonsense", "dnsaddr=/ip4/1.2.3.4", "dnsaddr=/ip4/999.1.1.1/tcp/1/p2p/" + id.String(),
		"dnsaddr=/ip4/1.2.3.4/tcp/1/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb", // only the hash of a key
		"dnsaddr=/p2p/" + id.String(), "dnsaddr=/dnsaddr/x/y", "dnsaddr=/dnsaddr/y.example/tcp/1/p2p/" + id.String(),
		"dnsaddr=/unix/tmp/x", "dnsaddr=" + strings.Repeat("/ip4/1.2.3.4", 10_000), "dnsaddr=\x00\xff", "", "dnsaddr", "=",
		"dnsaddr=" + at("1.1.1.1", id),
	}}}
	got, err := LookupDNSAddr(t.Context(), z, "x.example")
	if err != nil || len(got.Addresses) != 1 || got.Malformed != 13 || got.Cut != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Records that name each other, or ever new names, are left after a few
// questions.
func TestEndlessDNSAddrs(t *testing.T) {
	id := newID(t)
	for name, z := range map[string]interface {
		LookupTXT(context.Context, string) ([]string, error)
		LookupIPAddr(context.Context, string) ([]net.IPAddr, error)
	}{
		"itself": endless(func(n int, host string) []string { return []string{"dnsaddr=/dnsaddr/a.example"} }),
		"in turns": endless(func(n int, host string) []string {
			return []string{"dnsaddr=/dnsaddr/A.example", "dnsaddr=/dnsaddr/b.example"}
		}),
		"deeper": endless(func(n int, host string) []string { return []string{fmt.Sprintf("dnsaddr=/dnsaddr/x%d.example", n)} }),
		"wider": endless(func(n int, host string) []string {
			var all []string
			for i := range 10_000 {
				all = append(all, fmt.Sprintf("dnsaddr=/dnsaddr/x%d-%d.example", n, i))
			}
			return all
		}),
		"hosts": endless(func(n int, host string) []string {
			var all []string
			for i := range 10_000 {
				all = append(all, fmt.Sprintf("dnsaddr=/dns/x%d-%d.example/tcp/1/p2p/%s", n, i, id))
			}
			return all
		}),
		"addresses": endless(func(n int, host string) []string {
			var all []string
			for i := range 10_000 {
				all = append(all, "dnsaddr="+at(fmt.Sprintf("1.2.%d.%d", i/250, i%250), id))
			}
			return all
		}),
	} {
		asked := 0
		got, err := LookupDNSAddr(t.Context(), counted{z, &asked}, "a.example")
		if err != nil || got.Lookups != asked || asked > dnsLookups || len(got.Addresses) > dnsFound {
			t.Errorf("%s: %d questions, %d said, %d addresses: %v", name, asked, got.Lookups, len(got.Addresses), err)
		}
		if name != "itself" && name != "in turns" && got.Cut == 0 {
			t.Errorf("%s: nothing was cut", name)
		}
	}
}

type resolver interface {
	LookupTXT(context.Context, string) ([]string, error)
	LookupIPAddr(context.Context, string) ([]net.IPAddr, error)
}

type counted struct {
	resolver
	asked *int
}

func (c counted) LookupTXT(ctx context.Context, n string) ([]string, error) {
	*c.asked++
	return c.resolver.LookupTXT(ctx, n)
}

func (c counted) LookupIPAddr(ctx context.Context, n string) ([]net.IPAddr, error) {
	*c.asked++
	return c.resolver.LookupIPAddr(ctx, n)
}

// endless answers the n-th question.
func endless(answer func(n int, host string) []string) resolver { return &endlessZone{answer: answer} }

type endlessZone struct {
	n      int
	answer func(int, string) []string
}

func (z *endlessZone) LookupTXT(_ context.Context, name string) ([]string, error) {
	z.n++
	return z.answer(z.n, name), nil
}

func (z *endlessZone) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) {
	var ips []net.IPAddr
	for i := range 10_000 {
		ips = append(ips, net.IPAddr{IP: net.IPv4(9, 9, byte(i>>8), byte(i))})
	}
	return ips, nil
}

// A name that answers 10,000 names costs bounded memory and gets a bounded share
// of the book.
func TestDNSSeedWith10000Names(t *testing.T) {
	var records []string
	for i := range 10_000 {
		records = append(records, "dnsaddr="+at(public(i), newID(t)))
	}
	z := &zone{txt: map[string][]string{"_dnsaddr.evil.example": records}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if got, err := LookupDNSAddr(t.Context(), z, "evil.example"); err != nil || len(got.Addresses) != dnsFound || got.Cut != 10_000-dnsFound {
		t.Errorf("%d addresses, %d cut, %v", len(got.Addresses), got.Cut, err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("%d bytes", used)
	}
	synctest.Test(t, func(t *testing.T) {
		s, err := NewDNSAddr("evil.example", DNSOptions{Resolver: z})
		if err != nil {
			t.Fatal(err)
		}
		book := newBook(t, addrbook.Options{})
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{s, once("good", Found{numbered(1, "9.9.9.9"), fromDHT})}})
		defer start(t, m)()
		time.Sleep(24 * time.Hour)
		if n := book.Stats().Addresses; n > dnsFound+1 || n < 2 {
			t.Errorf("%d addresses after a day", n)
		}
		if s := statsOf(t, m, "dnsaddr evil.example"); s.Refused[RefusedCut] != 24*(10_000-dnsFound) && s.Refused[RefusedCut] != 25*(10_000-dnsFound) {
			t.Errorf("what was cut is not counted: %+v", s)
		}
		if s := statsOf(t, m, "good"); s.Added != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// The source asks again every hour; when nobody answers it fails, and the mix
// tries again.
func TestDNSAddrSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := newID(t)
		z := &zone{txt: map[string][]string{"_dnsaddr.a.example": {"dnsaddr=" + at("1.1.1.1", id), "dnsaddr=" + at("10.1.1.1", id), "dnsaddr=x"}}}
		good, err1 := NewDNSAddr("/dnsaddr/a.example", DNSOptions{Resolver: z})
		none, err2 := NewDNSAddr("b.example", DNSOptions{Resolver: z})
		slow, err3 := NewDNSAddr("c.example", DNSOptions{Resolver: waiting{z}})
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		book := newBook(t, addrbook.Options{})
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{good, none, slow}})
		stop := start(t, m)
		time.Sleep(2*time.Hour + time.Second)
		if s := statsOf(t, m, "dnsaddr a.example"); s.Runs != 1 || s.Added != 1 || s.Known != 2 || s.Refused[addrbook.RefusedScope] != 3 {
			t.Errorf("%+v", s)
		}
		for name, want := range map[string]error{"dnsaddr b.example": errNoName, "dnsaddr c.example": context.DeadlineExceeded} {
			if s := statsOf(t, m, name); s.Runs < 10 || s.Runs > 60 || !errors.Is(s.LastError, want) {
				t.Errorf("%+v", s)
			}
		}
		stop()
	})
}

// waiting never answers.
type waiting struct{ resolver }

func (waiting) LookupTXT(ctx context.Context, _ string) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestDNSAddrNames(t *testing.T) {
	id := newID(t)
	for name, good := range map[string]bool{
		"a.example": true, "/dnsaddr/a.example": true, "/dnsaddr/a.example/p2p/" + id.String(): true,
		"": false, "/": false, "/dnsaddr": false, "/dnsaddr/": false, "/dns4/a.example": false, "/ip4/1.1.1.1": false,
		"/dnsaddr/a.example/tcp/1": false, "a/b": false, strings.Repeat("a", 5000): false,
	} {
		if _, err := NewDNSAddr(name, DNSOptions{}); (err == nil) != good || err != nil && !errors.Is(err, ErrOptions) {
			t.Errorf("%.40q: %v", name, err)
		}
	}
	if _, err := NewDNSAddr("a.example", DNSOptions{Every: -1}); !errors.Is(err, ErrOptions) {
		t.Error(err)
	}
}

// Whatever records say, the walk ends, is bounded, and gives valid addresses.
func FuzzDNSAddrRecords(f *testing.F) {
	f.Add("dnsaddr=/ip4/1.2.3.4/tcp/4001/p2p/12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV\ndnsaddr=/dnsaddr/a.example")
	f.Add("dnsaddr=/dns4/a/tcp/1/p2p/12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV\n\ndnsaddr=/")
	f.Fuzz(func(t *testing.T, s string) {
		records := strings.Split(s, "\n")
		asked := 0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := LookupDNSAddr(t.Context(), counted{small{endless(func(int, string) []string { return records })}, &asked}, "a.example")
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 16*200*uint64(len(s))+4<<20 {
			t.Errorf("%d bytes for %d", used, len(s))
		}
		if err != nil || asked > dnsLookups || len(got.Addresses) > dnsFound {
			t.Errorf("%d questions, %+v, %v", asked, got, err)
		}
		for _, a := range got.Addresses {
			if err := a.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
}

// small names one IP for every host.
type small struct{ resolver }

func (small) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) {
	return []net.IPAddr{{IP: net.IPv4(9, 9, 9, 9)}}, nil
}
