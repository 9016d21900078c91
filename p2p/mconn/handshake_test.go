package mconn

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/internal/pb/mconnv1"
	"github.com/kith-p2p/kith/p2p"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A tap keeps what was read.
type tap struct {
	net.Conn
	got bytes.Buffer
}

func (c *tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.got.Write(b[:n])
	return n, err
}

// connect makes a connection for a test.
func connect(t testing.TB, nc net.Conn, opts Options) *Connection {
	t.Helper()
	c, err := NewConnection(nc, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// transcripts are what each side of a handshake receives, ephemeral keys 1 and 2
// and node keys 3 and 4, with one message sent after it in each direction.
func transcripts(t testing.TB, opts Options) [2][]byte {
	t.Helper()
	x, y := net.Pipe()
	taps := [2]*tap{{Conn: x}, {Conn: y}}
	run := func(i int) func() error {
		return func() error {
			c := connect(t, taps[i], opts)
			key := seeded(t, byte(3+i))
			_, _, err := c.shake(context.Background(), infoOf(key), key, ephemeral(t, byte(1+i)))
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			return nil
		}
	}
	if err := both(run(0), run(1)); err != nil {
		t.Fatal(err)
	}
	return [2][]byte{taps[0].got.Bytes(), taps[1].got.Bytes()}
}

// replay is the victim: the side that received in, receiving it again.
func replay(t testing.TB, side int, opts Options, in io.Reader) (*Connection, error) {
	t.Helper()
	c := connect(t, fakeConn{r: in}, opts)
	key := seeded(t, byte(3+side))
	_, _, err := c.shake(context.Background(), infoOf(key), key, ephemeral(t, byte(1+side)))
	return c, err
}

// modes are the two ways to shake hands.
var modes = map[string]Options{"comet": {CometOnly: true}, "kith": {}}

func TestHandshake(t *testing.T) {
	goroutines(t)
	for _, c := range []struct {
		x, y Options
		kith bool
	}{
		{Options{CometOnly: true}, Options{CometOnly: true}, false},
		{Options{CometOnly: true}, Options{}, false},
		{Options{}, Options{CometOnly: true}, false},
		{Options{}, Options{}, true},
	} {
		for name, pipe := range map[string]func(testing.TB) (net.Conn, net.Conn){
			"tcp": rawPair, "pipe": func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() },
		} {
			nx, ny := pipe(t)
			x, y := connect(t, nx, c.x), connect(t, ny, c.y)
			keys := [2]p2p.PrivKey{seeded(t, 3), seeded(t, 4)}
			infos := [2]p2p.NodeInfo{infoOf(keys[0], 1, 2), infoOf(keys[1], 2, 0x55)}
			if c.kith {
				infos[0] = infoOf(keys[0], 1, 2, 0x1234)
				infos[0].Extensions = p2p.Extensions{Kith: true, RequestChannels: []p2p.ChannelID{2}, ListenAddrs: []string{"mconn://a@b:1"}}
				infos[1].Extensions.Kith = true
			}
			check := func(c *Connection, own, peer int) func() error {
				return func() error {
					if info, key := c.Peer(); !key.IsZero() || info.NodeID != "" {
						t.Error("the peer is known before the handshake")
					}
					info, key, err := c.Handshake(t.Context(), infos[own], keys[own])
					if err != nil {
						return err
					}
					if key != keys[peer].Public() || !reflect.DeepEqual(info, infos[peer]) {
						t.Errorf("%s: got %+v, want %+v", name, info, infos[peer])
					}
					if again, k := c.Peer(); k != key || !reflect.DeepEqual(again, info) {
						t.Error("Peer says otherwise")
					}
					return nil
				}
			}
			if err := both(check(x, 0, 1), check(y, 1, 0)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if x.kith != c.kith || y.kith != c.kith {
				t.Errorf("%s: kith is %v and %v, want %v", name, x.kith, y.kith, c.kith)
			}
			if _, _, err := x.Handshake(t.Context(), infos[0], keys[0]); !errors.Is(err, ErrHandshake) {
				t.Error("a second handshake:", err)
			}
			x.Close()
			y.Close()
		}
	}
}

// A middle that changes any one bit of what either side receives in the
// handshake is refused, in both roles and both formats. What came before the
// changed bit is as it was, so each bit is tried on a victim that stands where the
// handshake then stands; the first bit of every 16th byte takes the whole way.
func TestTamperingWithTheHandshake(t *testing.T) {
	for name, opts := range modes {
		for side, in := range transcripts(t, opts) {
			t.Run(fmt.Sprintf("%s/%d", name, side), func(t *testing.T) {
				stage := stages(t, side, opts, in)
				whole := func(stream []byte) error {
					c, err := replay(t, side, opts, bytes.NewReader(stream))
					c.Close()
					return err
				}
				for i, run := range append(stage, whole) {
					if err := run(in); err != nil {
						t.Fatalf("stage %d as it was: %v", i, err)
					}
				}
				stream := bytes.Clone(in)
				for bit := range 8 * len(stream) {
					run := stage[2]
					if bit/8 < ephemeralSize {
						run = whole
					} else if bit/8 < ephemeralSize+frameSealed {
						run = stage[1]
					}
					stream[bit/8] ^= 1 << (bit % 8)
					err := run(stream)
					if err == nil || bit%128 == 0 && whole(stream) == nil {
						t.Fatalf("bit %d of byte %d changed, and taken", bit%8, bit/8)
					}
					stream[bit/8] ^= 1 << (bit % 8)
				}
				t.Logf("%d bits", 8*len(stream))
			})
		}
	}
}

// stages are the three steps of a victim's handshake, each on a victim for whom
// the steps before went as they did in the transcript: only their results are
// kept, so that nothing is signed or agreed on again.
func stages(t *testing.T, side int, opts Options, genuine []byte) []func(stream []byte) error {
	t.Helper()
	key := seeded(t, byte(3+side))
	at := func(from int, stream []byte) *handshake {
		c := connect(t, fakeConn{r: bytes.NewReader(stream[from:])}, opts)
		return &handshake{c: c, info: infoOf(key), sign: key}
	}
	first := at(0, genuine)
	agreed, err := first.agree(ephemeral(t, byte(1+side)))
	if err != nil {
		t.Fatal(err)
	}
	common := [2]frameCipher{first.c.in.cipher, first.c.out.cipher}
	offer := offerKith
	if opts.CometOnly {
		offer = 0
	}
	proof, err := first.proof(agreed, offer)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := first.authenticate(agreed, proof)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.upgrade(agreed, offer, theirs); err != nil {
		t.Fatal(err)
	}
	last := [2]frameCipher{first.c.in.cipher, first.c.out.cipher}
	return []func([]byte) error{
		func(stream []byte) error {
			_, err := at(0, stream).agree(ephemeral(t, byte(1+side)))
			return err
		},
		func(stream []byte) error {
			h := at(ephemeralSize, stream)
			h.c.in.cipher, h.c.out.cipher = common[0], common[1]
			_, err := h.authenticate(agreed, proof)
			return err
		},
		func(stream []byte) error {
			h := at(ephemeralSize+frameSealed, stream)
			h.c.in.cipher, h.c.out.cipher, h.c.kith, h.key = last[0], last[1], first.c.kith, first.key
			return h.introduce()
		},
	}
}

// Half a handshake, ended at every byte, is an end: nothing panics, nothing
// hangs, nothing is left.
func TestHalfHandshakes(t *testing.T) {
	goroutines(t)
	for name, opts := range modes {
		for side, in := range transcripts(t, opts) {
			for n := range in {
				victim, err := replay(t, side, opts, bytes.NewReader(in[:n]))
				shook, ok := errors.AsType[*HandshakeError](err)
				if !ok || !errors.Is(err, io.EOF) {
					t.Fatalf("%s, %d bytes: %v", name, n, err)
				}
				stage := "node info"
				if n < ephemeralSize {
					stage = "key exchange"
				} else if n < ephemeralSize+frameSealed {
					stage = "authentication"
				}
				if shook.Stage != stage || shook.Peer.IsZero() != (stage != "node info") {
					t.Fatalf("%s, %d bytes: %v, peer %v", name, n, err, shook.Peer)
				}
				if !strings.Contains(err.Error(), "closed the connection") {
					t.Fatal(err)
				}
				if f := victim.Stats().Faults; f != (Faults{Cut: 1}) {
					t.Fatalf("%s, %d bytes: %+v", name, n, f)
				}
			}
		}
	}
}

// A peer that sends one byte every 10 s is dropped at the handshake's deadline,
// one that sends nothing as well; a context that ends is obeyed at once.
func TestSlowHandshakes(t *testing.T) {
	in := transcripts(t, Options{})[0]
	for name, c := range map[string]struct {
		pause, deadline, want time.Duration
		cause                 error
	}{
		"one byte every 10 s": {10 * time.Second, time.Hour, DefaultHandshakeTimeout, context.DeadlineExceeded},
		"nothing":             {time.Hour, time.Hour, DefaultHandshakeTimeout, context.DeadlineExceeded},
		"a context of 3 s":    {10 * time.Second, 3 * time.Second, 3 * time.Second, context.DeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			x, y := net.Pipe()
			go io.Copy(io.Discard, y)
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				for i := range in {
					select {
					case <-time.After(c.pause):
					case <-stop:
						return
					}
					if _, err := y.Write(in[i : i+1]); err != nil {
						return
					}
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
			defer cancel()
			start := time.Now()
			key := seeded(t, 3)
			victim := connect(t, x, Options{})
			_, _, err := victim.Handshake(ctx, infoOf(key), key)
			if f := victim.Stats().Faults; f != (Faults{Late: 1}) {
				t.Errorf("%s: %+v", name, f)
			}
			if took := time.Since(start); took != c.want || !errors.Is(err, c.cause) {
				t.Errorf("%s: %v after %v, want %v after %v", name, err, took, c.cause, c.want)
			}
			y.Close()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		defer y.Close()
		c := connect(t, x, Options{})
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("shutting down")
		time.AfterFunc(time.Second, func() { cancel(why) })
		key := seeded(t, 3)
		start := time.Now()
		if _, _, err := c.Handshake(ctx, infoOf(key), key); !errors.Is(err, why) || time.Since(start) != time.Second {
			t.Error(err, time.Since(start))
		}
		if _, _, err := c.ReceiveMessage(); !errors.Is(err, ErrHandshake) {
			t.Error(err)
		}
		// Close during a handshake.
		x, y = net.Pipe()
		defer y.Close()
		c = connect(t, x, Options{})
		time.AfterFunc(time.Second, func() { c.Close() })
		if _, _, err := c.Handshake(t.Context(), infoOf(key), key); !errors.Is(err, io.EOF) || strings.Contains(err.Error(), "it closed") {
			t.Error(err)
		}
	})
}

// A puppet is a peer that speaks as the test says.
type puppet struct {
	t             testing.TB
	nc            net.Conn
	eph           *ecdh.PrivateKey
	agreed        *agreement
	send, receive frameCipher
}

// newPuppet exchanges ephemeral keys with the peer.
func newPuppet(t testing.TB, nc net.Conn) *puppet {
	p := &puppet{t: t, nc: nc, eph: ephemeral(t, 9)}
	var wg sync.WaitGroup
	wg.Go(func() { nc.Write(ephemeralMessage(p.eph.PublicKey())) })
	theirs := make([]byte, ephemeralSize)
	_, err := io.ReadFull(nc, theirs)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	remote, err := parseEphemeral(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if p.agreed, err = agree(p.eph, remote); err != nil {
		t.Fatal(err)
	}
	p.use(false)
	return p
}

func (p *puppet) use(wide bool) {
	send, receive, err := p.agreed.ciphers()
	if err != nil {
		p.t.Fatal(err)
	}
	p.send, p.receive = frameCipher{aead: send, wide: wide}, frameCipher{aead: receive, wide: wide}
}

// write seals and sends; a peer that has gone does not matter.
func (p *puppet) write(data []byte) { p.nc.Write(sealAll(p.t, &p.send, data)) }

// auth is a proof with the right signature.
func (p *puppet) auth(key p2p.PrivKey, offer uint64) []byte {
	sig, err := key.Sign(p.agreed.challenge)
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := encodeAuth(key.Public(), sig, offer)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// against runs a puppet against a victim and returns how the victim's handshake
// ended.
func against(t *testing.T, opts Options, play func(*puppet)) (*Connection, error) {
	t.Helper()
	x, y := rawPair(t)
	c := connect(t, x, opts)
	done := make(chan struct{})
	go func() {
		defer close(done)
		play(newPuppet(t, y))
	}()
	key := seeded(t, 3)
	_, _, err := c.Handshake(t.Context(), infoOf(key), key)
	<-done
	t.Cleanup(func() { c.Close() })
	return c, err
}

func TestEvilPeers(t *testing.T) {
	goroutines(t)
	key, other := seeded(t, 4), seeded(t, 5)
	info := func(id p2p.NodeID) []byte {
		i := infoOf(key)
		i.NodeID = id
		b, err := encodeNodeInfo(i, false)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	length := func(n uint64) []byte { return binary.AppendUvarint(nil, n) }
	negative := length(1<<64 - 1)
	for name, c := range map[string]struct {
		play func(*puppet)
		want error
	}{
		"honest": {func(p *puppet) { p.write(p.auth(key, 0)); p.write(info(key.Public().NodeID())) }, nil},
		"all in one frame": {func(p *puppet) {
			p.write(append(p.auth(key, 0), info(key.Public().NodeID())...))
		}, nil},
		"byte by byte": {func(p *puppet) {
			for _, b := range append(p.auth(key, 0), info(key.Public().NodeID())...) {
				p.write([]byte{b})
			}
		}, nil},
		"an offer from the future": {func(p *puppet) { p.write(p.auth(key, 1<<40)); p.write(info(key.Public().NodeID())) }, nil},
		"another node's id":        {func(p *puppet) { p.write(p.auth(key, 0)); p.write(info(other.Public().NodeID())) }, ErrNodeInfo},
		"no id":                    {func(p *puppet) { p.write(p.auth(key, 0)); p.write(info("")) }, ErrNodeInfo},
		"another node's key": {func(p *puppet) {
			sig, _ := key.Sign(p.agreed.challenge)
			b, _ := encodeAuth(other.Public(), sig, 0)
			p.write(b)
		}, ErrAuth},
		"a signature of another session": {func(p *puppet) {
			sig, _ := key.Sign(bytes.Repeat([]byte{7}, 32))
			b, _ := encodeAuth(key.Public(), sig, 0)
			p.write(b)
		}, ErrAuth},
		"no signature": {func(p *puppet) { b, _ := encodeAuth(key.Public(), nil, 0); p.write(b) }, ErrAuth},
		"the zero key": {func(p *puppet) { b, _ := encodeAuth(p2p.PubKey{}, make([]byte, 64), 0); p.write(b) }, ErrAuth},
		"a short key": {func(p *puppet) {
			b, _ := proto.Marshal(&mconnv1.AuthSigMessage{PubKey: &mconnv1.PublicKey{Sum: &mconnv1.PublicKey_Ed25519{Ed25519: []byte{1}}}})
			p.write(protowire.AppendBytes(nil, b))
		}, ErrAuth},
		"our proof sent back": {func(p *puppet) {
			frame := make([]byte, frameSealed)
			if _, err := io.ReadFull(p.nc, frame); err == nil {
				got, _ := openAll(p.receive, bytes.NewReader(frame))
				p.write(got)
			}
		}, ErrAuth},
		"a proof in clear":       {func(p *puppet) { p.nc.Write(make([]byte, frameSealed)) }, ErrDecrypt},
		"a proof too long":       {func(p *puppet) { p.write(length(maxAuth + 1)) }, ErrPacketTooLarge},
		"a proof of 2^31":        {func(p *puppet) { p.write(length(1 << 31)) }, ErrPacketTooLarge},
		"a proof of 2^63":        {func(p *puppet) { p.write(length(1 << 63)) }, ErrPacketTooLarge},
		"a proof of -1":          {func(p *puppet) { p.write(negative) }, ErrPacketTooLarge},
		"a proof without length": {func(p *puppet) { p.write(bytes.Repeat([]byte{0x80}, 20)) }, ErrMalformed},
		"a node info too long":   {func(p *puppet) { p.write(p.auth(key, 0)); p.write(length(maxNodeInfo + 1)) }, ErrNodeInfo},
		"a node info of 2^63":    {func(p *puppet) { p.write(p.auth(key, 0)); p.write(length(1 << 63)) }, ErrNodeInfo},
		"garbage for node info":  {func(p *puppet) { p.write(p.auth(key, 0)); p.write([]byte{3, 0x0a, 9, 9}) }, ErrNodeInfo},
		"empty frames": {func(p *puppet) {
			frame := make([]byte, frameHead+frameData)
			for range 2 * noiseBurst {
				p.nc.Write(p.send.aead.Seal(nil, p.send.nonce[:], frame, nil))
				p.send.next()
			}
		}, ErrFlood},
		"kith without kith's frames": {func(p *puppet) { p.write(p.auth(key, offerKith)); p.write(info(key.Public().NodeID())) }, errAny},
		"kith with the old keys": {func(p *puppet) {
			p.write(p.auth(key, offerKith))
			p.send.wide = true
			p.write(info(key.Public().NodeID()))
		}, ErrDecrypt},
		"kith with another offer in the keys": {func(p *puppet) {
			p.write(p.auth(key, offerKith|2))
			p.agreed.kithKeys(offerKith, offerKith)
			p.use(true)
			p.write(info(key.Public().NodeID()))
		}, ErrDecrypt},
		"kith with more in the proof's frame": {func(p *puppet) { p.write(append(p.auth(key, offerKith), 1, 2, 3)) }, ErrFrame},
	} {
		t.Run(name, func(t *testing.T) {
			victim, err := against(t, Options{}, func(p *puppet) {
				c.play(p)
				p.nc.(*net.TCPConn).CloseWrite()
			})
			if c.want == errAny && err != nil {
				return
			}
			if !errors.Is(err, c.want) || err == nil && c.want != nil {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err == nil && victim.kith {
				t.Error("it is taken for kith")
			}
			if _, ok := errors.AsType[*HandshakeError](err); err != nil && !ok {
				t.Errorf("%T", err)
			}
			counted(t, victim.Stats().Faults, c.want)
		})
	}
}

// errAny stands for whatever error.
var errAny = errors.New("any error")

// A middle that speaks SecretConnection with both sides cannot pass the proofs on.
func TestManInTheMiddle(t *testing.T) {
	x, mx := rawPair(t)
	my, y := rawPair(t)
	victims := [2]*Connection{connect(t, x, Options{}), connect(t, y, Options{})}
	var middle sync.WaitGroup
	left, right := make(chan []byte, 1), make(chan []byte, 1)
	for _, side := range []struct {
		nc       net.Conn
		out, in_ chan []byte
	}{{mx, left, right}, {my, right, left}} {
		middle.Go(func() {
			p := newPuppet(t, side.nc)
			frame := make([]byte, frameSealed)
			if _, err := io.ReadFull(side.nc, frame); err != nil {
				t.Error(err)
			}
			proof, _ := openAll(p.receive, bytes.NewReader(frame))
			side.out <- proof
			p.write(<-side.in_)
		})
	}
	for i, c := range victims {
		middle.Go(func() {
			key := seeded(t, byte(3+i))
			if _, _, err := c.Handshake(t.Context(), infoOf(key), key); !errors.Is(err, ErrAuth) {
				t.Errorf("side %d: %v", i, err)
			}
		})
	}
	middle.Wait()
}

// Mistakes of ours close the connection and are said as ours.
func TestOwnNodeInfo(t *testing.T) {
	key, other := seeded(t, 3), seeded(t, 4)
	long := infoOf(key)
	long.Moniker = strings.Repeat("x", maxNodeInfo)
	for name, c := range map[string]struct {
		info p2p.NodeInfo
		key  p2p.PrivKey
	}{
		"another's": {infoOf(other), key}, "no key": {infoOf(key), p2p.PrivKey{}}, "nothing": {p2p.NodeInfo{}, p2p.PrivKey{}},
		"too long": {long, key},
	} {
		x, y := rawPair(t)
		peer := connect(t, y, Options{})
		err := make(chan error, 1)
		go func() {
			_, _, e := peer.Handshake(t.Context(), infoOf(other), other)
			err <- e
		}()
		own := connect(t, x, Options{})
		if _, _, err := own.Handshake(t.Context(), c.info, c.key); !errors.Is(err, ErrNodeInfo) {
			t.Errorf("%s: %v", name, err)
		}
		if e := <-err; !errors.Is(e, io.EOF) {
			t.Errorf("%s: the peer sees %v", name, e)
		}
	}
}

// Whatever a peer sends before it is believed ends the handshake and takes
// memory by what it sent: in clear, or inside the cipher.
func FuzzHandshake(f *testing.F) {
	key, other, eph := seeded(f, 3), seeded(f, 4), ephemeral(f, 1)
	peer, err := agree(ephemeral(f, 2), eph.PublicKey())
	if err != nil {
		f.Fatal(err)
	}
	p := &puppet{t: f, agreed: peer}
	proof := p.auth(other, 0)
	introduction, err := encodeNodeInfo(infoOf(other), false)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(false, proof, introduction)
	f.Add(false, p.auth(other, offerKith), introduction)
	f.Add(false, []byte{0x80, 0x80}, []byte{0xff})
	f.Add(true, ephemeralMessage(eph.PublicKey()), []byte{1, 2, 3})
	f.Add(true, []byte{}, ephemeralMessage(ephemeral(f, 2).PublicKey()))
	info := infoOf(key)
	f.Fuzz(func(t *testing.T, clear bool, a, b []byte) {
		stream := slices.Concat(a, b)
		if !clear {
			p := &puppet{t: t, agreed: peer}
			p.use(false)
			stream = slices.Concat(ephemeralMessage(ephemeral(t, 2).PublicKey()), sealAll(t, &p.send, a), sealAll(t, &p.send, b))
		}
		c := connect(t, fakeConn{r: bytes.NewReader(stream)}, Options{})
		var err error
		bounded(t, len(stream), func() { _, _, err = c.shake(context.Background(), info, key, eph) })
		if err == nil && (clear || !bytes.Contains(slices.Concat(a, b), proof[len(proof)-64:])) {
			t.Fatal("taken without the proof")
		}
		c.Close()
	})
}
