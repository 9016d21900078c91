package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/stream"
)

// gatherLinks are n links to one peer, and the other ends of their streams.
func gatherLinks(t *testing.T, n int) (near []*link, far []*stream.Conn) {
	a, b := tcpHosts(t)
	taken := make(chan *stream.Conn, n)
	b.SetStreamHandler("/kith-test/gather", func(s network.Stream) { taken <- stream.New(s) })
	t.Cleanup(func() { b.RemoveStreamHandler("/kith-test/gather") })
	var c clock
	c.start(time.Minute)
	for range n {
		l := new(link)
		l.init(rawStream(t, a, b.ID(), "/kith-test/gather"), newBufferPool(4<<10), &c)
		near = append(near, l)
		conn := await(t, "stream", taken)
		_ = conn.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { conn.Reset() })
		far = append(far, conn)
	}
	return near, far
}

func frame(s string) *[]byte {
	b := lendOut()
	*b = append(*b, s...)
	return b
}

func wantBytes(t *testing.T, r io.Reader, s string) {
	t.Helper()
	got := make([]byte, len(s))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != s {
		t.Errorf("%q, %v, want %q", got, err, s)
	}
}

// What was posted is written once, by one goroutine, but for what its caller has
// dropped; and whoever waits for it goes on.
func TestGather(t *testing.T) {
	near, far := gatherLinks(t, 4)
	var g gather
	for i, l := range near {
		if start := g.post(l, frame(fmt.Sprint("frame ", i))); start != (i == 0) {
			t.Errorf("post %d starts: %v", i, start)
		}
	}
	if near[1].settle() {
		t.Error("dropped, and yet sent")
	}
	far[2].ResetWithCode(resetCode(CodeUnavailable))
	eventually(t, func() string { // the reset has come
		if _, err := near[2].conn.Write([]byte("x")); err == nil {
			return "no error"
		}
		return ""
	})
	flushed := make(chan error, 1)
	go func() { flushed <- near[3].flush() }()
	g.run()
	if err := await(t, "flush", flushed); err != nil {
		t.Error(err)
	}
	wantBytes(t, far[0], "frame 0")
	wantBytes(t, far[3], "frame 3")
	if err := near[2].flush(); err == nil || near[2].settle() {
		t.Errorf("written to a stream that was reset: %v", err)
	}
	if !near[0].settle() || near[0].flush() != nil {
		t.Error("sent, and yet not")
	}
	near[1].conn.CloseWrite()
	if n, err := far[1].Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes of what was dropped, %v", n, err)
	}
	if !g.post(near[0], frame("again")) {
		t.Error("nobody runs, and post does not say so")
	}
	g.run()
	wantBytes(t, far[0], "again")
}

// A stream that takes nothing holds up those behind it only until their callers
// have enough.
func TestGatherBehindABlockedStream(t *testing.T) {
	near, far := gatherLinks(t, 3)
	_ = near[0].conn.SetWriteDeadline(time.Now().Add(short))
	for err := error(nil); err == nil; { // use up its window
		_, err = near[0].conn.Write(make([]byte, 64<<10))
	}
	_ = near[0].conn.SetWriteDeadline(time.Time{})
	var g gather
	for _, l := range near {
		g.post(l, frame("frame"))
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		g.run()
	}()
	eventually(t, func() string {
		if near[0].out.Load() != outWriting {
			return "not yet"
		}
		return ""
	})
	if near[1].settle() { // does not wait
		t.Error("sent behind a stream that is blocked")
	}
	if near[0].settle() {
		t.Error("sent to a stream that is blocked")
	}
	await(t, "end", done)
	wantBytes(t, far[2], "frame")
}

// Where nothing is gathered, few calls try.
func TestGatherGivesUpWhereItIsOfNoUse(t *testing.T) {
	near, far := gatherLinks(t, 2)
	var g gather
	for range 20 {
		if g.company(near[0], 1) {
			t.Error("company of nobody")
		}
	}
	g.active.Store(3)
	tried := 0
	for range 1000 { // the other calls are long ones
		if g.company(near[0], 1) {
			tried++
			g.post(near[0], frame("frame"))
			g.run()
			wantBytes(t, far[0], "frame")
		}
	}
	if tried < 10 || tried > 30 {
		t.Errorf("tried %d times in 1000", tried)
	}
	for !g.company(near[0], 1) {
	}
	g.post(near[0], frame("frame"))
	g.post(near[1], frame("frame"))
	g.run()
	for range 100 {
		if !g.company(near[0], gatherMax) {
			t.Fatal("no company where there is")
		}
	}
	if g.company(near[0], gatherMax+1) {
		t.Error("large bodies are gathered")
	}
	// In a crowd each is gathered, whatever came of it.
	g.direct.Store(1000)
	for range 10 {
		for range crowd {
			g.company(near[0], gatherMax+1)
		}
		if !g.company(near[1], gatherMax) {
			t.Fatal("no company in a crowd")
		}
	}
}

// Calls that wait behind one that a peer does not read end with their contexts,
// within milliseconds, and leave nothing behind.
func TestRegressionContextEndsAGatheredCall(t *testing.T) {
	c, s, id := pair(t, nil, &ClientConfig{WriteTimeout: time.Hour})
	entered, release := holder(t, s, "/kith-test/hold")
	done := make(chan error, 1)
	go func() { // company
		_, err := c.Send(ctxOf(t), id, "/kith-test/hold", nil)
		done <- err
	}()
	await(t, "handler", entered)
	c.mu.Lock()
	g := &c.peers[id].gather
	c.mu.Unlock()
	near, _ := gatherLinks(t, 1)
	_ = near[0].conn.SetWriteDeadline(time.Now().Add(short))
	for err := error(nil); err == nil; {
		_, err = near[0].conn.Write(make([]byte, 64<<10))
	}
	_ = near[0].conn.SetWriteDeadline(time.Time{})
	g.direct.Store(0)
	if !g.post(near[0], frame("blocked")) {
		t.Fatal("somebody runs")
	}
	ran := make(chan bool)
	go func() {
		defer close(ran)
		g.run()
	}()
	eventually(t, func() string {
		if near[0].out.Load() != outWriting {
			return "not yet"
		}
		return ""
	})
	g.direct.Store(0)
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	if _, err := c.Send(ctx, id, echoID, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call behind it: %v", err)
	}
	near[0].settle()
	await(t, "end of the writer", ran)
	if _, err := c.Send(ctxOf(t), id, echoID, nil); err != nil {
		t.Error(err)
	}
	close(release)
	if err := await(t, "answer", done); err != nil {
		t.Error(err)
	}
	if st := c.Stats(); st.Conns != st.Idle || st.Faults != (Faults{}) {
		t.Errorf("%+v", st)
	}
}
