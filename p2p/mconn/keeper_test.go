package mconn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipePair is a pair under virtual time, both of whose ends are read.
func pipePair(t *testing.T, opts Options) (x, y *Connection, ended chan error) {
	t.Helper()
	nx, ny := net.Pipe()
	x, y = pairOver(t, nx, ny, opts)
	ended = make(chan error, 2)
	for _, c := range []*Connection{x, y} {
		go func() {
			for {
				if _, _, err := c.ReceiveMessage(); err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	return x, y, ended
}

// An idle connection pings every minute, and lives as long as pongs come.
func TestPings(t *testing.T) {
	for _, opts := range modes {
		synctest.Test(t, func(t *testing.T) {
			x, y, ended := pipePair(t, opts)
			time.Sleep(time.Hour + time.Second)
			for _, c := range []*Connection{x, y} {
				if s := c.Stats(); s.Sent.Pings != 60 || s.Sent.Pongs != 60 || s.Received.Pings != 60 || s.Received.Pongs != 60 {
					t.Errorf("%+v", s)
				}
			}
			x.Close()
			for range 2 {
				if err := <-ended; !errors.Is(err, io.EOF) {
					t.Error(err)
				}
			}
			y.Close()
		})
	}
}

// The round trip is known from the handshake on, and each pong measures it anew.
func TestRTT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nx, ny := net.Pipe()
		// y's own ping would go out at the same instant, before the pong or with it.
		x, y := pairOf(t, nx, delayed{ny, 30 * time.Millisecond}, Options{}, Options{PingInterval: time.Hour})
		if got := x.RTT(); got < 30*time.Millisecond || got > 100*time.Millisecond {
			t.Error("after the handshake", got)
		}
		go x.ReceiveMessage()
		go y.ReceiveMessage()
		time.Sleep(61 * time.Second)
		if got := x.RTT(); got != 30*time.Millisecond {
			t.Error("after a ping", got)
		}
		x.Close()
		y.Close()
	})
}

// delayed writes late.
type delayed struct {
	net.Conn
	by time.Duration
}

func (d delayed) Write(b []byte) (int, error) {
	time.Sleep(d.by)
	return d.Conn.Write(b)
}

// silent is a peer that shook hands and reads, but says nothing.
func silent(t *testing.T, opts Options) (*Connection, net.Conn) {
	t.Helper()
	nx, ny := net.Pipe()
	c := connect(t, nx, opts)
	_, open := aeads(t)
	return shaken(c, false, open), ny
}

// A ping that is not answered within 45 s ends the connection, also when the
// peer takes nothing in, so that the ping itself is stuck.
func TestPongTimeout(t *testing.T) {
	for name, deaf := range map[string]bool{"silent": false, "deaf": true} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := silent(t, Options{})
			if !deaf {
				go io.Copy(io.Discard, peer)
			}
			start := time.Now()
			sent := make(chan error, 1)
			go func() {
				for {
					if err := c.SendMessage(1, make([]byte, 10_000)); err != nil {
						sent <- err
						return
					}
					time.Sleep(time.Second)
				}
			}()
			_, _, err := c.ReceiveMessage()
			if took := time.Since(start); !errors.Is(err, ErrPongTimeout) || took != DefaultPingInterval+DefaultPongTimeout {
				t.Errorf("%s: %v after %v", name, err, took)
			}
			if err := <-sent; !errors.Is(err, ErrPongTimeout) {
				t.Errorf("%s: sending: %v", name, err)
			}
			c.Close()
			peer.Close()
		})
	}
}

// Pings in numbers share pongs, at most ten a second; the read loop never waits
// for the writer, not even while that is stuck.
func TestPingsShareAPong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nx, ny := net.Pipe()
		x, y := pairOver(t, nx, ny, Options{})
		go x.ReceiveMessage()
		got := make(chan message, 1)
		go func() {
			for {
				ch, m, err := y.ReceiveMessage()
				if err != nil {
					return
				}
				got <- message{ch, m}
			}
		}()
		for range 100 {
			if !x.take() {
				t.Fatal("closed")
			}
			for range 5 {
				if err := x.out.control(appendControl(nil, packetPing)); err != nil {
					t.Fatal(err)
				}
			}
			x.give()
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		if s := y.Stats(); s.Received.Pings != 500 || s.Sent.Pongs < 9 || s.Sent.Pongs > 11 {
			t.Errorf("%+v", s)
		}
		x.Close()
		y.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		c, peer := silent(t, Options{})
		go func() { // a writer that is stuck: the peer never reads
			c.SendMessage(1, make([]byte, 1<<20))
		}()
		synctest.Wait()
		seal, _ := aeads(t)
		send := frameCipher{aead: seal}
		go func() {
			for range 20 {
				peer.Write(sealAll(t, &send, bytes.Repeat(appendControl(nil, packetPing), 20)))
			}
			peer.Write(sealAll(t, &send, appendMessage(nil, 1, true, []byte("after the pings"))))
		}()
		if _, m, err := c.ReceiveMessage(); string(m) != "after the pings" || err != nil {
			t.Errorf("%q, %v", m, err)
		}
		if s := c.Stats(); s.Received.Pings != 400 || s.Sent.Pongs != 0 {
			t.Errorf("%+v", s)
		}
		c.Close()
		peer.Close()
	})
}

// A limit on what is sent is kept over time, lets bursts of a tenth of a second
// through, and holds up neither pongs nor Close.
func TestSendRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nx, ny := net.Pipe()
		x, y := pairOver(t, nx, ny, Options{SendRate: 100_000})
		go x.ReceiveMessage()
		const size, n = 20_000, 50
		received := make(chan error, 1)
		go func() {
			_, err := receiveAll(y, n)
			received <- err
		}()
		start := time.Now()
		for range n {
			if err := x.SendMessage(1, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-received; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 9500*time.Millisecond || took > 10200*time.Millisecond {
			t.Errorf("1 MB at 100 kB/s took %v", took)
		}
		go y.ReceiveMessage()
		if err := x.SendMessage(1, make([]byte, 500_000)); err != nil { // into debt
			t.Error(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- x.SendMessage(1, []byte("late")) }()
		synctest.Wait()
		x.Close()
		if err := <-sent; !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		y.Close()
	})
}

// A limit on what is received slows the peer down and forgives it the pongs
// that come late for that.
func TestRecvRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nx, ny := net.Pipe()
		// Whole batches are in the way of x's pongs, for a minute each.
		x, y := pairOf(t, nx, ny, Options{LongQueues: true, PingInterval: 100 * time.Hour}, Options{RecvRate: 1000})
		go x.ReceiveMessage()
		start := time.Now()
		go func() {
			for range 30 {
				if x.SendMessage(1, make([]byte, 20_000)) != nil {
					return
				}
			}
		}()
		if _, err := receiveAll(y, 30); err != nil {
			t.Fatal(err, time.Since(start))
		}
		if took := time.Since(start); took < 595*time.Second || took > 640*time.Second {
			t.Errorf("600 kB at 1 kB/s took %v", took)
		}
		// Close does not wait for the limit.
		go x.SendMessage(1, make([]byte, 100_000))
		ended := make(chan error, 1)
		go func() {
			_, _, err := y.ReceiveMessage()
			ended <- err
		}()
		time.Sleep(5 * time.Second)
		before := time.Now()
		y.Close()
		if err := <-ended; err != io.EOF || time.Since(before) > 0 {
			t.Error(err, time.Since(before))
		}
		x.Close()
	})
}

// What waits for RecvRate is the reading of the socket and nothing else: under
// 30 minutes of as much data as there may be at 1 kB/s both ends answer every ping
// in time, what came in one read is handed out in the same instant, and Close
// returns at once.
func TestRecvRateHoldsUpDataOnly(t *testing.T) {
	for name, theirs := range map[string]Options{"kith": {LongQueues: true}, "comet": {LongQueues: true, CometOnly: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nx, ny := net.Pipe()
				x, y := pairOf(t, nx, ny, theirs, Options{RecvRate: 1000})
				start := time.Now()
				ended := make(chan error, 2)
				for _, c := range []*Connection{x, y} {
					go func() {
						for {
							if _, _, err := c.ReceiveMessage(); err != nil {
								ended <- err
								return
							}
						}
					}()
				}
				go func() {
					for x.SendMessage(1, make([]byte, 20_000)) == nil {
					}
				}()
				select {
				case err := <-ended:
					t.Fatalf("it ended after %v: %v", time.Since(start), err)
				case <-time.After(30*time.Minute + 50*time.Second):
				}
				sx, sy := x.Stats(), y.Stats()
				if sx.Sent.Pings < 30 || sx.Received.Pongs < 30 || sy.Sent.Pongs < 30 || sy.Sent.Pings != 30 || sx.Sent.Pongs != 30 || sy.Received.Pongs < 29 {
					t.Errorf("x %+v\ny %+v", sx, sy)
				}
				if got := sy.Received.Bytes; got < 1_800_000 || got > 1_900_000 {
					t.Errorf("%d bytes in 30:50 at 1 kB/s", got)
				}
				before := time.Now() // y waits: it always has too much
				y.Close()
				if err := <-ended; !errors.Is(err, io.EOF) || time.Since(before) > 0 {
					t.Errorf("after Close: %v in %v", err, time.Since(before))
				}
				x.Close()
			})
		})
	}
}

// A ping on a connection that is limited but idle is answered as if there were no
// limit, and so is one that came in the same read as what made the debt.
func TestRecvRateAndAnIdlePing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := silent(t, Options{RecvRate: 100_000})
		seal, open := aeads(t)
		send, receive := frameCipher{aead: seal}, frameCipher{aead: open}
		type pong struct {
			data []byte
			at   time.Time
		}
		pongs := make(chan pong, 10)
		go func() {
			for {
				sealed := make([]byte, frameSealed)
				if _, err := io.ReadFull(peer, sealed); err != nil {
					return
				}
				data, err := openAll(receive, bytes.NewReader(sealed))
				if err != io.EOF {
					t.Error(err)
				}
				receive.next()
				pongs <- pong{data, time.Now()}
			}
		}()
		received := make(chan time.Time, 10)
		go func() {
			for {
				if _, _, err := c.ReceiveMessage(); err != nil {
					return
				}
				received <- time.Now()
			}
		}()
		for _, in := range [][]byte{
			appendControl(nil, packetPing),
			slices.Concat(appendMessage(nil, 1, false, make([]byte, 1000)), appendMessage(nil, 1, false, make([]byte, 1000)), appendMessage(nil, 1, true, make([]byte, 900)), appendControl(nil, packetPing)),
		} {
			start := time.Now()
			if _, err := peer.Write(sealAll(t, &send, in)); err != nil {
				t.Fatal(err)
			}
			if p := <-pongs; !bytes.Equal(p.data, appendControl(nil, packetPong)) || p.at != start {
				t.Errorf("%x after %v", p.data, p.at.Sub(start))
			}
			if len(in) > 10 {
				if at := <-received; at != start {
					t.Errorf("the message came after %v", at.Sub(start))
				}
			}
			time.Sleep(time.Second) // the debt is paid, and another pong may go
		}
		c.Close()
		peer.Close()
	})
}

// A connection has the goroutines that its user starts, to receive and to send, and
// no other: not while it is idle, nor after pings and pongs.
func TestTwoGoroutinesAPeer(t *testing.T) {
	goroutines(t)
	settle := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, want at most %d:\n%s", runtime.NumGoroutine(), want, stacks[:runtime.Stack(stacks, true)])
			}
		}
	}
	const pairs = 20
	start := runtime.NumGoroutine()
	var all []*Connection
	for range pairs {
		x, y := tcpPair(t, Options{})
		all = append(all, x, y)
	}
	settle(start)
	var users sync.WaitGroup
	stop := make(chan struct{})
	for _, c := range all {
		users.Go(func() {
			for {
				if _, _, err := c.ReceiveMessage(); err != nil {
					return
				}
			}
		})
		users.Go(func() { // the sender
			if err := c.SendMessage(1, []byte("x")); err != nil {
				t.Error(err)
			}
			<-stop
		})
	}
	settle(start + 2*len(all))
	for _, c := range all {
		c.set(c.keeper.pings, 0)
	}
	for deadline := time.Now().Add(20 * time.Second); slices.ContainsFunc(all, func(c *Connection) bool { return c.Stats().Received.Pongs == 0 }); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no pongs")
		}
	}
	settle(start + 2*len(all))
	close(stop)
	for _, c := range all {
		c.Close()
	}
	users.Wait()
}

// On a slow link batches and chunks shrink to what drains in 2 ms, on a fast
// one they grow again, and with LongQueues they stay.
func TestBatchesFollowTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1_250_000 // 10 Mbit/s
		slow := true
		w := newWriter(fakeConn{}, new(writeStats))
		seal, _ := aeads(t)
		w.cipher = frameCipher{aead: seal}
		w.conn = paced{fakeConn{}, func(n int) {
			if slow {
				time.Sleep(time.Duration(n) * time.Second / rate)
			}
		}}
		c := &Connection{out: w}
		data := make([]byte, packetData)
		push := func(n int) {
			for range n {
				if err := w.message(1, data, true); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := c.MaxChunk(); got != 16<<10 {
			t.Error("at first", got)
		}
		push(2000)
		if got := w.limit.Load(); got < 2000 || got > 3000 || c.MaxChunk() != 1024 {
			t.Errorf("on the slow link %d, chunks of %d", got, c.MaxChunk())
		}
		slow = false
		push(2000)
		if got := w.limit.Load(); got != maxBatch || c.MaxChunk() != 16<<10 {
			t.Errorf("on the fast link %d, chunks of %d", got, c.MaxChunk())
		}
		slow, w.long = true, true
		push(2000)
		if got := w.limit.Load(); got != maxBatch {
			t.Errorf("with LongQueues %d", got)
		}
	})
}

type paced struct {
	fakeConn
	write func(int)
}

func (p paced) Write(b []byte) (int, error) { p.write(len(b)); return len(b), nil }

func TestBucket(t *testing.T) {
	now := time.Now()
	b := newBucket(100, 10, now)
	for i, c := range []struct {
		after time.Duration
		n     float64
		want  time.Duration
	}{{0, 10, 0}, {0, 5, 50 * time.Millisecond}, {50 * time.Millisecond, 0, 0}, {time.Hour, 10, 0}, {0, 100, time.Second}, {500 * time.Millisecond, 0, 500 * time.Millisecond}} {
		now = now.Add(c.after)
		if got := b.take(c.n, now); got != c.want {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
	}
	none := bucket{}
	if none.take(1e9, now) != 0 {
		t.Error("the zero bucket limits")
	}
}

// A turn is one holder's, is waited for, and ends with the connection.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turn := turn{wake: make(chan struct{}, 1)}
		closed := make(chan struct{})
		held := 0
		for range 3 {
			go func() {
				for range 100 {
					if !turn.take(closed) {
						return
					}
					if held++; held != 1 {
						t.Error("two holders")
					}
					time.Sleep(time.Millisecond)
					held--
					turn.give()
				}
			}()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !turn.take(closed) {
			t.Fatal("not free")
		}
		got := make(chan bool)
		go func() { got <- turn.take(closed) }()
		synctest.Wait()
		close(closed)
		if <-got {
			t.Error("taken twice")
		}
	})
}
