package stream

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/libp2p/go-libp2p/core/protocol"
	mss "github.com/multiformats/go-multistream"
)

// answerFrom dials tag and lets the peer send raw bytes for an answer.
func answerFrom(tag protocol.ID, raw []byte) *Conn {
	near, far := newLoopback()
	c := newConn(near, tag, Addr{}, Addr{})
	c.hello = greeting(tag)
	c.answer, c.got = c.hello, make([]byte, 0, len(c.hello))
	far.Write(raw)
	far.CloseWrite()
	return c
}

func TestAnswers(t *testing.T) {
	tag := protocol.ID("/x/1")
	good := greeting(tag)
	refusal := append(bytes.Clone(preamble), notHere...)
	for name, tc := range map[string]struct {
		tag  protocol.ID
		raw  []byte
		rest string
		want error
	}{
		"agreed":                {tag, good, "", nil},
		"agreed, and data":      {tag, append(bytes.Clone(good), "data"...), "data", nil},
		"refused":               {tag, refusal, "", ErrNoSuchService},
		"refused, and more":     {tag, append(bytes.Clone(refusal), "junk and more junk"...), "", ErrNoSuchService},
		"refused, short name":   {"/y", refusal, "", ErrNoSuchService},
		"refused, shorter name": {"z", refusal, "", ErrNoSuchService},
		"another protocol":      {tag, append(bytes.Clone(preamble), appendLine(nil, "/x/2")...), "", syscall.ECONNRESET},
		"another language":      {tag, []byte("HTTP/1.1 400 Bad Request\r\n"), "", syscall.ECONNRESET},
		"nothing":               {tag, nil, "", syscall.ECONNRESET},
		"half":                  {tag, good[:len(good)-1], "", syscall.ECONNRESET},
	} {
		t.Run(name, func(t *testing.T) {
			c := answerFrom(tc.tag, tc.raw)
			got, err := io.ReadAll(c)
			if string(got) != tc.rest || !errors.Is(err, tc.want) || errors.Is(err, io.EOF) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// Our hello and go-multistream's listener understand each other, byte by byte.
func TestHelloAgainstMultistream(t *testing.T) {
	for _, tag := range []protocol.ID{"/x/1", protocol.ID("/" + string(bytes.Repeat([]byte("long"), 60)))} {
		near, far := newLoopback()
		c := newConn(near, tag, Addr{}, Addr{})
		c.hello = greeting(tag)
		c.answer, c.got = c.hello, make([]byte, 0, len(c.hello))
		mux := mss.NewMultistreamMuxer[protocol.ID]()
		mux.AddHandler(tag, nil)
		go func() {
			got, _, err := mux.Negotiate(far)
			if got != tag || err != nil {
				t.Errorf("listener: %v, %v", got, err)
			}
			io.Copy(far, far)
			far.CloseWrite()
		}()
		if _, err := c.Write([]byte("data")); err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		if err := iotest.TestReader(c, []byte("data")); err != nil {
			t.Error(err)
		}
	}
}

// counted records each write, and takes room bytes before it times out.
type counted struct {
	loopback
	room   int
	writes []string
}

func (s *counted) Write(p []byte) (int, error) {
	n := min(len(p), s.room)
	s.room -= n
	s.writes = append(s.writes, string(p[:n]))
	if n < len(p) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

// A short first Write is one write with the hello; a long one follows it. What
// a deadline cuts off goes on where it stopped, and each Write says what it
// wrote of its own.
func TestHelloLeavesWithAShortFirstWrite(t *testing.T) {
	tag := protocol.ID("/x/1")
	hello := string(greeting(tag))
	long := string(bytes.Repeat([]byte("l"), togetherMax+1))
	for name, tc := range map[string]struct {
		room   int // before the first Write times out
		data   string
		n      int
		writes []string
	}{
		"together":                  {1 << 20, "data", 4, []string{hello + "data", "more"}},
		"long":                      {1 << 20, long, len(long), []string{hello, long, "more"}},
		"empty":                     {1 << 20, "", 0, []string{hello, "more"}},
		"cut in the hello":          {5, "data", 0, []string{hello[:5], hello[5:] + "more"}},
		"cut between":               {len(hello), "data", 0, []string{hello, "more"}},
		"cut in the data":           {len(hello) + 1, "data", 1, []string{hello + "d", "more"}},
		"cut in the long one":       {len(hello) + 1, long, 1, []string{hello, "l", "more"}},
		"cut in a long one's hello": {5, long, 0, []string{hello[:5], hello[5:] + "more"}},
	} {
		t.Run(name, func(t *testing.T) {
			near, _ := newLoopback()
			s := &counted{loopback: near, room: tc.room}
			c := newConn(s, tag, Addr{}, Addr{})
			c.hello = greeting(tag)
			n, err := c.Write([]byte(tc.data))
			if n != tc.n || (err == nil) != (n == len(tc.data)) || err != nil && !isTimeout(err) {
				t.Errorf("first Write: %d, %v; want %d", n, err, tc.n)
			}
			s.room = 1 << 20
			if n, err := c.Write([]byte("more")); n != 4 || err != nil {
				t.Errorf("second Write: %d, %v", n, err)
			}
			if !slices.Equal(s.writes, tc.writes) {
				t.Errorf("writes %.60q, want %.60q", s.writes, tc.writes)
			}
			if c.state.Load()&greeted == 0 {
				t.Error("the hello is not done")
			}
		})
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add("/x/1", greeting("/x/1"))
	f.Add("/x/1", append(bytes.Clone(preamble), notHere...))
	f.Add("na", greeting("na"))
	f.Add("/x/1", []byte("\x13/multistream/1.0.0\n\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, tag string, raw []byte) {
		if len(raw) > loopWindow || len(tag) > 1<<10 {
			return
		}
		c := answerFrom(protocol.ID(tag), raw)
		room := cap(c.got)
		got, err := io.ReadAll(c)
		rest, agreed := bytes.CutPrefix(raw, greeting(protocol.ID(tag)))
		if agreed != (err == nil) || agreed && !bytes.Equal(got, rest) || !agreed && len(got) > 0 {
			t.Errorf("agreed %v: %q, %v", agreed, got, err)
		}
		if cap(c.got) > room {
			t.Errorf("the answer's buffer grew from %d to %d", room, cap(c.got))
		}
	})
}
