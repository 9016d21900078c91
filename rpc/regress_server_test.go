package rpc

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/stream"
)

// A peer that pings while it does not read a long request, and then answers, had its
// answer wait behind our answer to the ping, until WriteTimeout.
func TestRegressionPingDuringALargeRequest(t *testing.T) {
	a, b := tcpHosts(t)
	leave := make(chan bool)
	b.SetStreamHandler(Protocol, func(s network.Stream) {
		conn := stream.New(s)
		defer conn.Close()
		_ = readFrame(t, conn)
		if _, err := readHeader(conn); err != nil { // of the message, which it does not read
			t.Error(err)
		}
		for range pingsMost { // as many as it may
			conn.Write(frames(nil).add(kindPing, 0, 0, make([]byte, pingMax)))
		}
		conn.Write(frames(nil).add(kindError, flagRefused, 1, appendError(nil, &Error{Code: CodePermissionDenied, Message: "no"})))
		<-leave
	})
	t.Cleanup(func() { b.RemoveStreamHandler(Protocol) })
	defer close(leave)
	c := newClient(t, a, &ClientConfig{WriteTimeout: time.Hour, ReadTimeout: time.Hour})
	_, err := c.Send(ctxOf(t), b.ID(), echoID, make([]byte, 8<<20))
	if e := wantCode(t, err, CodePermissionDenied); !e.Refused || e.Message != "no" {
		t.Errorf("%+v", e)
	}
	st, err := c.Open(ctxOf(t), &Request{Peer: b.ID(), Method: "/kith-test/stream"})
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() { sent <- st.Send(make([]byte, 8<<20)) }()
	_, err = st.Recv()
	if e := wantCode(t, err, CodePermissionDenied); e.Message != "no" {
		t.Errorf("%+v", e)
	}
	if err := await(t, "end of a message that is not read", sent); err == nil {
		t.Error("sent to who does not read")
	}
	eventually(t, func() string {
		if st := c.Stats(); st.Conns != 0 || st.Faults != (Faults{}) {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}

// The answer to a ping that comes during a long request follows it, and the stream
// is as good as before.
func TestPingDuringALargeRequestIsAnswered(t *testing.T) {
	a, b := tcpHosts(t)
	streams := make(chan bool, 10)
	b.SetStreamHandler(Protocol, func(s network.Stream) {
		streams <- true
		conn := stream.New(s)
		defer conn.Close()
		for call := uint64(1); ; call++ {
			h, err := readHeader(conn)
			if err != nil {
				return
			}
			io.CopyN(io.Discard, conn, int64(h.size)) // the invoke
			conn.Write(frames(nil).add(kindPing, 0, 0, []byte("1")).add(kindPing, 0, 0, []byte("2")))
			for message, pongs := false, 0; !message || pongs < 2; {
				h, err := readHeader(conn)
				if err != nil {
					t.Error(err)
					return
				}
				switch {
				case h.kind == kindPing && h.flags == flagAnswer && h.size == 1:
					pongs++
				case h.kind == kindMessage && h.size == 4<<20:
					message = true
				default:
					t.Errorf("%+v", h)
					return
				}
				io.CopyN(io.Discard, conn, int64(h.size))
			}
			conn.Write(frames(nil).add(kindMessage, flagEnd, call, []byte("good")))
		}
	})
	t.Cleanup(func() { b.RemoveStreamHandler(Protocol) })
	c := newClient(t, a, &ClientConfig{})
	for range 5 {
		if got, err := c.Send(ctxOf(t), b.ID(), echoID, make([]byte, 4<<20)); err != nil || string(got) != "good" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if len(streams) != 1 {
		t.Errorf("%d streams", len(streams))
	}
}

// readHeader reads a frame up to its payload, and no byte more.
func readHeader(r io.Reader) (header, error) {
	var b []byte
	for {
		if h, n, err := parseHeader(b, maxBlockSize); err != nil || n > 0 {
			return h, err
		}
		var one [1]byte
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return header{}, err
		}
		b = append(b, one[0])
	}
}

// Half a message of a streaming call that was over could stay for IdleTimeout.
func TestRegressionHalfMessageOfAnEndedCallStays(t *testing.T) {
	const long = 2 * time.Hour // longer than one, shorter than the other
	c, s, id := pair(t, &ServerConfig{ReadTimeout: time.Hour, IdleTimeout: 24 * time.Hour, MaxIdleTime: 24 * time.Hour}, nil)
	handleStream(t, s, "/kith-test/first", func(_ context.Context, st *ServerStream) error {
		_, err := st.Recv()
		return err
	})
	// over makes a call that the handler ends before the caller does, and has it look as
	// if that had been long ago.
	over := func(rest []byte, half bool) (*stream.Conn, *serverLink) {
		conn := rawStream(t, c.h, id, Protocol)
		conn.Write(append(frames(nil).invoke(1, "/kith-test/first", 0).add(kindMessage, 0, 1, []byte("x")), rest...))
		if f := readFrame(t, conn); f.kind != kindHalfClose {
			t.Fatalf("%+v", f)
		}
		var l *serverLink
		eventually(t, func() string {
			s.eachLink(func(one *serverLink) { l = one })
			if l.phase.Load() != phaseIdle || half != (l.partly.Load() != 0) {
				return fmt.Sprintf("phase %d, half a message since %d", l.phase.Load(), l.partly.Load())
			}
			return ""
		})
		ago := s.clock.now.Load() - int64(long)
		l.since.Store(ago)
		if half {
			l.partly.Store(ago)
		}
		l.check() // as the janitor does
		return conn, l
	}
	conn, _ := over(claim(kindMessage, 1, 100), true)
	wantReset(t, conn, CodeDeadlineExceeded)
	eventually(t, func() string {
		if st := s.Stats(); st.Conns != 0 || st.Memory != 0 || st.Faults.Unfinished != 1 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	// Who has finished it has all the time of IdleTimeout, and may call again.
	conn, l := over(frames(nil).add(kindMessage, 0, 1, []byte("too late")), false)
	if err := l.wasKilled(); err != nil {
		t.Errorf("killed: %v", err)
	}
	conn.Write(frames(nil).echo(2))
	if f := readFrame(t, conn); f.kind != kindMessage || f.call != 2 {
		t.Errorf("%+v", f)
	}
}
