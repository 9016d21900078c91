package p2p_test

import (
	"context"
	"crypto/cipher"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// Figures of the whole stack, from Send to Receive through two Routers with typed
// channels, over mconn on loopback TCP. Machines differ and others load them, so
// each benchmark measures, in turn and in short windows, what cipher and TCP leave
// (ceiling: full frames of SecretConnection sealed from one buffer, 64 KiB a write, and
// opened), a connection alone, and the Routers; its metrics are medians of the
// windows and of the ratios of neighbouring windows:
//
//	go test -run '^$' -bench Router -benchtime 10x ./p2p
//
// interop/cometbft has the same against CometBFT's own stack.

// wires are the two ways in which two nodes may speak.
var wires = []struct {
	name string
	opts mconn.Options
}{
	{"comet", mconn.Options{Listen: "127.0.0.1:0", CometOnly: true}},
	{"kith", mconn.Options{Listen: "127.0.0.1:0"}},
}

const windowTime = 150 * time.Millisecond

// benchChannel is the channel of the benchmarks. Its receiving queue drops nothing:
// the senders keep no more on its way than it holds.
var benchChannel = p2p.ChannelDescriptor{
	SendPolicy: p2p.SendBlock, RecvMessageCapacity: 1<<20 + 64, SendQueueBytes: 8 << 20, SendQueueCapacity: 1 << 14,
	RecvQueueBytes: 512 << 20, RecvQueueCapacity: 1 << 20, RecvTotalBytes: 512 << 20,
}

// pairOfRouters are two Routers that are connected over loopback TCP, with one
// channel open on both.
func pairOfRouters(tb testing.TB, opts mconn.Options, d p2p.ChannelDescriptor) (a, b *testNode, ca, cb *bytesFace) {
	w := &world{TB: tb}
	over := func(o *p2p.RouterOptions) {
		tr, err := mconn.New(opts)
		if err != nil {
			tb.Fatal(err)
		}
		_ = o.Transports[0].Close()
		o.Transports = []p2p.Transport{tr}
	}
	a, b = w.node(over), w.node(over)
	ca, cb = openBytes(tb, a, 0x10, d), openBytes(tb, b, 0x10, d)
	w.start(a, b)
	w.connect(a, b)
	return a, b, ca, cb
}

// A flow moves messages for a time and says how many arrived in which time.
type flow func(time.Duration) (messages int, took time.Duration)

func (f flow) rate() float64 {
	n, took := f(windowTime)
	return float64(n) / took.Seconds()
}

// BenchmarkRouterThroughput: the bars are 0.5, 0.65 and 0.7 of the ceiling through
// the Routers at 1 KiB, 16 KiB and 1 MiB, and 0.6, 0.75, 0.8 by a connection alone.
func BenchmarkRouterThroughput(b *testing.B) {
	for _, wire := range wires {
		for _, size := range []int{256, 1 << 10, 16 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%d", wire.name, size), func(b *testing.B) {
				ceiling, alone, routers := ceilingFlow(b, size), connectionFlow(b, wire.opts, size), routerFlow(b, wire.opts, size)
				for _, f := range []flow{ceiling, alone, routers} { // buffers grow
					f.rate()
				}
				var of, parts [3][]float64
				for b.Loop() {
					var now [3]float64
					for i, f := range []flow{ceiling, alone, routers} {
						now[i] = f.rate()
						of[i] = append(of[i], now[i])
						parts[i] = append(parts[i], now[i]/now[0])
					}
				}
				mib := float64(size) / (1 << 20)
				b.ReportMetric(median(of[0])*mib, "MiB/s-ceiling")
				b.ReportMetric(median(of[1])*mib, "MiB/s-connection")
				b.ReportMetric(median(of[2])*mib, "MiB/s-routers")
				b.ReportMetric(median(of[2]), "msg/s-routers")
				b.ReportMetric(median(parts[1]), "connection/ceiling")
				b.ReportMetric(median(parts[2]), "routers/ceiling")
			})
		}
	}
}

func median(of []float64) float64 {
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}

// encoded is a message of so many bytes on the wire.
func encoded(size int) *wrapperspb.BytesValue {
	m := wrapperspb.Bytes(make([]byte, size))
	for proto.Size(m) > size {
		m.Value = m.Value[1:]
	}
	return m
}

// routerFlow sends through two Routers.
func routerFlow(b *testing.B, opts mconn.Options, size int) flow {
	_, to, ca, cb := pairOfRouters(b, opts, benchChannel)
	ctx, stop := context.WithCancel(context.Background())
	b.Cleanup(stop)
	m := encoded(size)
	batch, credits := max(1, (256<<10)/size), make(chan struct{}, 16) // 4 MiB on their way, or 16 messages
	go func() {
		n := 0
		for _, err := range cb.Receive(ctx) {
			if err != nil {
				return
			}
			if n++; n%batch == 0 {
				<-credits
			}
		}
	}()
	return func(d time.Duration) (n int, took time.Duration) {
		start := time.Now()
		for time.Since(start) < d {
			credits <- struct{}{}
			for range batch {
				if err := ca.Send(ctx, to.id, m); err != nil {
					b.Error(err)
					return n, time.Since(start)
				}
			}
			n += batch
		}
		for range cap(credits) { // until all of it has arrived
			credits <- struct{}{}
		}
		took = time.Since(start)
		for range cap(credits) {
			<-credits
		}
		return n, took
	}
}

// connectionFlow sends over one connection, as the Router's writer and reader do.
func connectionFlow(b *testing.B, opts mconn.Options, size int) flow {
	from, to := connectionPair(b, opts)
	arrived := make(chan struct{})
	go func() {
		for {
			_, m, err := to.ReceiveMessage()
			if err != nil {
				return
			}
			if len(m) == 0 { // the end of a window
				arrived <- struct{}{}
			}
			to.Recycle(m)
		}
	}()
	message := make([]byte, size)
	return func(d time.Duration) (n int, took time.Duration) {
		start := time.Now()
		for time.Since(start) < d {
			for range max(1, 256<<10/size) {
				rest := message
				for chunk := from.MaxChunk(); len(rest) > chunk; rest = rest[chunk:] {
					if err := from.SendChunk(1, rest[:chunk], false); err != nil {
						b.Error(err)
						return n, time.Since(start)
					}
				}
				if err := from.SendChunk(1, rest, true); err != nil {
					b.Error(err)
					return n, time.Since(start)
				}
				n++
			}
		}
		if err := from.SendMessage(1, nil); err != nil {
			b.Error(err)
			return n, time.Since(start)
		}
		<-arrived
		return n, time.Since(start)
	}
}

// ceilingFlow moves as many bytes in full frames.
func ceilingFlow(b *testing.B, size int) flow {
	const data, frameSize, perWrite = 1024, 4 + 1024 + 16, 64
	from, to := tcpSockets(b)
	aead := func() cipher.AEAD {
		a, err := chacha20poly1305.New(make([]byte, chacha20poly1305.KeySize))
		if err != nil {
			b.Fatal(err)
		}
		return a
	}
	arrived := make(chan struct{})
	go func() {
		open, nonce, buffer := aead(), make([]byte, 12), make([]byte, 128<<10)
		have := 0
		for {
			k, err := to.Read(buffer[have:])
			if err != nil {
				return
			}
			have += k
			at := 0
			for ; have-at >= frameSize; at += frameSize {
				plain, err := open.Open(buffer[at:at], nonce, buffer[at:at+frameSize], nil)
				if err != nil {
					b.Error(err)
					return
				}
				if plain[0] == 1 { // the end of a window
					arrived <- struct{}{}
				}
			}
			have = copy(buffer, buffer[at:have])
		}
	}()
	seal, nonce, frame, block := aead(), make([]byte, 12), make([]byte, 4+data), make([]byte, 0, perWrite*frameSize)
	write := func() error {
		_, err := from.Write(block)
		block = block[:0]
		return err
	}
	return func(d time.Duration) (n int, took time.Duration) {
		start := time.Now()
		frames := 0
		for time.Since(start) < d {
			for range perWrite {
				block = seal.Seal(block, nonce, frame, nil)
			}
			frames += perWrite
			if err := write(); err != nil {
				b.Error(err)
				return 1, time.Since(start)
			}
		}
		block = seal.Seal(block, nonce, append([]byte{1}, frame[1:]...), nil)
		if err := write(); err != nil {
			b.Error(err)
			return 1, time.Since(start)
		}
		<-arrived
		return max(1, frames*data/size), time.Since(start)
	}
}

// BenchmarkRouterEcho is one round trip at a time, against a TCP echo without any
// of it: the bars are 3 times that by a connection alone, 5 times through the
// Routers.
func BenchmarkRouterEcho(b *testing.B) {
	for _, wire := range wires {
		b.Run(wire.name, func(b *testing.B) {
			raw, alone, routers := rawEcho(b), connectionEcho(b, wire.opts), routerEcho(b, wire.opts)
			var of, parts [3][]float64
			for b.Loop() {
				var now [3]float64
				for i, round := range []func() error{raw, alone, routers} {
					var took []float64
					for range 2000 {
						start := time.Now()
						if err := round(); err != nil {
							b.Fatal(err)
						}
						took = append(took, float64(time.Since(start)))
					}
					now[i] = median(took)
					of[i] = append(of[i], now[i])
					parts[i] = append(parts[i], now[i]/now[0])
				}
			}
			b.ReportMetric(median(of[0]), "p50-ns-raw")
			b.ReportMetric(median(of[1]), "p50-ns-connection")
			b.ReportMetric(median(of[2]), "p50-ns-routers")
			b.ReportMetric(median(parts[1]), "connection/raw")
			b.ReportMetric(median(parts[2]), "routers/raw")
		})
	}
}

func rawEcho(b *testing.B) func() error {
	from, to := tcpSockets(b)
	go func() { _, _ = io.Copy(to, to) }()
	m := make([]byte, 100)
	return func() error {
		if _, err := from.Write(m); err != nil {
			return err
		}
		_, err := io.ReadFull(from, m)
		return err
	}
}

func connectionEcho(b *testing.B, opts mconn.Options) func() error {
	from, to := connectionPair(b, opts)
	go func() {
		for {
			ch, m, err := to.ReceiveMessage()
			if err != nil || to.SendMessage(ch, m) != nil {
				return
			}
		}
	}()
	m := make([]byte, 100)
	return func() error {
		if err := from.SendMessage(1, m); err != nil {
			return err
		}
		_, _, err := from.ReceiveMessage()
		return err
	}
}

func routerEcho(b *testing.B, opts mconn.Options) func() error {
	from, to, ca, cb := pairOfRouters(b, opts, p2p.ChannelDescriptor{})
	ctx, stop := context.WithCancel(context.Background())
	b.Cleanup(stop)
	go func() {
		for in, err := range cb.Receive(ctx) {
			if err != nil {
				return
			}
			_ = cb.TrySend(from.id, in.Message)
		}
	}()
	m := wrapperspb.Bytes(make([]byte, 100))
	next, done := iter.Pull2(ca.Receive(ctx))
	b.Cleanup(done)
	return func() error {
		if err := ca.Send(ctx, to.id, m); err != nil {
			return err
		}
		_, err, _ := next()
		return err
	}
}

func tcpSockets(b *testing.B) (net.Conn, net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	x, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	y, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { x.Close(); y.Close() })
	return x, y
}

func connectionPair(b *testing.B, opts mconn.Options) (*mconn.Connection, *mconn.Connection) {
	x, y := tcpSockets(b)
	var ends [2]*mconn.Connection
	errs := make(chan error, 2)
	for i, nc := range []net.Conn{x, y} {
		c, err := mconn.NewConnection(nc, mconn.Options{CometOnly: opts.CometOnly})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		ends[i] = c
		key := testKey(900 + i)
		go func() {
			_, _, err := c.Handshake(b.Context(), rawInfo(key), key)
			c.SetChannelLimits(map[p2p.ChannelID]int{1: 2 << 20})
			errs <- err
		}()
	}
	for range ends {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	return ends[0], ends[1]
}
