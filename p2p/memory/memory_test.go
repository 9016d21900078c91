package memory_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// house is a network of nodes for one test.
type house struct {
	*memory.Network
	t    *testing.T
	keys []p2p.PrivKey
	node []*memory.Transport
}

func newHouse(t *testing.T, nodes int, o memory.Options) *house {
	t.Helper()
	h := &house{Network: memory.NewNetwork(o), t: t}
	for range nodes {
		key := newKey(t)
		h.keys = append(h.keys, key)
		h.node = append(h.node, listen(t, h.Network, key.Public().NodeID()))
	}
	return h
}

func (h *house) id(i int) p2p.NodeID { return h.keys[i].Public().NodeID() }

func (h *house) at(i int) p2p.Endpoint {
	return p2p.Endpoint{Protocol: memory.Protocol, Path: string(h.id(i))}
}

func (h *house) info(i int) p2p.NodeInfo {
	return p2p.NodeInfo{NodeID: h.id(i), Moniker: "node", Network: "test", Channels: []p2p.ChannelID{1, 2, 3}}
}

// connect joins two nodes and shakes hands.
func (h *house) connect(i, j int) (*memory.Connection, *memory.Connection) {
	h.t.Helper()
	x, err := h.node[i].Dial(h.t.Context(), h.at(j))
	if err != nil {
		h.t.Fatal(err)
	}
	y, err := h.node[j].Accept()
	if err != nil {
		h.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := y.Handshake(h.t.Context(), h.info(j), h.keys[j])
		done <- err
	}()
	if _, _, err := x.Handshake(h.t.Context(), h.info(i), h.keys[i]); err != nil {
		h.t.Fatal(err)
	}
	if err := <-done; err != nil {
		h.t.Fatal(err)
	}
	return x.(*memory.Connection), y.(*memory.Connection)
}

// balance checks the books of the network.
func (h *house) balance() memory.Count {
	h.t.Helper()
	all := h.Stats().Total()
	if all.Sent.Messages != all.Delivered.Messages+all.Destroyed.Messages+all.InFlight.Messages || all.Sent.Bytes != all.Delivered.Bytes+all.Destroyed.Bytes+all.InFlight.Bytes ||
		all.InFlight.Messages > 1<<40 || all.InFlight.Bytes > 1<<40 {
		h.t.Errorf("the books do not balance: %+v", all)
	}
	return all
}

// timed runs f and returns how long it took, in virtual time.
func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func mustSend(t *testing.T, c p2p.Connection, id p2p.ChannelID, data []byte) {
	t.Helper()
	if err := c.SendMessage(id, data); err != nil {
		t.Fatal(err)
	}
}

func mustReceive(t *testing.T, c p2p.Connection) []byte {
	t.Helper()
	_, data, err := c.ReceiveMessage()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestLatencyAndBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 3, memory.Options{})
		h.SetLink(h.id(0), h.id(1), memory.Link{Latency: 40 * time.Millisecond})
		h.SetLink(h.id(1), h.id(0), memory.Link{Latency: 60 * time.Millisecond})
		if took := timed(func() { _, _ = h.node[0].Dial(t.Context(), h.at(1)) }); took != 100*time.Millisecond {
			t.Errorf("a dial took %v, want one way there and one back", took)
		}
		_, _ = h.node[1].Accept()
		x, y := h.connect(0, 1)
		took := timed(func() {
			mustSend(t, x, 1, []byte("there"))
			mustReceive(t, y)
			mustSend(t, y, 1, []byte("back"))
			mustReceive(t, x)
		})
		if took != 100*time.Millisecond {
			t.Errorf("a round trip took %v", took)
		}

		// 1,000 bytes a second, shared by two connections of one link.
		h.SetLink(h.id(0), h.id(1), memory.Link{Bandwidth: 1000})
		x2, y2 := h.connect(0, 1)
		took = timed(func() {
			done := make(chan struct{})
			go func() {
				defer close(done)
				mustSend(t, x2, 1, make([]byte, 1000-memory.Overhead))
			}()
			mustSend(t, x, 1, make([]byte, 1000-memory.Overhead))
			<-done
			mustReceive(t, y)
			mustReceive(t, y2)
		})
		if took != 2*time.Second {
			t.Errorf("2,000 bytes at 1,000 a second took %v", took)
		}
		// The other direction, and other links, are as they were.
		if took := timed(func() { mustSend(t, y, 1, make([]byte, 100_000)); mustReceive(t, x) }); took != 60*time.Millisecond {
			t.Errorf("the way back took %v", took)
		}
		h.connect(0, 2)
	})
}

func TestJitterNeverReorders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 2, memory.Options{Seed: 7, Link: memory.Link{Latency: 10 * time.Millisecond, Jitter: 50 * time.Millisecond}})
		x, y := h.connect(0, 1)
		go func() {
			for i := range 200 {
				mustSend(t, x, 1, []byte{byte(i)})
				time.Sleep(time.Millisecond)
			}
		}()
		var last time.Time
		gaps := map[time.Duration]bool{}
		for i := range 200 {
			if data := mustReceive(t, y); data[0] != byte(i) {
				t.Fatalf("message %d is %d", i, data[0])
			}
			gaps[time.Since(last)] = true
			last = time.Now()
		}
		if len(gaps) < 20 {
			t.Errorf("%d different delays; is there jitter?", len(gaps))
		}
	})
}

// A sender blocks when the window is full, and goes on as the reader reads.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 2, memory.Options{Window: 10_000})
		x, y := h.connect(0, 1)
		sent := 0
		go func() {
			for range 100 {
				if x.SendMessage(1, make([]byte, 1000)) != nil {
					return
				}
				sent++
			}
		}()
		synctest.Wait()
		if sent != 9 {
			t.Errorf("%d messages of 1,016 bytes fit into a window of 10,000", sent)
		}
		mustReceive(t, y)
		synctest.Wait()
		if sent != 10 {
			t.Errorf("%d messages after one was read", sent)
		}
		_ = x.Close()
		_ = y.Close()
		h.balance()
	})
}

// What is sent across a partition arrives when it heals, in order; dials hang
// until then; the other direction goes on.
func TestPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 2, memory.Options{Link: memory.Link{Latency: 10 * time.Millisecond}})
		x, y := h.connect(0, 1)
		mustSend(t, x, 1, []byte("arrived"))
		time.Sleep(10 * time.Millisecond)
		mustSend(t, x, 1, []byte("on the way"))
		time.Sleep(5 * time.Millisecond)
		h.PartitionOneWay(h.id(0), h.id(1))
		h.PartitionOneWay(h.id(0), h.id(1))
		mustSend(t, x, 1, []byte("sent into it"))
		if data := mustReceive(t, y); string(data) != "arrived" {
			t.Errorf("%q", data)
		}
		if took := timed(func() { mustSend(t, y, 1, nil); mustReceive(t, x) }); took != 10*time.Millisecond {
			t.Errorf("the other direction took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, way := range [][2]int{{0, 1}, {1, 0}} {
			if _, err := h.node[way[0]].Dial(ctx, h.at(way[1])); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a dial across a partition: %v", err)
			}
		}
		time.AfterFunc(time.Hour, func() { h.Heal(h.id(0), h.id(1)) })
		took := timed(func() {
			for _, want := range []string{"on the way", "sent into it"} {
				if data := mustReceive(t, y); string(data) != want {
					t.Errorf("%q, want %q", data, want)
				}
			}
		})
		if took != time.Hour+10*time.Millisecond {
			t.Errorf("it arrived after %v", took)
		}
		// A dial that hangs goes on when it heals.
		h.Partition(h.id(0), h.id(1))
		time.AfterFunc(time.Second, h.HealAll)
		if took := timed(func() {
			if _, err := h.node[0].Dial(t.Context(), h.at(1)); err != nil {
				t.Error(err)
			}
		}); took != time.Second+20*time.Millisecond {
			t.Errorf("a dial that waited took %v", took)
		}
		if f := h.Stats().Faults; f.Partitions != 3 || f.Total() != 3 {
			t.Errorf("%+v", f)
		}
	})
}

// A partition that begins, ends and begins again holds up what is on the way.
func TestPartitionAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 2, memory.Options{Link: memory.Link{Latency: 10 * time.Millisecond}})
		x, y := h.connect(0, 1)
		start := time.Now()
		h.Partition(h.id(0), h.id(1))
		mustSend(t, x, 1, []byte("one"))
		h.Heal(h.id(0), h.id(1))
		time.Sleep(5 * time.Millisecond)
		h.Partition(h.id(0), h.id(1))
		mustSend(t, x, 1, []byte("two"))
		time.AfterFunc(time.Second, h.HealAll)
		for _, want := range []string{"one", "two"} {
			if data := mustReceive(t, y); string(data) != want {
				t.Errorf("%q, want %q", data, want)
			}
		}
		if took := time.Since(start); took != time.Second+15*time.Millisecond {
			t.Errorf("it arrived after %v", took)
		}
		h.balance()
	})
}

// The end of a connection is held up by a partition like everything else, and so
// is the sender that waits for it.
func TestCloseAcrossPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 2, memory.Options{Window: 2000})
		x, y := h.connect(0, 1)
		h.Partition(h.id(0), h.id(1))
		_ = y.Close()
		time.AfterFunc(time.Minute, h.HealAll)
		took := timed(func() {
			for {
				if err := x.SendMessage(1, make([]byte, 1000)); err != nil {
					if err != io.EOF {
						t.Error(err)
					}
					return
				}
			}
		})
		if took != time.Minute {
			t.Errorf("the sender learnt of it after %v", took)
		}
		if _, _, err := x.ReceiveMessage(); err != io.EOF {
			t.Error(err)
		}
		_ = x.Close()
		if all := h.balance(); all.InFlight != (memory.Volume{}) || all.Delivered.Messages != 0 || all.Destroyed.Messages == 0 {
			t.Errorf("%+v", all)
		}
	})
}

func TestBreakAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 3, memory.Options{BreakAfter: time.Minute})
		x, y := h.connect(0, 1)
		other, _ := h.connect(0, 2)
		h.PartitionOneWay(h.id(0), h.id(1))
		time.Sleep(30 * time.Second)
		h.HealAll()
		time.Sleep(time.Hour)
		mustSend(t, x, 1, nil)
		mustReceive(t, y)
		h.PartitionOneWay(h.id(0), h.id(1))
		if took := timed(func() {
			if _, _, err := x.ReceiveMessage(); !errors.Is(err, memory.ErrReset) {
				t.Error(err)
			}
			if _, _, err := y.ReceiveMessage(); !errors.Is(err, memory.ErrReset) {
				t.Error(err)
			}
		}); took != time.Minute {
			t.Errorf("broken after %v", took)
		}
		mustSend(t, other, 1, nil)
		if f := h.Stats().Faults; f.Broken != 1 || f.Partitions != 2 {
			t.Errorf("%+v", f)
		}
	})
}

// A stalled peer can be dialled and says nothing.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 2, memory.Options{Window: 5000})
		x, y := h.connect(0, 1)
		h.Stall(h.id(0), h.id(1))
		sent := 0
		go func() {
			for x.SendMessage(1, make([]byte, 1000)) == nil {
				sent++
			}
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if sent != 4 {
			t.Errorf("%d messages into a stalled link", sent)
		}
		if _, err := h.node[0].Dial(t.Context(), h.at(1)); err != nil {
			t.Error(err)
		}
		h.Heal(h.id(0), h.id(1))
		for range 20 {
			mustReceive(t, y)
		}
		if h.Reset(h.id(1), h.id(0)) != 2 {
			t.Error("not both connections were reset")
		}
		synctest.Wait()
		if f := h.Stats().Faults; f.Stalls != 1 || f.Resets != 2 {
			t.Errorf("%+v", f)
		}
		h.balance()
	})
}

// A reset in the middle of everything destroys what was on the way, and the books
// say exactly how much: by channel, in messages and in bytes.
// What a fault does is counted where it does it, and an order that nobody meets is
// not.
func TestHarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fair := memory.Link{Latency: 10 * time.Millisecond, Jitter: 5 * time.Millisecond}
		h := newHouse(t, 2, memory.Options{Link: fair, BreakAfter: time.Minute})
		x, y := h.connect(0, 1)
		a, b := h.id(0), h.id(1)
		harmed := func(what string, want memory.Harm) {
			t.Helper()
			synctest.Wait()
			if got := h.Harm(a, b); got != want {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
			if back := h.Harm(b, a); back != (memory.Harm{}) {
				t.Errorf("%s: %+v the other way", what, back)
			}
		}
		var want memory.Harm
		mustSend(t, x, 1, []byte("fair"))
		harmed("on a fair link", want)
		h.PartitionOneWay(a, b)
		h.Stall(a, b)
		harmed("shut, and nothing sent", want)
		h.Heal(a, b)
		h.PartitionOneWay(a, b)
		mustSend(t, x, 1, []byte("held"))
		mustSend(t, y, 1, []byte("not held"))
		want.Cut++
		harmed("partitioned", want)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.node[0].Dial(ctx, h.at(1)); err == nil {
			t.Error("a dial came through")
		}
		want.Cut++
		harmed("a dial", want)
		time.Sleep(time.Minute)
		want.Cut++
		harmed("a connection broke", want)
		h.Heal(a, b)
		x, _ = h.connect(0, 1)
		h.Stall(a, b)
		mustSend(t, x, 1, []byte("stalled"))
		want.Stalled++
		harmed("stalled", want)
		h.Heal(a, b)
		h.SetLink(a, b, memory.Link{Latency: 5 * time.Millisecond})
		mustSend(t, x, 1, []byte("faster"))
		harmed("faster", want)
		h.SetLink(a, b, memory.Link{Latency: 20 * time.Millisecond})
		mustSend(t, x, 1, []byte("later"))
		want.Slowed++
		harmed("a latency", want)
		h.SetLink(a, b, memory.Link{Latency: fair.Latency, Jitter: fair.Jitter, Bandwidth: 1000})
		mustSend(t, x, 1, []byte("narrow"))
		want.Slowed++
		harmed("a bandwidth", want)
		h.SetLink(a, b, memory.Link{Latency: 20 * time.Millisecond})
		if _, err := h.node[0].Dial(t.Context(), h.at(1)); err != nil {
			t.Error(err)
		}
		want.Slowed++
		harmed("a slow dial", want)
		h.SetLink(a, b, fair)
		mustSend(t, x, 1, []byte("fair again"))
		harmed("fair again", want)
	})
}

func TestResetIsCountedExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 2, memory.Options{MaxChunk: 100, Link: memory.Link{Latency: time.Second}})
		x, y := h.connect(0, 1)
		mustSend(t, x, 1, make([]byte, 250)) // will be read
		mustSend(t, x, 2, make([]byte, 70))  // arrives, is not read
		time.Sleep(time.Second)
		mustReceive(t, y)
		mustSend(t, x, 1, make([]byte, 1000))        // on the way
		_ = x.SendChunk(3, make([]byte, 100), false) // begun
		_ = x.SendChunk(2, make([]byte, 30), true)   // buffered
		mustSend(t, y, 1, []byte("the other way"))   // on the way
		if n := h.Reset(h.id(0), h.id(1)); n != 1 {
			t.Fatalf("%d connections", n)
		}
		want := map[p2p.ChannelID]memory.Count{
			1: {Sent: memory.Volume{3, 1263}, Delivered: memory.Volume{1, 250}, Destroyed: memory.Volume{2, 1013}},
			2: {Sent: memory.Volume{2, 100}, Destroyed: memory.Volume{2, 100}},
			3: {Sent: memory.Volume{0, 100}, Destroyed: memory.Volume{0, 100}},
		}
		got := h.Stats()
		for id, c := range want {
			if got.Channels[id] != c {
				t.Errorf("channel %d: %+v, want %+v", id, got.Channels[id], c)
			}
		}
		if got.Open != 0 || got.Connections != 1 || h.Reset(h.id(0), h.id(1)) != 0 {
			t.Errorf("%+v", got)
		}
		for what, err := range map[string]error{
			"SendMessage": x.SendMessage(1, nil), "SendChunk": y.SendChunk(1, nil, true), "Flush": y.Flush(),
			"ReceiveMessage": func() error { _, _, err := y.ReceiveMessage(); return err }(),
		} {
			if !errors.Is(err, memory.ErrReset) {
				t.Errorf("%s after a reset: %v", what, err)
			}
		}
		_ = x.Close()
		if err := x.SendMessage(1, nil); err != io.EOF {
			t.Errorf("after a reset and Close: %v", err)
		}
		h.balance()
	})
}

// A cut comes in the middle of a message: the reader has a part of it.
func TestCutAfterLeavesHalfAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 2, memory.Options{MaxChunk: 100})
		x, y := h.connect(0, 1)
		h.CutAfter(h.id(0), h.id(1), 7)
		received := make(chan int)
		go func() {
			n := 0
			for ; ; n++ {
				if _, _, err := y.ReceiveMessage(); err != nil {
					if !errors.Is(err, memory.ErrReset) {
						t.Error(err)
					}
					received <- n
					return
				}
			}
		}()
		sent := 0
		var err error
		for err == nil {
			for i := range 3 {
				if err = x.SendChunk(1, make([]byte, 100), i == 2); err != nil {
					break
				}
				if err = x.Flush(); err != nil {
					break
				}
				synctest.Wait()
			}
			if err == nil {
				sent++
			}
		}
		if n := <-received; sent != 2 || n != 2 || !errors.Is(err, memory.ErrReset) {
			t.Errorf("%d messages sent, %d received before the cut: %v", sent, n, err)
		}
		st := h.Stats()
		if c := st.Channels[1]; c.Sent.Messages != 2 || c.Sent.Bytes != 700 || c.Destroyed.Bytes != 100 || st.Faults.Cuts != 1 {
			t.Errorf("%+v", st)
		}
		h.balance()
	})
}

func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 3, memory.Options{Link: memory.Link{Latency: time.Millisecond}})
		x, _ := h.connect(0, 1)
		_, z := h.connect(2, 0)
		bystander, _ := h.connect(1, 2)
		if _, err := h.node[2].Dial(t.Context(), h.at(0)); err != nil { // waits to be accepted
			t.Fatal(err)
		}
		accept := make(chan error)
		go func() {
			var err error
			for err == nil {
				_, err = h.node[0].Accept()
			}
			accept <- err
		}()
		dial := make(chan error)
		h.SetLink(h.id(0), h.id(1), memory.Link{Latency: time.Hour})
		go func() {
			_, err := h.node[0].Dial(t.Context(), h.at(1))
			dial <- err
		}()
		synctest.Wait()
		if !h.Crash(h.id(0)) || h.Crash(h.id(0)) {
			t.Error("a node crashes once")
		}
		if err := <-accept; err != io.EOF {
			t.Error(err)
		}
		if err := <-dial; !errors.Is(err, memory.ErrClosed) {
			t.Error(err)
		}
		for _, c := range []*memory.Connection{x, z} {
			if _, _, err := c.ReceiveMessage(); !errors.Is(err, memory.ErrReset) {
				t.Error(err)
			}
		}
		mustSend(t, bystander, 1, nil)
		if _, err := h.node[1].Dial(t.Context(), h.at(0)); !errors.Is(err, memory.ErrRefused) {
			t.Error(err)
		}
		if _, err := h.node[0].Dial(t.Context(), h.at(1)); !errors.Is(err, memory.ErrClosed) {
			t.Error(err)
		}
		if es := h.node[0].Endpoints(); len(es) != 0 {
			t.Errorf("a crashed node listens at %v", es)
		}
		h.node[0] = listen(t, h.Network, h.id(0))
		h.SetLink(h.id(0), h.id(1), memory.Link{})
		h.connect(1, 0)
		if f := h.Stats().Faults; f.Crashes != 1 || f.SlowLinks != 1 {
			t.Errorf("%+v", f)
		}
	})
}

func TestAcceptErrorsAndRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, 2, memory.Options{Backlog: 2})
		full := errors.New("too many open files")
		h.FailAccepts(h.id(1), full, full)
		accepted := make(chan error)
		go func() {
			for range 3 {
				_, err := h.node[1].Accept()
				accepted <- err
			}
		}()
		for range 2 {
			if err := <-accepted; err != full {
				t.Error(err)
			}
		}
		if _, err := h.node[0].Dial(t.Context(), h.at(1)); err != nil {
			t.Error(err)
		}
		if err := <-accepted; err != nil {
			t.Error(err)
		}
		h.RefuseDials(h.id(1), 1)
		if _, err := h.node[0].Dial(t.Context(), h.at(1)); !errors.Is(err, memory.ErrRefused) {
			t.Error(err)
		}
		for range 2 {
			if _, err := h.node[0].Dial(t.Context(), h.at(1)); err != nil {
				t.Error(err)
			}
		}
		if _, err := h.node[0].Dial(t.Context(), h.at(1)); !errors.Is(err, memory.ErrRefused) || !strings.Contains(err.Error(), "2 connections wait") {
			t.Errorf("into a full backlog: %v", err)
		}
		if f := h.Stats().Faults; f.AcceptErrors != 2 || f.RefusedDials != 1 {
			t.Errorf("%+v", f)
		}
		h.FailAccepts("nobody", full)
		h.RefuseDials("nobody", 1)
		_ = h.node[1].Close()
		if st := h.Stats(); st.Open != 1 {
			t.Errorf("%d connections are open, want the one that was accepted", st.Open)
		}
	})
}

// Nodes have IPs where a test wants them, and can move.
func TestPlaces(t *testing.T) {
	h := newHouse(t, 1, memory.Options{})
	at := netip.MustParseAddrPort
	key := newKey(t)
	id := key.Public().NodeID()
	node := listen(t, h.Network, id, at("10.0.0.1:26656"), at("[2001:db8::1]:26656"))
	if got := node.Protocols(); !slices.Equal(got, []p2p.Protocol{memory.Protocol, memory.ProtocolIP}) {
		t.Errorf("%q", got)
	}
	if got := h.node[0].Protocols(); !slices.Equal(got, []p2p.Protocol{memory.Protocol}) {
		t.Errorf("%q", got)
	}
	for _, e := range node.Endpoints() {
		as, err := e.NodeAddress(id).Resolve(t.Context())
		if err != nil || len(as) != 1 || as[0].String() != e.String() {
			t.Errorf("%v resolves to %v (%v)", e, as, err)
		}
		c, err := h.node[0].Dial(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		other, _ := node.Accept()
		if c.RemoteEndpoint().String() != e.String() || other.LocalEndpoint().String() != e.String() || other.RemoteEndpoint().String() != "memory:"+string(h.id(0)) {
			t.Errorf("dialled %v: %v, %v from %v", e, c.RemoteEndpoint(), other.LocalEndpoint(), other.RemoteEndpoint())
		}
		back, err := node.Dial(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if e.Protocol == memory.ProtocolIP && (len(back.LocalEndpoint().IP) == 0 || back.LocalEndpoint().Port < 40_000) {
			t.Errorf("a dial by IP comes from %v", back.LocalEndpoint())
		}
		_, _ = node.Accept()
	}
	if err := node.Move(at("10.9.9.9:1")); err != nil {
		t.Fatal(err)
	}
	ip := func(s string, port uint16) p2p.Endpoint {
		return p2p.Endpoint{Protocol: memory.ProtocolIP, IP: netip.MustParseAddr(s).AsSlice(), Port: port}
	}
	if _, err := h.node[0].Dial(t.Context(), ip("10.0.0.1", 26656)); !errors.Is(err, memory.ErrRefused) {
		t.Errorf("at the old place: %v", err)
	}
	if _, err := h.node[0].Dial(t.Context(), ip("10.9.9.9", 1)); err != nil {
		t.Errorf("at the new place: %v", err)
	}
	if _, err := h.Listen(newKey(t).Public().NodeID(), at("10.9.9.9:1")); !errors.Is(err, memory.ErrAddressInUse) {
		t.Error(err)
	}
	if err := h.node[0].Move(at("10.9.9.9:1")); !errors.Is(err, memory.ErrAddressInUse) {
		t.Error(err)
	}
	if err := h.node[0].Move(at("10.9.9.9:0")); err == nil {
		t.Error("port 0 is no place")
	}
	if _, err := h.Listen(id); !errors.Is(err, memory.ErrAddressInUse) {
		t.Error(err)
	}
	if _, err := h.Listen("x"); err == nil {
		t.Error("a node without an ID")
	}
	_ = node.Close()
	if err := node.Move(); !errors.Is(err, memory.ErrClosed) {
		t.Error(err)
	}
	for _, e := range []p2p.Endpoint{{}, {Protocol: "mconn", Path: "x"}, {Protocol: memory.Protocol, Path: string(id)}, ip("10.9.9.9", 1)} {
		if _, err := h.node[0].Dial(t.Context(), e); err == nil {
			t.Errorf("%v answers", e)
		}
	}
}

// Nothing can be sent or received before the handshake, and what a peer says
// instead of it is an error.
func TestBeforeTheHandshake(t *testing.T) {
	h := newHouse(t, 2, memory.Options{})
	x, err := h.node[0].Dial(t.Context(), h.at(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := x.SendMessage(1, nil); !errors.Is(err, memory.ErrHandshake) {
		t.Error(err)
	}
	if err := x.(p2p.ChunkSender).Flush(); !errors.Is(err, memory.ErrHandshake) {
		t.Error(err)
	}
	if _, _, err := x.ReceiveMessage(); !errors.Is(err, memory.ErrHandshake) {
		t.Error(err)
	}
	h.Reset(h.id(0), h.id(1))
	if err := x.SendMessage(1, nil); !errors.Is(err, memory.ErrReset) {
		t.Error(err)
	}
	y, err := h.node[0].Dial(t.Context(), h.at(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := y.Handshake(t.Context(), h.info(0), p2p.PrivKey{}); err == nil {
		t.Error("a handshake without a key")
	}
	z, err := h.node[0].Dial(t.Context(), h.at(1))
	if err != nil {
		t.Fatal(err)
	}
	long := h.info(0)
	long.Moniker = strings.Repeat("x", 100_000)
	if _, _, err := z.Handshake(t.Context(), long, h.keys[0]); !errors.Is(err, memory.ErrHandshake) {
		t.Error(err)
	}
}

// The same seed gives the same jitter.
func TestSeed(t *testing.T) {
	arrivals := func(seed uint64) string {
		var log strings.Builder
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t, 2, memory.Options{Seed: seed, Link: memory.Link{Jitter: time.Second}})
			x, y := h.connect(0, 1)      // in which both draw at once, whoever is first
			time.Sleep(10 * time.Second) // until nothing of it is on its way
			start := time.Now()
			for range 20 {
				mustSend(t, x, 1, nil)
				mustReceive(t, y)
				fmt.Fprintln(&log, time.Since(start))
			}
		})
		return log.String()
	}
	a, b, c := arrivals(1), arrivals(1), arrivals(2)
	if a != b {
		t.Errorf("one seed, two runs:\n%s\n%s", a, b)
	}
	if a == c {
		t.Error("two seeds, one run")
	}
}
