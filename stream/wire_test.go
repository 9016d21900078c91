package stream

import (
	"bytes"
	"io"
	"slices"
	"sync"
	"testing"
	"unsafe"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	mss "github.com/multiformats/go-multistream"
)

// taped is a stream that keeps what passes, from its first byte on: the
// negotiation, the data, and the ends.
type taped struct {
	network.Stream

	mu      sync.Mutex // guards in and out
	in, out []byte
}

func (s *taped) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in = append(s.in, p[:n]...)
	if err == io.EOF {
		s.in = append(s.in, "<EOF>"...)
	}
	return n, err
}

func (s *taped) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = append(s.out, p[:n]...)
	return n, err
}

// tape makes b hand over every stream that it takes for tag, with what passes
// through it.
func tape(b corehost.Host, tag protocol.ID) <-chan *taped {
	tapes := make(chan *taped, 1)
	b.Network().SetStreamHandler(func(s network.Stream) {
		t := &taped{Stream: s}
		id, handle, err := b.Mux().Negotiate(t)
		if err == nil {
			err = s.SetProtocol(id)
		}
		if err != nil {
			s.Reset()
			return
		}
		if id == tag {
			tapes <- t
		}
		handle(id, t)
	})
	return tapes
}

// What a stream carries in both directions is byte for byte what it carries when
// the programs at its ends use libp2p's own streams: whoever dials, whoever
// listens, over every transport.
func TestTheSameBytesOnTheWire(t *testing.T) {
	question, answer := bytes.Repeat([]byte("question"), 20_000), bytes.Repeat([]byte("answer"), 20_000)
	type ends interface {
		io.ReadWriter
		CloseWrite() error
		Close() error
	}
	ask := func(c ends) {
		for _, part := range [][]byte{question[:5], question[5:3000], question[3000:]} {
			if _, err := c.Write(part); err != nil {
				t.Error(err)
			}
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, answer) {
			t.Errorf("%d bytes of %d were answered, %v", len(got), len(answer), err)
		}
		c.Close()
	}
	reply := func(c ends) {
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, question) {
			t.Errorf("%d bytes of %d were asked, %v", len(got), len(question), err)
		}
		for _, part := range [][]byte{answer[:1], answer[1:]} {
			if _, err := c.Write(part); err != nil {
				t.Error(err)
			}
		}
		c.Close()
	}
	dialers := map[string]func(t *testing.T, a, b corehost.Host, tag protocol.ID) ends{
		"libp2p": func(t *testing.T, a, b corehost.Host, tag protocol.ID) ends {
			s, err := a.NewStream(t.Context(), b.ID(), tag)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		"Dial": func(t *testing.T, a, b corehost.Host, tag protocol.ID) ends {
			c, err := Dial(t.Context(), a, b.ID(), tag)
			if err != nil {
				t.Fatal(err)
			}
			return c.(*Conn)
		},
		"lazy Dial": func(t *testing.T, a, b corehost.Host, tag protocol.ID) ends {
			c, err := Dial(t.Context(), a, b.ID(), tag, WithLazy())
			if err != nil {
				t.Fatal(err)
			}
			return c.(*Conn)
		},
	}
	listeners := map[string]func(t *testing.T, b corehost.Host, tag protocol.ID) (stop func()){
		"libp2p": func(t *testing.T, b corehost.Host, tag protocol.ID) func() {
			var wg sync.WaitGroup
			b.SetStreamHandler(tag, func(s network.Stream) { wg.Go(func() { reply(s) }) })
			return func() {
				wg.Wait()
				b.RemoveStreamHandler(tag)
			}
		},
		"Listen": func(t *testing.T, b corehost.Host, tag protocol.ID) func() {
			ln, err := Listen(b, tag)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				c, err := ln.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				reply(c.(*Conn))
			})
			return func() {
				wg.Wait()
				ln.Close()
			}
		},
	}
	for _, nw := range networks {
		if nw.name == "self" {
			continue // has no wire
		}
		t.Run(nw.name, func(t *testing.T) {
			a, b := nw.hosts(t)
			tag := newTag()
			tapes := tape(b, tag)
			hear := func(dialer, listener string) (in, out []byte) {
				stop := listeners[listener](t, b, tag)
				ask(dialers[dialer](t, a, b, tag))
				s := <-tapes
				stop()
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.in, s.out
			}
			wantIn, wantOut := hear("libp2p", "libp2p")
			hello := greeting(tag)
			if !bytes.HasPrefix(wantIn, append(bytes.Clone(hello), "question"...)) || !bytes.HasSuffix(wantIn, []byte("question<EOF>")) ||
				len(wantIn) != len(hello)+len(question)+len("<EOF>") {
				t.Fatalf("the tape of what is asked is wrong: %d bytes, %.60q", len(wantIn), wantIn)
			}
			if len(wantOut) != len(hello)+len(answer) || !bytes.HasPrefix(wantOut, append(bytes.Clone(hello), "answer"...)) {
				t.Fatalf("the tape of what is answered is wrong: %d bytes, %.60q", len(wantOut), wantOut)
			}
			for dialer := range dialers {
				for listener := range listeners {
					in, out := hear(dialer, listener)
					if !bytes.Equal(in, wantIn) {
						t.Errorf("%s to %s: asked with %d bytes %.60q, libp2p with %d bytes %.60q", dialer, listener, len(in), in, len(wantIn), wantIn)
					}
					if !bytes.Equal(out, wantOut) {
						t.Errorf("%s to %s: answered with %d bytes %.60q, libp2p with %d bytes %.60q", dialer, listener, len(out), out, len(wantOut), wantOut)
					}
				}
			}
		})
	}
}

// agreeing is a stream whose other end agrees to everything, and that keeps each
// write.
type agreeing struct {
	loopback
	answer io.Reader

	mu     sync.Mutex // guards writes
	writes []string
}

func (s *agreeing) Read(p []byte) (int, error) { return s.answer.Read(p) }

func (s *agreeing) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, string(p))
	return len(p), nil
}

// Nor are there more pieces than with libp2p: a muxer makes at least one frame of
// each write, so the writes to it must be the same too.
func TestTheSameWritesAsMultistream(t *testing.T) {
	tag := protocol.ID("/x/1")
	parts := []string{"first", string(bytes.Repeat([]byte("second"), 50_000)), "third"}
	end := func() *agreeing {
		near, _ := newLoopback()
		return &agreeing{loopback: near, answer: bytes.NewReader(greeting(tag))}
	}
	write := func(w io.Writer) {
		t.Helper()
		for _, p := range parts {
			if n, err := io.WriteString(w, p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	dialled := func(s network.MuxedStream) *Conn {
		c := newConn(s, tag, Addr{}, Addr{})
		c.hello = greeting(tag)
		c.answer, c.got = c.hello, make([]byte, 0, len(c.hello))
		return c
	}
	for name, tc := range map[string]struct{ theirs, ours func(s *agreeing) io.Writer }{
		"at once": {
			func(s *agreeing) io.Writer {
				if _, err := mss.SelectOneOf([]protocol.ID{tag}, s); err != nil {
					t.Fatal(err)
				}
				return s
			},
			func(s *agreeing) io.Writer {
				c := dialled(s)
				if err := c.greet(t.Context(), false); err != nil {
					t.Fatal(err)
				}
				return c
			},
		},
		"lazily": {
			func(s *agreeing) io.Writer { return mss.NewMSSelect(s, tag) },
			func(s *agreeing) io.Writer { return dialled(s) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			theirs, ours := end(), end()
			write(tc.theirs(theirs))
			write(tc.ours(ours))
			theirs.mu.Lock()
			defer theirs.mu.Unlock()
			if len(ours.writes) < len(parts) || !slices.Equal(ours.writes, theirs.writes) {
				t.Errorf("%d writes %.40q, multistream makes %d: %.40q", len(ours.writes), ours.writes, len(theirs.writes), theirs.writes)
			}
		})
	}
}

// shown is a muxed stream that remembers the slices that it is called with.
type shown struct {
	network.MuxedStream
	wrote, read [][]byte
}

func (s *shown) Write(p []byte) (int, error) { s.wrote = append(s.wrote, p); return len(p), nil }
func (s *shown) Read(p []byte) (int, error)  { s.read = append(s.read, p); return len(p), nil }

// The stream below is handed the caller's own memory, whole: nothing is copied on
// the way, nor cut up. What leaves together with the hello is the one exception,
// and as long as togetherMax at most.
func TestNoExtraCopy(t *testing.T) {
	same := func(calls [][]byte, with []byte) bool {
		return len(calls) == 1 && len(calls[0]) == len(with) && unsafe.SliceData(calls[0]) == unsafe.SliceData(with)
	}
	for _, size := range []int{1, 100, togetherMax, togetherMax + 1, 64 << 10, 1 << 20, 16 << 20} {
		buf := make([]byte, size)
		s := &shown{}
		c := newConn(s, "/x/1", Addr{}, Addr{})
		if n, err := c.Write(buf); n != size || err != nil || !same(s.wrote, buf) {
			t.Errorf("Write of %d bytes: %d, %v, in %d writes; the slice is not the caller's", size, n, err, len(s.wrote))
		}
		if n, err := c.Read(buf); n != size || err != nil || !same(s.read, buf) {
			t.Errorf("Read of %d bytes: %d, %v, in %d reads; the slice is not the caller's", size, n, err, len(s.read))
		}
		if size <= togetherMax {
			continue
		}
		s = &shown{}
		c = newConn(s, "/x/1", Addr{}, Addr{})
		c.hello = greeting("/x/1")
		hello := c.hello
		if n, err := c.Write(buf); n != size || err != nil || len(s.wrote) != 2 || !same(s.wrote[:1], hello) || !same(s.wrote[1:], buf) {
			t.Errorf("first Write of %d bytes: %d, %v, in %d writes", size, n, err, len(s.wrote))
		}
	}
}
