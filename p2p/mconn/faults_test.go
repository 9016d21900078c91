package mconn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/internal/pb/mconnv1"
	"github.com/kith-p2p/kith/p2p"
)

// Who checks an error of a send against p2p's sentinels finds mconn's, too.
func TestRegressionSentinelsMatchThoseOfP2P(t *testing.T) {
	if !errors.Is(ErrMessageTooLarge, p2p.ErrMessageTooLarge) || !errors.Is(fmt.Errorf("x: %w", ErrMessageTooLarge), p2p.ErrMessageTooLarge) {
		t.Error(ErrMessageTooLarge)
	}
	x, y := tcpPair(t, Options{CometOnly: true})
	if err := x.SendMessage(0x80, nil); !errors.Is(err, p2p.ErrChannelUnsupported) {
		t.Error(err)
	}
	y.SetChannelLimits(map[p2p.ChannelID]int{1: 10})
	if err := x.SendMessage(1, make([]byte, 11)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := y.ReceiveMessage(); !errors.Is(err, p2p.ErrMessageTooLarge) || !errors.Is(err, ErrMessageTooLarge) {
		t.Error(err)
	}
}

// Pings at 10 kHz end the connection within a fraction of a second.
func TestPingsAt10kHz(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := silent(t, Options{})
		seal, _ := aeads(t)
		send := frameCipher{aead: seal}
		go io.Copy(io.Discard, peer)
		var hostile sync.WaitGroup
		defer hostile.Wait()
		hostile.Go(func() {
			for {
				if _, err := peer.Write(sealAll(t, &send, appendControl(nil, packetPing))); err != nil {
					return
				}
				time.Sleep(100 * time.Microsecond)
			}
		})
		start := time.Now()
		_, _, err := c.ReceiveMessage()
		if took := time.Since(start); !errors.Is(err, ErrFlood) || took > 150*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
		if s := c.Stats(); s.Faults != (Faults{Flood: 1}) || s.Sent.Pongs > 3 || s.Received.Pings < noiseBurst || s.Received.Pings > 2*noiseBurst {
			t.Errorf("%+v", s)
		}
		c.Close()
		peer.Close()
	})
}

// A peer that shook hands and then sends a byte every 10 s is dropped when its pong
// is due; until then it holds a frame's worth of memory.
func TestOneByteEvery10s(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := silent(t, Options{})
		seal, _ := aeads(t)
		send := frameCipher{aead: seal}
		stream := sealAll(t, &send, bytes.Repeat(appendMessage(nil, 1, false, make([]byte, 1000)), 100))
		go io.Copy(io.Discard, peer)
		var hostile sync.WaitGroup
		defer hostile.Wait()
		hostile.Go(func() {
			for i := range stream {
				if _, err := peer.Write(stream[i : i+1]); err != nil {
					return
				}
				time.Sleep(10 * time.Second)
			}
		})
		start := time.Now()
		_, _, err := c.ReceiveMessage()
		if took := time.Since(start); !errors.Is(err, ErrPongTimeout) || took != DefaultPingInterval+DefaultPongTimeout {
			t.Errorf("%v after %v", err, took)
		}
		if f := c.Stats().Faults; f != (Faults{PongTimeout: 1}) {
			t.Errorf("%+v", f)
		}
		c.Close()
		peer.Close()
	})
}

// 10,000 channels are announced in no more bytes than a node info may have.
func TestTenThousandChannelsAreAnnounced(t *testing.T) {
	key := seeded(t, 4)
	body, err := proto.Marshal(&mconnv1.NodeInfo{NodeId: string(key.Public().NodeID()), Channels: make([]byte, 10_000)})
	if err != nil || len(body) > maxNodeInfo {
		t.Fatal(len(body), err)
	}
	var packed []byte
	for id := range uint64(10_000) {
		packed = protowire.AppendVarint(packed, id)
	}
	more := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), packed[:9000])
	wide, err := proto.Marshal(&mconnv1.NodeInfo{NodeId: string(key.Public().NodeID())})
	if err != nil {
		t.Fatal(err)
	}
	wide = protowire.AppendBytes(protowire.AppendTag(wide, moreField, protowire.BytesType), more)
	for name, play := range map[string]func(*puppet){
		"comet": func(p *puppet) { p.write(p.auth(key, 0)); p.write(protowire.AppendBytes(nil, body)) },
		"kith": func(p *puppet) {
			p.write(p.auth(key, offerKith))
			p.agreed.kithKeys(offerKith, offerKith)
			p.use(true)
			p.write(protowire.AppendBytes(nil, wide))
		},
	} {
		victim, err := against(t, Options{}, play)
		if !errors.Is(err, ErrNodeInfo) || victim.Stats().Faults != (Faults{NodeInfo: 1}) {
			t.Errorf("%s: %v, %+v", name, err, victim.Stats().Faults)
		}
	}
}

// A transport counts the faults of all its connections, and a connection beside
// them feels nothing.
func TestTransportCountsFaults(t *testing.T) {
	goroutines(t)
	tr := listen(t, Options{})
	shake := func(key p2p.PrivKey) (near, far *Connection) {
		t.Helper()
		nc, err := net.Dial("tcp", tr.endpoint.String()[len("mconn://"):])
		if err != nil {
			t.Fatal(err)
		}
		near = connect(t, nc, Options{})
		accepted, err := tr.Accept()
		if err != nil {
			t.Fatal(err)
		}
		far = accepted.(*Connection)
		own := seeded(t, 3)
		if err := both(func() error {
			_, _, err := near.Handshake(t.Context(), infoOf(key), key)
			return err
		}, func() error {
			_, _, err := far.Handshake(t.Context(), infoOf(own), own)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { near.Close(); far.Close() })
		return near, far
	}
	innocent, served := shake(seeded(t, 4))
	for i := range 5 {
		evil, victim := shake(seeded(t, byte(10+i)))
		if err := evil.SendMessage(0x55, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := victim.ReceiveMessage(); !errors.Is(err, ErrUnknownChannel) {
			t.Error(err)
		}
		// A kith node is told what it did.
		_, _, err := evil.ReceiveMessage()
		if bye, ok := errors.AsType[*GoodbyeError](err); !ok || bye.Reason != "you broke the protocol: message on a channel we do not have: 0x55" {
			t.Error(err)
		}
		if err := both(func() error { return innocent.SendMessage(1, []byte("hi")) }, func() error {
			_, _, err := served.ReceiveMessage()
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	if f := tr.Faults(); f != (Faults{UnknownChannel: 5}) {
		t.Errorf("%+v", f)
	}
	if f := served.Stats().Faults; f.Total() != 0 {
		t.Errorf("%+v", f)
	}
}

// A connection is stale when it was silent for longer than an idle one ever is.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y, _ := pipePair(t, Options{})
		for range 40 { // idle, and pings answered
			time.Sleep(17 * time.Second)
			if x.Stale() || y.Stale() {
				t.Fatal("an idle connection is stale")
			}
		}
		x.Close()
		y.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		c, peer := silent(t, Options{})
		go io.Copy(io.Discard, peer)
		go c.ReceiveMessage()
		time.Sleep(DefaultPingInterval)
		if c.Stale() {
			t.Error("after one interval")
		}
		time.Sleep(DefaultPingInterval/4 + time.Second)
		if !c.Stale() {
			t.Error("not after more than that")
		}
		c.Close()
		peer.Close()
	})
	if connect(t, fakeConn{}, Options{}).Stale() {
		t.Error("before the handshake")
	}
}

// cutConn lets so many more bytes through once it is armed; the write that would
// exceed them fails after a part, and so does every later one.
type cutConn struct {
	net.Conn
	mu    sync.Mutex // guards the rest
	armed bool
	left  int
	late  int // bytes that somebody tried to write after the failure
	dead  bool
}

func (c *cutConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.armed:
	case c.dead:
		c.late += len(b)
		return 0, os.ErrDeadlineExceeded
	case len(b) > c.left:
		c.dead = true
		n, _ := c.Conn.Write(b[:c.left])
		return n, os.ErrDeadlineExceeded // as after a deadline: the socket itself is well
	default:
		c.left -= len(b)
	}
	return c.Conn.Write(b)
}

// A write that fails in the middle of a batch ends the session: what follows never
// reaches the wire, and the peer gets whole messages, a beginning of those that
// were sent, and then an end.
func TestPartialWriteEndsTheSession(t *testing.T) {
	goroutines(t)
	for mode, opts := range modes {
		for cut := 0; cut < 200_000; cut = cut*3 + 500 {
			x, y := rawPair(t)
			nc := &cutConn{Conn: x}
			from, to := pairOver(t, nc, y, opts)
			nc.mu.Lock()
			nc.armed, nc.left = true, cut
			nc.mu.Unlock()
			received := make(chan []int, 1)
			go func() {
				var got []int
				for {
					_, m, err := to.ReceiveMessage()
					if err != nil {
						if !errors.Is(err, io.EOF) {
							t.Errorf("%s, %d bytes: %v", mode, cut, err)
						}
						received <- got
						return
					}
					if len(m) != 1000+int(m[0]) || bytes.Count(m, m[:1]) != len(m) {
						t.Errorf("%s, %d bytes: half a message, %d bytes of number %d", mode, cut, len(m), m[0])
					}
					got = append(got, int(m[0]))
				}
			}()
			var err error
			sent := 0
			for ; err == nil && sent < 250; sent++ { // each message in two chunks, so that batches end inside one
				m := bytes.Repeat([]byte{byte(sent)}, 1000+sent)
				if err = from.SendChunk(1, m[:500], false); err == nil {
					err = from.SendChunk(1, m[500:], true)
				}
			}
			if err == nil {
				err = from.Flush()
			}
			if err == nil {
				t.Fatalf("%s, %d bytes: everything was sent", mode, cut)
			}
			for name, again := range map[string]error{
				"SendChunk": from.SendChunk(1, []byte{1}, true), "Flush": from.Flush(), "SendMessage": from.SendMessage(2, []byte("other")),
			} {
				if again == nil {
					t.Errorf("%s, %d bytes: %s goes on after the failure", mode, cut, name)
				}
			}
			from.ask(wantPing | wantPong)
			nc.mu.Lock()
			if nc.late > 0 {
				t.Errorf("%s, %d bytes: %d more after the failure", mode, cut, nc.late)
			}
			nc.mu.Unlock()
			from.Close()
			for i, n := range <-received {
				if i != n {
					t.Errorf("%s, %d bytes: number %d at place %d", mode, cut, n, i)
				}
			}
			to.Close()
		}
	}
}

// A node with one honest peer beside hostile ones of every kind, all at once: what
// the honest one sends comes back, each hostile one loses its own connection, and
// those that say a byte and no more hold a bounded share of memory.
func TestHostilePeersTouchNoInnocentOne(t *testing.T) {
	goroutines(t)
	tr := listen(t, Options{HandshakeTimeout: time.Minute})
	at := tr.endpoint.String()[len("mconn://"):]
	own := seeded(t, 3)
	var node, hostile, stalled sync.WaitGroup
	node.Go(func() { // the node: it sends back what it receives
		for {
			accepted, err := tr.Accept()
			if err != nil {
				return
			}
			node.Go(func() {
				c := accepted.(*Connection)
				defer c.Close()
				if _, _, err := c.Handshake(t.Context(), infoOf(own), own); err != nil {
					return
				}
				for {
					ch, m, err := c.ReceiveMessage()
					if err != nil || c.SendMessage(ch, m) != nil {
						return
					}
				}
			})
		}
	})
	dial := func() net.Conn {
		nc, err := net.Dial("tcp", at)
		if err != nil {
			t.Error(err)
			return nil
		}
		return nc
	}
	enter := func(key p2p.PrivKey, opts Options) *Connection {
		nc := dial()
		if nc == nil {
			return nil
		}
		c, err := NewConnection(nc, opts)
		if err == nil {
			_, _, err = c.Handshake(t.Context(), infoOf(key), key)
		}
		if err != nil {
			t.Error(err)
		}
		return c
	}
	good := enter(seeded(t, 4), Options{})
	echo := func(n int) {
		sent := bytes.Repeat([]byte{byte(n)}, 1+n*997%20_000)
		if err := good.SendMessage(1, sent); err != nil {
			t.Fatal(n, err)
		}
		if _, got, err := good.ReceiveMessage(); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("message %d: %d of %d bytes, %v", n, len(got), len(sent), err)
		}
	}
	echo(0)

	// A byte, and then nothing for longer than the test takes: as of one every 10 s.
	const slow = 100
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, routines := heap(), runtime.NumGoroutine()
	release := make(chan struct{})
	first := make(chan struct{}, slow)
	for range slow {
		stalled.Go(func() {
			nc := dial()
			if nc == nil {
				first <- struct{}{}
				return
			}
			defer nc.Close()
			nc.Write([]byte{0x22})
			io.ReadFull(nc, make([]byte, ephemeralSize)) // the node is in its handshake
			first <- struct{}{}
			<-release
		})
	}
	for range slow {
		<-first
	}
	if grown, most := int64(heap())-int64(before), int64(slow*32<<10); grown > most {
		t.Errorf("%d connections in their handshake hold %d bytes, at most %d are allowed", slow, grown, most)
	}
	if n := runtime.NumGoroutine() - routines; n > 4*slow { // one of each is the test's
		t.Errorf("%d goroutines more for %d connections", n, slow)
	}
	echo(1)

	// The genuine bytes of a handshake, cut at every byte of the key and at many more.
	genuine := transcripts(t, Options{CometOnly: true})[0]
	hostile.Go(func() {
		for n := 0; n < len(genuine); n++ {
			if n > ephemeralSize {
				n += 30
			}
			if nc := dial(); nc != nil {
				nc.Write(genuine[:min(n, len(genuine))])
				nc.Close()
			}
		}
	})
	// Pings, as fast as they go.
	for i := range 4 {
		hostile.Go(func() {
			c := enter(seeded(t, byte(20+i)), Options{CometOnly: i%2 == 0})
			if c == nil {
				return
			}
			defer c.Close()
			for ping := bytes.Repeat(appendControl(nil, packetPing), 10); c.take(); {
				err := c.out.control(ping)
				c.give()
				if err != nil {
					return
				}
			}
		})
	}
	// Lengths of 2^31 and 2^63, in front of a packet and of a handshake.
	for i, length := range []uint64{1 << 31, 1 << 63} {
		hostile.Go(func() {
			if nc := dial(); nc != nil {
				nc.Write(append(protowire.AppendVarint(nil, length), make([]byte, ephemeralSize)...))
				io.Copy(io.Discard, nc)
				nc.Close()
			}
		})
		for _, opts := range []Options{{}, {CometOnly: true}} {
			hostile.Go(func() {
				c := enter(seeded(t, byte(30+i)), opts)
				if c == nil {
					return
				}
				defer c.Close()
				if c.take() {
					if err := c.out.control(protowire.AppendVarint(nil, length)); err != nil {
						t.Error(err)
					}
					c.give()
				}
				if _, _, err := c.ReceiveMessage(); !errors.Is(err, io.EOF) {
					t.Errorf("after a length of %d: %v", length, err)
				}
			})
		}
	}
	for n := range 200 {
		echo(n)
	}
	hostile.Wait()
	for n := range 20 {
		echo(n)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		f := tr.Faults()
		if f.Flood == 4 && f.PacketTooLarge == 4 && f.Cut > 0 && f.EphemeralKey >= 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%+v", f)
			break
		}
	}
	close(release)
	stalled.Wait()
	good.Close()
	tr.Close()
	node.Wait()
}
