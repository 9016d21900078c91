package libp2p

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
)

// What the Router over libp2p costs, beside what a program would write that knows
// only libp2p. Every benchmark is over one loopback TCP connection between two
// hosts in this process.

const benchProtocol = "/kith-bench/1"

// benchRouters are two connected Routers with one channel open on both.
func benchRouters(b *testing.B, d p2p.ChannelDescriptor) (x, y *routed, cx, cy *bytesChannel) {
	p := networks[1].make(b)
	x, y = route(b, p.a), route(b, p.b)
	cx, cy = open(b, x, 0x10, d), open(b, y, 0x10, d)
	start(b, x, y)
	meet(b, x, y, p.at.NodeAddress(p.b.id()))
	return x, y, cx, cy
}

var benchSizes = []int{1 << 10, 64 << 10}

// BenchmarkRouter sends messages through two Routers, from Send to Receive.
func BenchmarkRouter(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			_, y, cx, cy := benchRouters(b, p2p.ChannelDescriptor{
				SendPolicy: p2p.SendBlock, SendQueueBytes: 8 << 20, SendQueueCapacity: 1 << 14,
				RecvQueueBytes: 512 << 20, RecvQueueCapacity: 1 << 20, RecvTotalBytes: 512 << 20,
			})
			m := wrapperspb.Bytes(make([]byte, size))
			done := make(chan struct{})
			// No more is on the way than the receiver's queue holds, which would drop it.
			window := make(chan struct{}, max(64, 4<<20/size))
			go func() {
				defer close(done)
				n := 0
				for _, err := range cy.Receive(context.Background()) {
					if err != nil {
						b.Error(err)
						return
					}
					<-window
					if n++; n == b.N {
						return
					}
				}
			}()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			before, used := writes(), processor(b)
			for range b.N {
				window <- struct{}{}
				if err := cx.Send(context.Background(), y.id(), m); err != nil {
					b.Fatal(err)
				}
			}
			<-done
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric((writes()-before)/float64(b.N), "syscalls/msg")
			b.ReportMetric(float64(processor(b)-used)/float64(b.N), "cpu-ns/msg")
		})
	}
}

// BenchmarkStreamPerMessage sends the same messages as libp2p programs often do: a
// stream for each, which the receiver reads to its end. "ordered" keeps the order,
// as the Router does: a message is read before the next one's stream is opened.
// "64 at once" gives that up.
func BenchmarkStreamPerMessage(b *testing.B) {
	for _, way := range []struct {
		name  string
		ahead int
	}{{"ordered", 1}, {"64 at once", 64}} {
		for _, size := range benchSizes {
			b.Run(fmt.Sprintf("%s/%d", way.name, size), func(b *testing.B) { streamPerMessage(b, size, way.ahead) })
		}
	}
}

func streamPerMessage(b *testing.B, size, ahead int) {
	p := networks[1].make(b)
	p.join(b)
	window := make(chan struct{}, ahead)
	p.b.SetStreamHandler(benchProtocol, func(s network.Stream) {
		defer s.Close()
		if data, err := io.ReadAll(s); err != nil || len(data) != size {
			b.Errorf("%d bytes, %v", len(data), err)
		}
		<-window
	})
	data := make([]byte, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	used := processor(b)
	for range b.N {
		window <- struct{}{}
		s, err := p.a.NewStream(context.Background(), p.b.ID(), benchProtocol)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			b.Fatal(err)
		}
		go func() { // as programs should: wait for the end, or the stream leaks
			_, _ = s.Read(make([]byte, 1))
			_ = s.Close()
		}()
	}
	for range ahead {
		window <- struct{}{}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64(processor(b)-used)/float64(b.N), "cpu-ns/msg")
}

// writes is how many system calls that write this process has made; 0 where the
// system does not say.
func writes() (n float64) {
	text, _ := os.ReadFile("/proc/self/io")
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "syscw: %g", &n); err == nil {
			return n
		}
	}
	return 0
}

// median reports the middle of what was measured.
func median(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), "p50-ns")
}

// BenchmarkRouterEcho is one message of 100 bytes there and back at a time.
func BenchmarkRouterEcho(b *testing.B) {
	x, y, cx, cy := benchRouters(b, p2p.ChannelDescriptor{})
	go func() {
		for in, err := range cy.Receive(context.Background()) {
			if err != nil {
				return
			}
			_ = cy.TrySend(x.id(), in.Message)
		}
	}()
	back := make(chan struct{})
	go func() {
		for _, err := range cx.Receive(context.Background()) {
			if err != nil {
				return
			}
			back <- struct{}{}
		}
	}()
	m := wrapperspb.Bytes(make([]byte, 100))
	times := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for range b.N {
		begin := time.Now()
		if err := cx.Send(context.Background(), y.id(), m); err != nil {
			b.Fatal(err)
		}
		<-back
		times = append(times, time.Since(begin))
	}
	median(b, times)
}

// BenchmarkRawEcho is the same on a bare stream, with a length before each message.
func BenchmarkRawEcho(b *testing.B) {
	p := networks[1].make(b)
	p.join(b)
	echo := func(s network.Stream, buf []byte) error {
		if _, err := io.ReadFull(s, buf); err != nil {
			return err
		}
		return nil
	}
	p.b.SetStreamHandler(benchProtocol, func(s network.Stream) {
		defer s.Close()
		buf := make([]byte, 104)
		for echo(s, buf) == nil {
			if _, err := s.Write(buf); err != nil {
				return
			}
		}
	})
	s, err := p.a.NewStream(context.Background(), p.b.ID(), benchProtocol)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Reset()
	buf := make([]byte, 104)
	binary.BigEndian.PutUint32(buf, 100)
	times := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for range b.N {
		begin := time.Now()
		if _, err := s.Write(buf); err != nil {
			b.Fatal(err)
		}
		if err := echo(s, buf); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(begin))
	}
	median(b, times)
}
