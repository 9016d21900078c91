package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/pb/tunnelv1"
	"github.com/kith-p2p/kith/internal/wire"
	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/proto"
)

func frame(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	f, err := wire.AppendFrame(nil, b, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The opening of a connection, byte for byte (spec.md). These bytes are a
// promise to other versions.
func TestGoldenFrames(t *testing.T) {
	for _, c := range []struct {
		m    proto.Message
		want string
	}{
		{&tunnelv1.Open{Service: "web"}, "\x05\x0a\x03web"},
		{&tunnelv1.Open{Service: "web", Probe: true}, "\x07\x0a\x03web\x18\x01"},
		{&tunnelv1.Open{Service: "web", Credential: []byte{1, 2}}, "\x09\x0a\x03web\x12\x02\x01\x02"},
		{&tunnelv1.OpenReply{}, "\x00"},
		{&tunnelv1.OpenReply{Code: 2, Message: "no"}, "\x06\x08\x02\x12\x02no"},
	} {
		if got := string(frame(t, c.m)); got != c.want {
			t.Errorf("%v: %q, want %q", c.m, got, c.want)
		}
	}
	want := []string{"none", "no such service", "not allowed", "target refused", "limit reached", "peer unreachable", "relayed only",
		"shutting down", "connection reset", "closed by the operator", "idle timeout", "timed out", "protocol violation", "connection lost"}
	for r, text := range want {
		if Reason(r).String() != text || Reason(r).code() != network.StreamErrorCode(0x6b00+r) {
			t.Errorf("reason %d is %q, code %#x: numbers are append only", r, Reason(r), Reason(r).code())
		}
	}
	if reasons != len(want) {
		t.Error("a reason is missing here")
	}
}

// A peer that breaks the opening is cut with a reason and disturbs nobody.
func TestMalformedOpens(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	addr := forwardTo(t, b, a, "echo")
	good := dial(t, addr)
	roundTrip(t, good, "before")
	for name, c := range map[string]struct {
		send []byte
		want Reason
	}{
		"claims 2^31":     {binary.AppendUvarint(nil, 1<<31), ReasonProtocol},
		"claims 2^63":     {binary.AppendUvarint(nil, 1<<63), ReasonProtocol},
		"limit + 1":       {binary.AppendUvarint(nil, maxOpen+1), ReasonProtocol},
		"endless length":  {bytes.Repeat([]byte{0x80}, 32), ReasonProtocol},
		"no protobuf":     {[]byte{3, 0xff, 0xff, 0xff}, ReasonProtocol},
		"bad UTF-8":       {[]byte{4, 0x0a, 2, 0xff, 0xfe}, ReasonProtocol},
		"ends in between": {[]byte{5, 0x0a}, ReasonProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			before := a.Stats().Refused[c.want]
			s, err := stream.Dial(t.Context(), b.h, a.id, Protocol)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			s.Write(c.send)
			s.(*stream.Conn).CloseWrite()
			_, err = io.ReadAll(s)
			if e := reasonOf(err); e == nil || e.Reason != c.want {
				t.Errorf("ended with %v", err)
			}
			eventually(t, "it is counted", func() bool { return a.Stats().Refused[c.want] == before+1 })
		})
	}
	roundTrip(t, good, "after")
	if n := a.Streams.Len(); n != 1 {
		t.Errorf("%d streams", n)
	}
}

// A service name made to play with a terminal does not get there.
func TestHostileText(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	b.Remember(a.id, a.addr())
	s, err := stream.Dial(t.Context(), b.h, a.id, Protocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Write(frame(t, &tunnelv1.Open{Service: "\x1b[2Jx\r\n\u202e"}))
	body, err := wire.ReadFrame(s, maxReply)
	if err != nil {
		t.Fatal(err)
	}
	var reply tunnelv1.OpenReply
	if err := proto.Unmarshal(body, &reply); err != nil || Reason(reply.Code) != ReasonNoService {
		t.Fatal(&reply, err)
	}
	if strings.ContainsAny(reply.Message, "\x1b\r\n\u202e") {
		t.Errorf("%q", reply.Message)
	}
	if got := printable("a\x1b[31m\u009bb\u202ec"); got != "a [31m b c" {
		t.Errorf("printable: %q", got)
	}
}

// A server that answers nonsense, late or not at all: the client says so.
func TestMalformedReplies(t *testing.T) {
	for name, c := range map[string]struct {
		reply []byte
		want  Reason
	}{
		"claims 2^40":  {binary.AppendUvarint(nil, 1<<40), ReasonProtocol},
		"no protobuf":  {[]byte{3, 0xff, 0xff, 0xff}, ReasonProtocol},
		"EOF":          {nil, ReasonProtocol},
		"in between":   {[]byte{200, 1}, ReasonProtocol},
		"code unknown": {frame(t, &tunnelv1.OpenReply{Code: 999, Message: "from the future"}), Reason(999)},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, overTCP)
			h.SetStreamHandler(Protocol, func(s network.Stream) {
				wire.ReadFrame(s, maxOpen)
				s.Write(c.reply)
				s.Close()
			})
			b := newNode(t)
			b.Remember(h.ID(), h.Addrs()...)
			_, err := b.Open(t.Context(), h.ID(), "x")
			if e, ok := errors.AsType[*Error](err); !ok || e.Reason != c.want {
				t.Fatalf("%v", err)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		h := newHost(t, overTCP)
		h.SetStreamHandler(Protocol, func(s network.Stream) { io.Copy(io.Discard, s); s.Close() })
		b := newNode(t)
		b.Remember(h.ID(), h.Addrs()...)
		start := time.Now()
		_, err := b.Open(t.Context(), h.ID(), "x", func(c *ForwardConfig) { c.Timeout = 200 * time.Millisecond })
		if !errors.Is(err, &Error{Reason: ReasonTimeout}) || time.Since(start) > 5*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	})
}

// A plain libp2p peer, without tunnels: its raw services work, others say why.
func TestPeerWithoutTunnels(t *testing.T) {
	h := newHost(t, overTCP)
	h.SetStreamHandler("/x/echo", func(s network.Stream) { io.Copy(s, s); s.Close() })
	b := newNode(t)
	b.Remember(h.ID(), h.Addrs()...)
	c, err := b.Open(t.Context(), h.ID(), "/x/echo")
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, "raw")
	c.Close()
	_, err = b.Open(t.Context(), h.ID(), "web")
	if !errors.Is(err, &Error{Reason: ReasonNoService}) || !strings.Contains(err.Error(), "/x/") {
		t.Fatalf("%v", err)
	}
}

// A program may accept a service's connections itself; the contract's Accept
// hands out bare streams.
func TestAccept(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	l, err := a.Listen("svc", AllowPeers(b.id))
	if err != nil {
		t.Fatal(err)
	}
	b.Remember(a.id, a.addr())
	c, err := b.Open(t.Context(), a.id, "svc")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil || s.Conn().RemotePeer() != b.id {
		t.Fatal(s, err)
	}
	s.Write([]byte("hi"))
	s.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "hi" {
		t.Fatalf("%q %v", got, err)
	}
	waiting, err := b.Open(t.Context(), a.id, "svc")
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	eventually(t, "it waits", func() bool { return len(l.queue) == 1 })
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := io.ReadAll(waiting); reasonOf(err) == nil || reasonOf(err).Reason != ReasonClosed {
		t.Errorf("one that nobody accepted ended with %v", err)
	}
}

func FuzzReadOpen(f *testing.F) {
	f.Add([]byte("\x05\x0a\x03web"))
	f.Add([]byte("\x00"))
	f.Add([]byte("\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, in []byte) {
		body, err := wire.ReadFrame(bytes.NewReader(in), maxOpen)
		if err != nil {
			return
		}
		var open tunnelv1.Open
		if proto.Unmarshal(body, &open) != nil {
			return
		}
		raw, err := checkName(open.GetService(), false)
		if err == nil && raw != strings.HasPrefix(open.GetService(), "/x/") {
			t.Fatalf("%q: raw %v", open.GetService(), raw)
		}
		if p := printable(open.GetService()); strings.ContainsAny(p, "\x1b\r\n\x00") {
			t.Fatalf("%q", p)
		}
	})
}
