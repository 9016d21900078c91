package discovery

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newID(t testing.TB) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func nodeID(t testing.TB, id peer.ID) identity.NodeID {
	t.Helper()
	n, err := identity.NodeIDFromPeerID(id)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func parse(t testing.TB, s string) address.NodeAddress {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// numbered is an mconn address of a node of its own at an IP.
func numbered(n int, ip string) address.NodeAddress {
	return address.NodeAddress{NodeID: identity.NodeID(fmt.Sprintf("%040x", n)), Protocol: address.MConn, Hostname: ip, Port: 1000}
}

// public is the n-th of many global IPs, each of a network of its own.
func public(n int) string { return fmt.Sprintf("%d.%d.1.1", 11+n/250%80, 1+n%250) }

func newBook(t testing.TB, o addrbook.Options) *addrbook.Book {
	t.Helper()
	b, err := addrbook.Open(addrbook.NewMemoryStore(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// eventually waits for something to become true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// noLeaks fails the test when at its end, after all other cleanups, more
// goroutines run than now.
func noLeaks(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	})
}

// collector keeps what a source found.
type collector struct {
	mu    sync.Mutex
	found []Found
}

func (c *collector) learn(f []Found) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found = append(c.found, f...)
}

func (c *collector) all() []Found {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Found(nil), c.found...)
}

// funcSource is a source made of a function.
type funcSource struct {
	name string
	run  func(context.Context, func([]Found)) error
}

func (s funcSource) Name() string                                       { return s.name }
func (s funcSource) Run(ctx context.Context, learn func([]Found)) error { return s.run(ctx, learn) }

// zone is a DNS resolver in memory. Names that begin with "slow" wait for the
// end of the context.
type zone struct {
	txt   map[string][]string
	ips   map[string][]net.IPAddr
	mu    sync.Mutex
	asked []string
}

var errNoName = errors.New("no such host")

func (z *zone) note(ctx context.Context, name string) error {
	z.mu.Lock()
	z.asked = append(z.asked, name)
	z.mu.Unlock()
	if len(name) > 4 && name[:4] == "slow" {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (z *zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if err := z.note(ctx, name); err != nil {
		return nil, err
	}
	if r, ok := z.txt[name]; ok {
		return r, nil
	}
	return nil, errNoName
}

func (z *zone) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	if err := z.note(ctx, name); err != nil {
		return nil, err
	}
	if r, ok := z.ips[name]; ok {
		return r, nil
	}
	return nil, errNoName
}
