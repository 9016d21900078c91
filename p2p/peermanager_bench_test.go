package p2p

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/kith-p2p/kith/addrbook"
)

// fullBook teaches a PeerManager a million addresses, of which it keeps what
// there is room for.
func fullBook(b *testing.B, o PeerManagerOptions) *PeerManager {
	b.Helper()
	m := newManager(b, o)
	for i := range 1_000_000 {
		_, _ = m.AddFrom(benchAddress(i), benchSource(i))
	}
	return m
}

func benchAddress(i int) NodeAddress {
	return NodeAddress{Protocol: "mconn", NodeID: NodeID(fmt.Sprintf("%040x", i+1)), Hostname: netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), 1}).String(), Port: 26656}
}

func benchSource(i int) Source {
	return Source{Kind: addrbook.PEX, Peer: NodeID(fmt.Sprintf("%040x", 1<<40+i%4000)), IP: netip.AddrFrom4([4]byte{100, byte(i % 4000 >> 4), byte(i), 1}), Protocol: "mconn"}
}

// BenchmarkDialNextFullBook: at most 2 us with a book that a million adds filled.
func BenchmarkDialNextFullBook(b *testing.B) {
	m := fullBook(b, PeerManagerOptions{})
	b.ReportMetric(float64(m.Book().Len()), "peers")
	var dialled []NodeID
	for b.Loop() {
		a := m.TryDialNext()
		if a.IsZero() {
			b.Fatal("nobody")
		}
		if dialled = append(dialled, a.NodeID); len(dialled) == 256 { // give them back: a node has fewer on the way
			b.StopTimer()
			for _, id := range dialled {
				m.core.unreserve(id)
			}
			dialled = dialled[:0]
			b.StartTimer()
		}
	}
}

// BenchmarkDialCycleFullBook is a dial reserved and given back.
func BenchmarkDialCycleFullBook(b *testing.B) {
	m := fullBook(b, PeerManagerOptions{})
	for b.Loop() {
		a := m.TryDialNext()
		m.mu.Lock()
		m.core.unreserve(a.NodeID)
		m.mu.Unlock()
	}
}

// BenchmarkDialNextFullHouse is what a question costs when 64 are connected and
// upgrades are possible.
func BenchmarkDialNextFullHouse(b *testing.B) {
	m := fullBook(b, PeerManagerOptions{MaxConnected: 64, MaxConnectedUpgrade: 4})
	for i := range 64 {
		if err := m.Accepted(NodeID(fmt.Sprintf("%040x", 1<<50+i))); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if a := m.TryDialNext(); !a.IsZero() {
			b.Fatal(a)
		}
	}
}

// BenchmarkAddFullBook: at most 20 us.
func BenchmarkAddFullBook(b *testing.B) {
	m := fullBook(b, PeerManagerOptions{})
	i := 1_000_000
	for b.Loop() {
		_, _ = m.AddFrom(benchAddress(i), benchSource(i))
		i++
	}
}
