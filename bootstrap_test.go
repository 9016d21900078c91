package kith

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/discovery"
)

// dnsInMemory is a DNS in memory.
type dnsInMemory struct {
	mu    sync.Mutex // guards what follows
	txt   map[string][]string
	asked map[string]int
}

func (d *dnsInMemory) LookupTXT(_ context.Context, name string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked == nil {
		d.asked = map[string]int{}
	}
	d.asked[name]++
	if records, ok := d.txt[name]; ok {
		return records, nil
	}
	return nil, errors.New("no such host")
}

func (d *dnsInMemory) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) {
	return nil, errors.New("no such host")
}

func (d *dnsInMemory) set(name string, records ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.txt[name] = records
}

// A name of the bootstrap list that had no answer was asked again after an hour,
// and a node that came up before its network stayed alone for so long.
func TestRegressionAFailingBootstrapNameWaitedAnHour(t *testing.T) {
	const id = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
	synctest.Test(t, func(t *testing.T) {
		dns := &dnsInMemory{txt: map[string][]string{}}
		b, err := newBootstrapList([]string{"/ip4/1.1.1.1/tcp/4001/p2p/" + id, "/dnsaddr/nodes.example", "/dnsaddr/nodes.example/"}, dns)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		found := map[string]addrbook.Kind{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- b.Run(ctx, func(fs []discovery.Found) {
				mu.Lock()
				defer mu.Unlock()
				for _, f := range fs {
					found[f.Address.Hostname] = f.From.Kind
				}
			})
		}()
		has := func(host string, want addrbook.Kind) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if found[host] != want {
				t.Errorf("%s is from %q, want %q", host, found[host], want)
			}
		}
		has("1.1.1.1", addrbook.Bootstrap)
		if _, fault := b.Report(); fault == nil || !strings.Contains(fault.Error(), "nodes.example") {
			t.Errorf("the name that fails is not told of: %v", fault)
		}
		time.Sleep(10 * time.Minute)
		// 5 s, 10 s, ... 5 min, with jitter; once, though it is in the list twice
		dns.mu.Lock()
		if n := dns.asked["_dnsaddr.nodes.example"]; n < 4 || n > 12 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		dns.mu.Unlock()
		dns.set("_dnsaddr.nodes.example", "dnsaddr=/ip4/2.2.2.2/tcp/4001/p2p/"+id, "dnsaddr=/ip4/10.0.0.2/tcp/4001/p2p/"+id, "dnsaddr=nonsense")
		time.Sleep(6 * time.Minute)
		has("2.2.2.2", addrbook.DNS)
		has("10.0.0.2", addrbook.DNS) // a name that a person gave may be of a private network
		if refused, fault := b.Report(); fault != nil || refused[addrbook.RefusedInvalid] != 1 {
			t.Errorf("it has an answer: %v, %v", refused, fault)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// newBootstrapList is a list that nobody adds to.
func newBootstrapList(lines []string, dns *dnsInMemory) (*bootstrap, error) {
	if _, err := discovery.ParseList(lines); err != nil {
		return nil, err
	}
	return &bootstrap{dns: dns, log: slog.New(slog.DiscardHandler), restart: func() {}, configured: lines}, nil
}

// What is added to the list is used at once, by address and by name; what is taken
// out is asked for no more.
func TestBootstrapListChanges(t *testing.T) {
	a := startWith(t, Config{NoPEX: true})
	dns := &dnsInMemory{txt: map[string][]string{"_dnsaddr.nodes.example": {"dnsaddr=" + a.Addrs()[0]}}}
	b := startWith(t, Config{NoPEX: true}, func(n *Node) { n.boot.dns = dns })
	fault := func() error {
		all := b.Discovery()
		return all[slices.IndexFunc(all, func(s discovery.SourceStats) bool { return s.Name == "bootstrap" })].LastError
	}
	if _, err := b.AddBootstrap("/dnsaddr/nobody.example"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the source says which name fails", func() bool { return fault() != nil && strings.Contains(fault().Error(), "nobody.example") })
	if _, err := b.AddBootstrap("/dnsaddr/nodes.example"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node of the name is a peer", func() bool { return up(a, b) && up(b, a) })
	if p, err := b.Connect(t.Context(), a.ID().String()); err != nil || p.Source != string(addrbook.DNS) {
		t.Errorf("found by %q, though a has spoken for itself since: %v", p.Source, err)
	}
	if err := b.RemoveBootstrap("/dnsaddr/nobody.example"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing fails any more", func() bool { return fault() == nil })
}

// A program that added a line was told less than a person: to write
// mconn://NODEID@host, or that the disk failed. White space made another line.
func TestRegressionAddBootstrapFromGo(t *testing.T) {
	n := startWith(t, Config{})
	for line, says := range map[string]string{
		"":                       "no address was given",
		" # nobody":              "is no address of a peer",
		"127.0.0.1:4001":         "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...",
		"nobody":                 "is no address of a peer",
		"/dnsaddr/":              "write one like /dnsaddr/",
		"/dnsaddr/a.example/tcp": "write one like /dnsaddr/",
		"mconn://" + strings.Repeat("ab", 20) + "@192.0.2.1:26656": "only a program can give a node",
		n.Addrs()[0]: "is this node",
	} {
		added, err := n.AddBootstrap("/dnsaddr/good.invalid", line)
		if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "line 1") || strings.Contains(err.Error(), "NODEID") || added != nil {
			t.Errorf("%q: %q, %v", line, added, err)
		}
	}
	for _, bad := range []Config{{Bootstrap: []string{"", "# all is well", "nobody"}}, {PersistentPeers: []string{"nobody"}}} {
		bad.Home = t.TempDir()
		if _, err := New(bad); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "write one like /ip4/") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if len(n.Bootstrap()) != 0 {
		t.Errorf("added all the same: %v", n.Bootstrap())
	}
	const name = "/dnsaddr/good.invalid"
	for _, want := range [][]string{{name}, nil} {
		if added, err := n.AddBootstrap(" " + name + "\n"); err != nil || !slices.Equal(added, want) {
			t.Errorf("added %q, %v", added, err)
		}
	}
	if err := n.RemoveBootstrap("\t" + name); err != nil || len(n.Bootstrap()) != 0 {
		t.Errorf("%v, and the list is %v", err, n.Bootstrap())
	}
}
