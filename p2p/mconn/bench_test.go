package mconn

import (
	"bytes"
	"crypto/cipher"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// Figures: run them all at once and read the ratios, since machines differ.
//
//	go test -run '^$' -bench . ./p2p/mconn
//
// A name with "recycled" gives each message back (Connection.Recycle); the others
// leave it to the collector, which in a process with nothing else on its heap runs
// every 4 MB. Throughput/ceiling is what the cipher and TCP leave: frames sealed from one
// buffer, 64 KiB a write, and opened. Echo/raw is a TCP echo without any of it.

// rawPair is two ends of a TCP connection over loopback.
func rawPair(b testing.TB) (net.Conn, net.Conn) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
}

var sizes = []int{256, 1 << 10, 16 << 10, 64 << 10, 1 << 20}

func BenchmarkThroughput(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("ceiling/%d", size), func(b *testing.B) { benchCeiling(b, size) })
		for _, recycle := range []bool{false, true} {
			name := map[bool]string{false: "", true: "-recycled"}[recycle]
			b.Run(fmt.Sprintf("comet%s/%d", name, size), func(b *testing.B) { benchThroughput(b, size, Options{CometOnly: true}, recycle) })
			b.Run(fmt.Sprintf("kith%s/%d", name, size), func(b *testing.B) { benchThroughput(b, size, Options{}, recycle) })
		}
	}
}

// benchThroughput sends messages as the Router does: chunk by chunk, flushed at
// the end.
func benchThroughput(b *testing.B, size int, opts Options, recycle bool) {
	from, to := tcpPair(b, opts)
	message := bytes.Repeat([]byte{7}, size)
	received := make(chan error, 1)
	go func() {
		for range b.N {
			_, m, err := to.ReceiveMessage()
			if err != nil || len(m) != size {
				received <- fmt.Errorf("%d bytes, %w", len(m), err)
				return
			}
			if recycle {
				to.Recycle(m)
			}
		}
		received <- nil
	}()
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		rest := message
		for chunk := from.MaxChunk(); len(rest) > chunk; rest = rest[chunk:] {
			if err := from.SendChunk(1, rest[:chunk], false); err != nil {
				b.Fatal(err)
			}
		}
		if err := from.SendChunk(1, rest, true); err != nil {
			b.Fatal(err)
		}
	}
	if err := from.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := <-received; err != nil {
		b.Fatal(err)
	}
	s := to.Stats().Received
	b.ReportMetric(float64(s.Bytes)/float64(max(1, s.Blocks)), "B/read")
}

// benchCeiling moves as many bytes of data in frames as b.N messages have.
func benchCeiling(b *testing.B, size int) {
	from, to := rawPair(b)
	key := make([]byte, chacha20poly1305.KeySize)
	aead := func() cipher.AEAD {
		a, err := chacha20poly1305.New(key)
		if err != nil {
			b.Fatal(err)
		}
		return a
	}
	frames := (b.N*size + frameData - 1) / frameData
	received := make(chan error, 1)
	go func() {
		open, nonce, buffer := aead(), make([]byte, 12), make([]byte, sealedSizes[2])
		have := 0
		for left := frames; left > 0; {
			k, err := to.Read(buffer[have:])
			if err != nil {
				received <- err
				return
			}
			have += k
			at := 0
			for ; have-at >= frameSealed; at += frameSealed {
				if _, err := open.Open(buffer[at:at], nonce, buffer[at:at+frameSealed], nil); err != nil {
					received <- err
					return
				}
				left--
			}
			have = copy(buffer, buffer[at:have])
		}
		received <- nil
	}()
	seal, nonce, frame := aead(), make([]byte, 12), make([]byte, frameHead+frameData)
	block := make([]byte, 0, maxBatch/frameData*frameSealed)
	b.SetBytes(int64(size))
	b.ResetTimer()
	for left := frames; left > 0; {
		block = block[:0]
		for ; left > 0 && len(block) < cap(block); left-- {
			block = seal.Seal(block, nonce, frame, nil)
		}
		if _, err := from.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-received; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkEcho measures round trips on an idle link. Per operation is the mean;
// p50-ns is the median.
func BenchmarkEcho(b *testing.B) {
	b.Run("raw", func(b *testing.B) {
		from, to := rawPair(b)
		go io.Copy(to, to)
		message := make([]byte, 100)
		benchRounds(b, func() error {
			if _, err := from.Write(message); err != nil {
				return err
			}
			_, err := io.ReadFull(from, message)
			return err
		})
	})
	for name, opts := range map[string]Options{"comet": {CometOnly: true}, "kith": {}} {
		b.Run(name, func(b *testing.B) {
			from, to := tcpPair(b, opts)
			go func() {
				for {
					ch, m, err := to.ReceiveMessage()
					if err != nil || to.SendMessage(ch, m) != nil {
						return
					}
				}
			}()
			message := make([]byte, 100)
			b.ReportAllocs()
			benchRounds(b, func() error {
				if err := from.SendMessage(1, message); err != nil {
					return err
				}
				_, _, err := from.ReceiveMessage()
				return err
			})
		})
	}
}

func benchRounds(b *testing.B, round func() error) {
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if err := round(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}

// BenchmarkHandshake is both sides of one.
func BenchmarkHandshake(b *testing.B) {
	for b.Loop() {
		x, y := net.Pipe()
		pairOver(b, x, y, Options{})
	}
}
