package stream

import (
	"io"
	"testing"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

// rawPipe is pipe with bare libp2p streams.
func rawPipe(tb testing.TB, a, b corehost.Host) (dialled, accepted network.Stream) {
	tb.Helper()
	tag := newTag()
	got := make(chan network.Stream, 1)
	b.SetStreamHandler(tag, func(s network.Stream) { got <- s })
	s, err := a.NewStream(tb.Context(), b.ID(), tag)
	if err != nil {
		tb.Fatal(err)
	}
	far := <-got
	tb.Cleanup(func() {
		s.Reset()
		far.Reset()
		b.RemoveStreamHandler(tag)
	})
	return s, far
}

type readWriter interface {
	io.Reader
	io.Writer
	CloseWrite() error
}

// overBoth runs body over a bare stream and over a Conn, on some networks.
func overBoth(b *testing.B, body func(b *testing.B, near, far readWriter)) {
	for _, nw := range networks {
		switch nw.name {
		case "tcp-noise", "quic", "self":
		default:
			continue
		}
		b.Run(nw.name, func(b *testing.B) {
			x, y := nw.hosts(b)
			if x != y {
				b.Run("raw", func(b *testing.B) {
					near, far := rawPipe(b, x, y)
					body(b, near, far)
				})
			}
			b.Run("stream", func(b *testing.B) {
				near, far := pipe(b, x, y)
				body(b, near, far)
			})
		})
	}
}

// BenchmarkThroughput writes 64 KiB at a time to a peer that discards it.
func BenchmarkThroughput(b *testing.B) {
	overBoth(b, func(b *testing.B, near, far readWriter) {
		const size = 64 << 10
		got := make(chan int64, 1)
		go func() {
			var n int64
			for buf := make([]byte, 256<<10); ; {
				m, err := far.Read(buf)
				n += int64(m)
				if err != nil {
					got <- n
					return
				}
			}
		}()
		chunk := make([]byte, size)
		b.SetBytes(size)
		b.ReportAllocs()
		sent := int64(0)
		for b.Loop() {
			n, err := near.Write(chunk)
			if err != nil {
				b.Fatal(err)
			}
			sent += int64(n)
		}
		near.CloseWrite()
		if n := <-got; n != sent {
			b.Fatalf("%d of %d bytes arrived", n, sent)
		}
	})
}

// BenchmarkEcho sends 64 bytes there and back.
func BenchmarkEcho(b *testing.B) {
	overBoth(b, func(b *testing.B, near, far readWriter) {
		go func() {
			for buf := make([]byte, 64); ; {
				if _, err := io.ReadFull(far, buf); err != nil {
					return
				}
				if _, err := far.Write(buf); err != nil {
					return
				}
			}
		}()
		buf := make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := near.Write(buf); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(near, buf); err != nil {
				b.Fatal(err)
			}
		}
		near.CloseWrite()
	})
}

// still is a muxed stream that takes and gives bytes without doing anything.
type still struct{ network.MuxedStream }

func (still) Read(p []byte) (int, error)  { return len(p), nil }
func (still) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkAdapter is what a Conn adds to a Write and a Read.
func BenchmarkAdapter(b *testing.B) {
	c := newConn(still{}, "", Addr{}, Addr{})
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(buf)
		c.Read(buf)
	}
}

// A Conn adds no allocation to the stream below, and in process there is none
// at all.
func TestNoAllocations(t *testing.T) {
	h := newHost(t, "")
	near, far := pipe(t, h, h)
	buf := make([]byte, 4096)
	for name, f := range map[string]func(){
		"adapter": func() {
			c := adapter
			c.Write(buf)
			c.Read(buf)
		},
		"in process": func() {
			near.Write(buf)
			io.ReadFull(far, buf)
		},
		"limited": func() {
			limitedAdapter.Write(buf)
			limitedAdapter.Read(buf)
		},
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations for a Write and a Read", name, n)
		}
	}
}

var (
	adapter        = newConn(still{}, "", Addr{}, Addr{})
	limitedAdapter = NewLimitedConn(adapter, 1<<20)
)
