package cometbft

import (
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/p2p/conn"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// BenchmarkConnection compares connection with connection, over loopback TCP in
// one process: CometBFT v1.0.1's own SecretConnection and MConnection, without
// rate limits and otherwise with its defaults; ours towards a CometBFT node, which is
// the same wire; and ours between kith nodes. Run with -count so that they
// alternate, and read ratios:
//
//	go test -run '^$' -bench Connection -count 5
//
// echo is a round trip of 100 bytes on an idle link (p50-ns), the others are MB/s of
// messages of that size. Ours gives messages back once read, as kith's
// Router does; CometBFT lends its handler the same buffer each time.
func BenchmarkConnection(b *testing.B) {
	peers := []struct {
		name string
		make func(testing.TB) endpoints
	}{
		{"cometbft", cometEnds},
		{"kith-comet", func(b testing.TB) endpoints { return kithEnds(b, mconn.Options{CometOnly: true}) }},
		{"kith-kith", func(b testing.TB) endpoints { return kithEnds(b, mconn.Options{}) }},
	}
	for _, peer := range peers {
		b.Run("echo/"+peer.name, func(b *testing.B) { benchEcho(b, peer.make(b)) })
	}
	for _, size := range []int{256, 1 << 10, 16 << 10, 64 << 10, 1 << 20} {
		for _, peer := range peers {
			b.Run(fmt.Sprintf("%d/%s", size, peer.name), func(b *testing.B) { benchBulk(b, peer.make(b), size) })
		}
	}
}

// endpoints are two ends of a connection. send is called by one goroutine; got is
// called with the length of each message the other end receives, echo sends
// it back first.
type endpoints struct {
	send  func(message []byte) error
	flush func() error
	echo  *atomic.Bool
	back  chan struct{} // a message came back
	got   *atomic.Int64 // bytes that arrived
}

func sockets(b testing.TB) (net.Conn, net.Conn) {
	b.Helper()
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

func cometEnds(b testing.TB) endpoints {
	b.Helper()
	x, y := sockets(b)
	e := endpoints{flush: func() error { return nil }, echo: new(atomic.Bool), back: make(chan struct{}, 1), got: new(atomic.Int64)}
	var ends [2]*conn.SecretConnection
	errs := make(chan error, 2)
	for i, nc := range []net.Conn{x, y} {
		go func() {
			var err error
			ends[i], err = conn.MakeSecretConnection(nc, ed25519.GenPrivKey())
			errs <- err
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	config := conn.DefaultMConnConfig()
	config.SendRate, config.RecvRate = 1<<40, 1<<40
	channels := func() []*conn.ChannelDescriptor {
		return []*conn.ChannelDescriptor{{ID: 1, Priority: 1, SendQueueCapacity: 64, RecvMessageCapacity: 4 << 20}}
	}
	var from, to *conn.MConnection
	failed := func(any) {} // closing
	to = conn.NewMConnectionWithConfig(ends[1], channels(), func(_ byte, m []byte) {
		if e.echo.Load() {
			to.Send(1, slices.Clone(m))
		}
		e.got.Add(int64(len(m)))
	}, failed, config)
	from = conn.NewMConnectionWithConfig(ends[0], channels(), func(byte, []byte) { e.back <- struct{}{} }, failed, config)
	for _, c := range []*conn.MConnection{from, to} {
		c.SetLogger(log.NewNopLogger())
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Stop() })
	}
	e.send = func(m []byte) error {
		if !from.Send(1, m) {
			return fmt.Errorf("cometbft did not send")
		}
		return nil
	}
	return e
}

func kithEnds(b testing.TB, opts mconn.Options) endpoints {
	b.Helper()
	x, y := sockets(b)
	e := endpoints{echo: new(atomic.Bool), back: make(chan struct{}, 1), got: new(atomic.Int64)}
	var ends [2]*mconn.Connection
	errs := make(chan error, 2)
	for i, nc := range []net.Conn{x, y} {
		c, err := mconn.NewConnection(nc, opts)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		ends[i] = c
		key := seededKey(b, byte(i+1))
		go func() {
			_, _, err := c.Handshake(b.Context(), p2p.NodeInfo{NodeID: key.Public().NodeID(), Channels: []p2p.ChannelID{1}}, key)
			c.SetChannelLimits(map[p2p.ChannelID]int{1: 4 << 20})
			errs <- err
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	from, to := ends[0], ends[1]
	go func() {
		for {
			_, m, err := to.ReceiveMessage()
			if err != nil {
				return
			}
			if e.echo.Load() {
				_ = to.SendMessage(1, m)
			}
			e.got.Add(int64(len(m)))
			to.Recycle(m)
		}
	}()
	go func() {
		for {
			if _, _, err := from.ReceiveMessage(); err != nil {
				return
			}
			e.back <- struct{}{}
		}
	}()
	e.send = func(m []byte) error {
		for chunk := from.MaxChunk(); len(m) > chunk; m = m[chunk:] {
			if err := from.SendChunk(1, m[:chunk], false); err != nil {
				return err
			}
		}
		return from.SendChunk(1, m, true)
	}
	e.flush = from.Flush
	return e
}

func benchEcho(b *testing.B, e endpoints) {
	e.echo.Store(true)
	message := make([]byte, 100)
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if err := e.send(message); err != nil {
			b.Fatal(err)
		}
		if err := e.flush(); err != nil {
			b.Fatal(err)
		}
		<-e.back
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
}

func benchBulk(b *testing.B, e endpoints, size int) {
	message := make([]byte, size)
	b.SetBytes(int64(size))
	b.ResetTimer()
	for range b.N {
		if err := e.send(message); err != nil {
			b.Fatal(err)
		}
	}
	if err := e.flush(); err != nil {
		b.Fatal(err)
	}
	for want := int64(b.N) * int64(size); e.got.Load() < want; {
		time.Sleep(50 * time.Microsecond)
	}
}
