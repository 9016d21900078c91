package addrbook

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// id is the n-th NodeID of the tests.
func id(n int) identity.NodeID {
	var b [20]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	return identity.NodeID(hex.EncodeToString(b[:]))
}

// at is the address of the n-th peer at an IP.
func at(n int, ip string) address.NodeAddress {
	return address.NodeAddress{NodeID: id(n), Protocol: address.MConn, Hostname: ip, Port: 26656}
}

// global is the n-th address on the internet, 16 bits of it within a group.
func global(n int) netip.Addr {
	g := n >> 16
	return netip.AddrFrom4([4]byte{byte(20 + g/256%64), byte(g), byte(n >> 8), byte(n)})
}

// inGroup is host h in the g-th IPv4 /16.
func inGroup(g, h int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(20 + g/256), byte(g), byte(h >> 8), byte(h)})
}

func pex(n int, ip string) Source {
	return Source{Kind: PEX, Peer: id(n), IP: netip.MustParseAddr(ip), Protocol: address.MConn}
}

var manual = Source{Kind: Manual}

// clock is a clock that only the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func seeded(seed uint64) func() float64 { return rand.New(rand.NewPCG(seed, 1)).Float64 }

// open returns a book that is closed, and whose goroutine is waited for, at
// the end of the test.
func open(t testing.TB, s Store, o Options) *Book {
	t.Helper()
	b, err := Open(s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// test returns a book in memory with a clock and a seed.
func test(t testing.TB, o Options) (*Book, *clock) {
	c := newClock()
	o.Now, o.Rand = c.now, seeded(1)
	return open(t, NewMemoryStore(), o), c
}

func mustAdd(t testing.TB, b *Book, a address.NodeAddress, from Source) {
	t.Helper()
	if added, err := b.Add(a, from); !added || err != nil {
		t.Fatalf("%s: %v, %v", a, added, err)
	}
}

// checkGoroutines fails when more run at the end than at the beginning.
func checkGoroutines(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(2 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d goroutines, %d at the start\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
				return
			}
		}
	})
}

// report prints a figure, also when the test passes.
func report(format string, args ...any) { fmt.Printf(format+"\n", args...) }
