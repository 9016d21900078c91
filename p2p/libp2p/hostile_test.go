package libp2p

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kith-p2p/kith/identity"
	kithhost "github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/internal/wire"
	"github.com/kith-p2p/kith/p2p"
)

// raw is a peer that writes its streams by hand.
type raw struct {
	testing.TB
	p       pair
	control network.Stream
	in      *bufio.Reader
	session sessionID
}

// rawStream opens a stream with a greeting and what follows it.
func rawStream(tb testing.TB, p pair, id protocol.ID, rest ...[]byte) network.Stream {
	tb.Helper()
	if len(p.a.Network().ConnsToPeer(p.b.ID())) == 0 {
		p.join(tb)
	}
	s, err := p.a.Network().ConnsToPeer(p.b.ID())[0].NewStream(network.WithAllowLimitedConn(tb.Context(), "test"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Reset() })
	if _, err := s.Write(append(greeting(id), bytes.Join(rest, nil)...)); err != nil {
		tb.Fatal(err)
	}
	return s
}

func frame(body ...byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(body))), body...) }

func helloFrame(tb testing.TB, session sessionID, i p2p.NodeInfo) []byte {
	tb.Helper()
	hello, err := appendHello(nil, session, i)
	if err != nil {
		tb.Fatal(err)
	}
	return frame(appendWindow(hello)...)
}

// shakeRaw makes a session of which the dialling end is raw.
func shakeRaw(tb testing.TB, p pair, b *Transport, channels ...p2p.ChannelID) (*raw, *Connection) {
	tb.Helper()
	return shakeHello(tb, p, b, appendWindow, channels...)
}

// shakeHello is shakeRaw with another end of the hello.
func shakeHello(tb testing.TB, p pair, b *Transport, finish func(hello []byte) []byte, channels ...p2p.ChannelID) (*raw, *Connection) {
	tb.Helper()
	r := &raw{TB: tb, p: p}
	if _, err := rand.Read(r.session[:]); err != nil {
		tb.Fatal(err)
	}
	hello, err := appendHello(nil, r.session, info(p.a, channels...))
	if err != nil {
		tb.Fatal(err)
	}
	r.control = rawStream(tb, p, ControlProtocol, frame(finish(hello)...))
	r.in = bufio.NewReader(r.control)
	c, err := b.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	ctx, stop := context.WithTimeout(tb.Context(), 30*time.Second)
	defer stop()
	if _, _, err := c.Handshake(ctx, info(p.b, channels...), p.b.key); err != nil {
		tb.Fatal(err)
	}
	if err := readAnswer(r.in, controlGreeting); err != nil {
		tb.Fatal(err)
	}
	if _, err := wire.ReadFrame(r.in, maxControl); err != nil {
		tb.Fatal(err)
	}
	return r, c.(*Connection)
}

// channel opens a channel stream with what follows its header.
func (r *raw) channel(id p2p.ChannelID, part uint32, rest ...byte) network.Stream {
	r.Helper()
	return rawStream(r, r.p, ChannelProtocol, header{r.session, id, part}.append(nil), rest)
}

// bystander is an honest session on the same hosts, which nothing that another one
// does may disturb.
func bystander(tb testing.TB, p pair, a, b *Transport) (check func()) {
	x, y := session(tb, p, a, b, 9)
	return func() {
		tb.Helper()
		for _, ends := range [][2]*Connection{{x, y}, {y, x}} {
			if err := ends[0].SendMessage(9, []byte("well")); err != nil {
				tb.Fatalf("a session that did nothing: %v", err)
			}
			if _, data, err := ends[1].ReceiveMessage(); err != nil || string(data) != "well" {
				tb.Fatalf("a session that did nothing: %q, %v", data, err)
			}
		}
	}
}

func windowField(window uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, fieldWindow, protowire.VarintType), window)
}

func bytesField(field protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), value)
}

// A handshake that the dialler does wrong ends with a typed error, and soon.
func TestHostileHandshakes(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	other, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	goroutinesBack(t)
	a, b := transports(t, p, Options{HandshakeTimeout: 10 * time.Second})
	check := bystander(t, p, a, b)
	var session sessionID
	hello := func(fields ...[]byte) []byte {
		return frame(append(append([]byte{kindHello}, session[:]...), bytes.Join(fields, nil)...)...)
	}
	id := bytesField(1, []byte(p.a.id()))
	good := helloFrame(t, session, info(p.a, 1))
	_, fields, _ := bytes.Cut(good, append([]byte{kindHello}, session[:]...))
	many := []byte{}
	for i := range 257 {
		many = binary.AppendUvarint(many, uint64(i))
	}
	faults := map[string]struct {
		send []byte
		want error
	}{
		"an empty frame":             {frame(), ErrMalformed},
		"a frame of no known kind":   {frame(77, 1, 2), ErrMalformed},
		"a ping first":               {frame(kindPing, 1, 2, 3, 4, 5, 6, 7, 8), ErrMalformed},
		"a hello of one byte":        {frame(kindHello), ErrNodeInfo},
		"a hello without node ID":    {hello(bytesField(8, []byte("n"))), ErrNodeInfo},
		"a hello without fields":     {hello(), ErrNodeInfo},
		"the node ID of another":     {hello(bytesField(1, []byte(other.Public().NodeID()))), ErrIdentity},
		"our node ID":                {hello(bytesField(1, []byte(p.b.id()))), ErrIdentity},
		"two node IDs":               {hello(id, bytesField(1, []byte(other.Public().NodeID()))), ErrIdentity},
		"an empty node ID":           {hello(bytesField(1, nil)), ErrIdentity},
		"no moniker":                 {hello(id, bytesField(5, []byte("0.0.0.0:0"))), ErrNodeInfo},
		"a long network":             {hello(id, bytesField(6, make([]byte, 1025))), ErrNodeInfo},
		"257 channels":               {hello(id, bytesField(9, many)), ErrNodeInfo},
		"a channel twice":            {hello(id, bytesField(9, []byte{1, 2, 1})), ErrNodeInfo},
		"a channel above 65535":      {hello(id, bytesField(9, binary.AppendUvarint(nil, 1<<16))), ErrNodeInfo},
		"half a channel":             {hello(id, bytesField(9, []byte{0x80})), ErrNodeInfo},
		"33 listen addresses":        {hello(id, bytes.Repeat(bytesField(13, []byte("memory:x")), 33)), ErrNodeInfo},
		"a window of nothing":        {hello(fields, []byte{0x80, 1, 0}), ErrNodeInfo},
		"a window of 65535":          {hello(fields, windowField(leastWindow-1)), ErrNodeInfo},
		"a window above 1 GiB":       {hello(fields, windowField(mostCredit+1)), ErrNodeInfo},
		"a group":                    {hello(id, []byte{99<<3&0x7f | 3}), ErrNodeInfo},
		"a cut field":                {hello(id, []byte{0x42, 0x7f, 1}), ErrNodeInfo},
		"an oversized frame":         {binary.AppendUvarint(nil, maxControl+1), ErrMalformed},
		"a frame of 2^63":            {binary.AppendUvarint(nil, 1<<63), ErrMalformed},
		"a length in too many bytes": {bytes.Repeat([]byte{0x80}, 11), ErrMalformed},
		"a length that is padded":    {[]byte{0x81, 0x00}, ErrMalformed},
		"a goodbye":                  {frame(goodbye{reason: "no"}.append(nil)...), io.EOF},
		"a malformed goodbye":        {frame(kindGoodbye, 0x80), ErrMalformed},
		"a cut frame":                {good[:len(good)-1], nil}, // and then the end of the stream
		"nothing":                    {nil, nil},
	}
	for name, c := range faults {
		s := rawStream(t, p, ControlProtocol, c.send)
		if c.want == nil {
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := b.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = conn.Handshake(t.Context(), info(p.b, 1), p.b.key)
		var fault *HandshakeError
		if !errors.As(err, &fault) || fault.Peer != p.a.id() || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err != nil && len(err.Error()) > 600 {
			t.Errorf("%s: the error repeats %d bytes", name, len(err.Error()))
		}
		conn.Close()
		_ = s.Reset()
	}
	check()
	if n := b.Stats().Sessions; n != 1 {
		t.Errorf("%d sessions are left, want the bystander", n)
	}
}

// A hello that never ends, or never comes, ends with the handshake's own timeout.
func TestHandshakeThatNeverFinishes(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	a, b := transports(t, p, Options{HandshakeTimeout: 50 * time.Millisecond})
	for name, sent := range map[string][]byte{"nothing": nil, "half a hello": {100, kindHello, 1, 2, 3}} {
		s := rawStream(t, p, ControlProtocol, sent)
		conn, err := b.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.Handshake(t.Context(), info(p.b, 1), p.b.key); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
		_ = s.Reset()
	}
	_ = a
}

// A listener that answers wrongly is refused by the dialler.
func TestHostileListeners(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	a, err := New(p.a, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for name, c := range map[string]struct {
		answer func(hello []byte) []byte // nil: the protocol is not spoken
		want   error
	}{
		"nobody":             {nil, ErrNotSpoken},
		"nothing":            {func([]byte) []byte { return nil }, nil},
		"another session":    {func([]byte) []byte { return helloFrame(t, sessionID{9}, info(p.b, 1)) }, ErrMalformed},
		"our own hello":      {func(h []byte) []byte { return frame(h...) }, ErrIdentity},
		"a goodbye":          {func([]byte) []byte { return frame(goodbye{reason: "full"}.append(nil)...) }, io.EOF},
		"a length of 64 KiB": {func([]byte) []byte { return binary.AppendUvarint(nil, 1<<16+1) }, ErrMalformed},
	} {
		if c.answer != nil {
			p.b.SetStreamHandler(ControlProtocol, func(s network.Stream) {
				defer s.Close()
				hello, err := wire.ReadFrame(bufio.NewReader(s), maxControl)
				if err == nil {
					_, _ = s.Write(c.answer(hello))
				}
			})
		}
		conn, err := a.Dial(t.Context(), p.at)
		if err == nil {
			_, _, err = conn.Handshake(t.Context(), info(p.a, 1), p.a.key)
			conn.Close()
		}
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if strings.Contains(name, "goodbye") && !strings.Contains(err.Error(), "full") {
			t.Errorf("the reason is lost: %v", err)
		}
		p.b.RemoveStreamHandler(ControlProtocol)
	}
}

// What a peer does wrong in a session that stands ends that session with a typed
// error, is told to the peer, and is counted. Nobody else notices.
func TestHostileSessions(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	a, b := transports(t, p, Options{})
	check := bystander(t, p, a, b)
	ping := frame(kindPing, 1, 2, 3, 4, 5, 6, 7, 8)
	for name, c := range map[string]struct {
		do   func(r *raw)
		want error
	}{
		"a second hello":      {func(r *raw) { r.say(helloFrame(t, r.session, info(p.a, 1))) }, ErrMalformed},
		"an empty frame":      {func(r *raw) { r.say(frame()) }, ErrMalformed},
		"an oversized frame":  {func(r *raw) { r.say(binary.AppendUvarint(nil, maxControl+1)) }, ErrMalformed},
		"a ping of 7 bytes":   {func(r *raw) { r.say(frame(kindPing, 1, 2, 3, 4, 5, 6, 7)) }, ErrMalformed},
		"a malformed goodbye": {func(r *raw) { r.say(frame(kindGoodbye, 0x12, 0xff)) }, ErrMalformed},
		"a goodbye too long":  {func(r *raw) { r.say(frame(append([]byte{kindGoodbye}, bytesField(2, make([]byte, 1025))...)...)) }, ErrMalformed},
		"33 peers in goodbye": {func(r *raw) {
			r.say(frame(append([]byte{kindGoodbye}, bytes.Repeat(bytesField(3, []byte("x")), 33)...)...))
		}, ErrMalformed},
		"a flood of pings":     {func(r *raw) { r.say(bytes.Repeat(ping, 2000)) }, ErrFlood},
		"a flood of anything":  {func(r *raw) { r.say(bytes.Repeat(frame(99), 2000)) }, ErrFlood},
		"an unknown channel":   {func(r *raw) { r.channel(2, 0, 1, 1) }, ErrUnknownChannel},
		"an oversized message": {func(r *raw) { r.channel(1, 0, binary.AppendUvarint(nil, p2p.DefaultMaxMessage+1)...) }, ErrMessageTooLarge},
		"a message of 2^34":    {func(r *raw) { r.channel(1, 0, 0xff, 0xff, 0xff, 0xff, 0x7f) }, ErrMessageTooLarge},
		"an endless length":    {func(r *raw) { r.channel(1, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80) }, ErrMalformed},
		"a padded length":      {func(r *raw) { r.channel(1, 0, 0x81, 0x00) }, ErrMalformed},
		"a cut message":        {func(r *raw) { _ = r.channel(1, 0, 10, 1, 2).CloseWrite() }, ErrTruncated},
		"a cut length":         {func(r *raw) { _ = r.channel(1, 0, 0x80).CloseWrite() }, ErrTruncated},
		"a stream twice":       {func(r *raw) { r.channel(1, 0); r.channel(1, 0) }, ErrStreams},
		"a stream out of turn": {func(r *raw) { r.channel(1, 5) }, ErrStreams},
		"a stream from before": {func(r *raw) { r.channel(1, 0xffffffff) }, ErrStreams},
	} {
		before := b.Stats().Faults
		r, y := shakeRaw(t, p, b, 1)
		c.do(r)
		_, data, err := y.ReceiveMessage()
		if !errors.Is(err, c.want) || errors.Is(err, io.EOF) {
			t.Errorf("%s: %d bytes, %v, want %v", name, len(data), err, c.want)
		}
		if n := b.Stats().Faults; n != before+1 {
			t.Errorf("%s: %d faults were counted", name, n-before)
		}
		if err := y.SendMessage(1, nil); !errors.Is(err, io.EOF) {
			t.Errorf("%s: sending afterwards: %v", name, err)
		}
		if text := r.goodbye(); !strings.Contains(text, c.want.Error()) {
			t.Errorf("%s: the peer is told %q", name, text)
		}
		y.Close()
		check()
	}
	until(t, "only the bystander is left", func() bool { return b.Stats().Sessions == 1 })
}

func (r *raw) say(b []byte) {
	r.Helper()
	if _, err := r.control.Write(b); err != nil {
		r.Log(err) // it may be over already
	}
}

// goodbye reads the control stream to the reason.
func (r *raw) goodbye() string {
	r.Helper()
	_ = r.control.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		body, err := wire.ReadFrame(r.in, maxControl)
		if err != nil {
			return err.Error()
		}
		if body[0] == kindGoodbye {
			bye, err := parseGoodbye(body[1:])
			if err != nil {
				r.Error(err)
			}
			return bye.reason
		}
	}
}

// More channels than a node may announce are refused before anyone asks which.
func TestHostileChannelsAreBounded(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	_, b := transports(t, p, Options{})
	r, y := shakeRaw(t, p, b, 1)
	for i := range p2p.ChannelID(p2p.MaxNodeInfoChannels + 1) {
		r.channel(i, 0, 1, 1)
	}
	until(t, "the session ends", func() bool { return y.ended() != nil })
	if _, _, err := y.ReceiveMessage(); !errors.Is(err, ErrStreams) {
		t.Error(err)
	}
}

// A message that never ends holds up its channel and nothing else, and does not
// keep the session from closing. A stream that never says whose it is goes.
func TestNeverFinished(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	_, b := transports(t, p, Options{HandshakeTimeout: 5 * time.Second})
	r, y := shakeRaw(t, p, b, 1, 2)
	r.channel(1, 0, 10, 1, 2)
	r.say([]byte{9, kindPing, 1})
	r.channel(2, 0, 1, 'a')
	if _, data, err := y.ReceiveMessage(); err != nil || string(data) != "a" {
		t.Errorf("%q, %v", data, err)
	}
	if err := y.SendMessage(1, []byte("b")); err != nil {
		t.Error(err)
	}
	y.Close()
	if text := r.goodbye(); text != "" {
		t.Errorf("the peer hears %q", text)
	}
}

func TestHeaderThatNeverFinishes(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	_, b := transports(t, p, Options{HandshakeTimeout: 50 * time.Millisecond})
	rawStream(t, p, ChannelProtocol, []byte("never"))
	rawStream(t, p, MoveProtocol, []byte("never"))
	until(t, "both are given up", func() bool { return b.Stats().Strays == 2 })
}

// A peer whose libp2p key is not Ed25519 has no NodeID: it does not get as far as
// Accept.
func TestAPeerWithAnotherKindOfKeyIsRefused(t *testing.T) {
	n := newNode(t, "/ip4/127.0.0.1/tcp/0")
	tr, err := New(n, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	key, _, err := crypto.GenerateSecp256k1Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := kithhost.New(kithhost.Config{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	connect(t, h, peer.AddrInfo{ID: n.ID(), Addrs: n.Addrs()})
	rawStream(t, pair{a: node{Host: h}, b: n}, ControlProtocol)
	until(t, "it is refused", func() bool { return tr.Stats().Refused == 1 })
}

// Streams that belong to no session, or do not say to which, are reset, and cost
// the sessions nothing.
func TestStrayStreams(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	a, b := transports(t, p, Options{})
	check := bystander(t, p, a, b)
	_ = rawStream(t, p, ChannelProtocol, header{sessionID{7}, 1, 0}.append(nil), []byte{1, 1})
	short := rawStream(t, p, ChannelProtocol, []byte("too short"))
	_ = short.CloseWrite()
	until(t, "two strays are counted", func() bool { return b.Stats().Strays == 2 })
	check()
	// Another peer cannot speak in a session that is not its own, though it knows
	// the number.
	r, y := shakeRaw(t, p, b, 1)
	thief := newNode(t, "")
	rawStream(t, pair{thief, p.b, p.at}, ChannelProtocol, header{r.session, 1, 0}.append(nil), []byte{1, 66})
	until(t, "the third stray is counted", func() bool { return b.Stats().Strays == 3 })
	r.channel(1, 0, 1, 65)
	if _, data, err := y.ReceiveMessage(); err != nil || string(data) != "A" {
		t.Errorf("%q, %v", data, err)
	}
	thief.Close()
}

// A channel stream may end and go on in another one, which may overtake the end of
// the first: the order stays.
func TestAChannelGoesOnInAnotherStream(t *testing.T) {
	p := networks[1].make(t)
	_, b := transports(t, p, Options{})
	r, y := shakeRaw(t, p, b, 1)
	first := r.channel(1, 0, 1, 'a')
	r.channel(1, 1, 1, 'c')
	if _, data, err := y.ReceiveMessage(); err != nil || string(data) != "a" {
		t.Fatalf("%q, %v", data, err)
	}
	if _, err := first.Write([]byte{1, 'b'}); err != nil {
		t.Fatal(err)
	}
	if _, data, err := y.ReceiveMessage(); err != nil || string(data) != "b" {
		t.Fatalf("%q, %v", data, err)
	}
	if err := first.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, data, err := y.ReceiveMessage(); err != nil || string(data) != "c" {
		t.Fatalf("%q, %v", data, err)
	}
}

// A peer whose libp2p lives but that does not answer pings is given up.
func TestPongTimeout(t *testing.T) {
	p := networks[1].make(t)
	p.join(t)
	goroutinesBack(t)
	_, b := transports(t, p, Options{PingInterval: 50 * time.Millisecond, PongTimeout: 40 * time.Millisecond})
	_, y := shakeRaw(t, p, b, 1)
	if _, _, err := y.ReceiveMessage(); !errors.Is(err, ErrPongTimeout) {
		t.Fatal(err)
	}
}

// Pings are answered, measure the way, and keep a silent session from looking stale.
func TestPings(t *testing.T) {
	p := networks[1].make(t)
	a, b := transports(t, p, Options{PingInterval: 20 * time.Millisecond, PongTimeout: 19 * time.Millisecond})
	x, y := session(t, p, a, b, 1)
	_ = x
	// The machine may be slow enough for a pong to be late: then sessions follow.
	for range 50 {
		until(t, "a round trip was measured, or the session ended", func() bool { return y.RTT() > 0 || y.ended() != nil || x.ended() != nil })
		if y.RTT() > 0 {
			if y.Stale() {
				t.Error("a session that is alive looks stale")
			}
			y.heard.Store(y.clock() - int64(time.Hour))
			until(t, "the next pong clears that", func() bool { return !y.Stale() || y.ended() != nil })
			return
		}
		x.Close()
		y.Close()
		x, y = session(t, p, a, b, 1)
	}
	t.Error("no round trip was measured")
}
