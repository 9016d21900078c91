package comet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/comet/comettest"
	"github.com/kith-p2p/kith/internal/pb/cometv1"
	"github.com/kith-p2p/kith/p2p"
)

func TestClient(t *testing.T) {
	goroutines(t)
	n := comettest.Start(t, comettest.Options{Blocks: 5})
	n.AddBlock([]byte("a=b"), nil, []byte("c=d"))
	c := dial(t, n.Address(), Options{})
	if s, err := c.Status(t.Context()); err != nil || s != (Status{6, 1}) {
		t.Errorf("%+v, %v", s, err)
	}
	for height := int64(1); height <= 6; height++ {
		b, err := c.Block(t.Context(), height)
		want, hash := n.Block(height)
		if err != nil || b.Height != height || string(b.Hash) != string(hash) || b.Network != comettest.Network ||
			!b.Time.Equal(want.GetHeader().GetTime().AsTime()) || string(b.AppHash) != string(want.GetHeader().GetAppHash()) {
			t.Errorf("%+v, %v", b, err)
		}
		if len(b.Txs) != len(want.GetData().GetTxs()) || height == 6 && string(b.Txs[2]) != "c=d" {
			t.Errorf("%q", b.Txs)
		}
	}
	for _, height := range []int64{-1, 0, 7, 1 << 40} {
		if _, err := c.Block(t.Context(), height); !errors.Is(err, ErrNoBlock) || !strings.Contains(err.Error(), fmt.Sprint(height)) {
			t.Error(err)
		}
	}
	for _, tx := range []int{0, MaxTx + 1} {
		if err := c.SubmitTx(t.Context(), make([]byte, tx)); !errors.Is(err, ErrTx) || !strings.Contains(err.Error(), fmt.Sprint(tx)) {
			t.Error(err)
		}
	}
	long := slices.Repeat([]byte("x"), MaxTx)
	for _, tx := range [][]byte{[]byte("first"), long, []byte("last")} {
		if err := c.SubmitTx(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if txs := n.Txs(); len(txs) == 0 || string(txs[len(txs)-1]) != string(tx) {
			t.Errorf("the node has %d transactions", len(txs))
		}
	}
	// Many at a time: everybody gets what was asked for.
	var askers sync.WaitGroup
	for i := range 32 {
		askers.Go(func() {
			b, err := c.Block(t.Context(), int64(1+i%6))
			if err != nil || b.Height != int64(1+i%6) {
				t.Error(b.Height, err)
			}
			if _, err := c.Status(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	askers.Wait()
	if len(c.waiting) != 0 {
		t.Errorf("%d questions are remembered", len(c.waiting))
	}

	select {
	case <-c.Done():
		t.Error("done too early")
	default:
	}
	c.Close()
	c.Close()
	<-c.Done()
	for name, err := range map[string]error{
		"Status":   second(c.Status(t.Context())),
		"Block":    second(c.Block(t.Context(), 1)),
		"Blocks":   last(c.Blocks(t.Context(), 1)),
		"SubmitTx": c.SubmitTx(t.Context(), []byte("a")),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// last is the error that blocks end with.
func last(blocks func(func(Block, error) bool)) (err error) {
	for _, err = range blocks {
	}
	return err
}

func TestBlocks(t *testing.T) {
	goroutines(t)
	n := comettest.Start(t, comettest.Options{Blocks: 3})
	c := dial(t, n.Address(), Options{Poll: time.Millisecond})
	read := func(from int64, until int64, each func(int64)) error {
		for b, err := range c.Blocks(t.Context(), from) {
			if err != nil {
				return err
			}
			if each != nil {
				each(b.Height)
			}
			if b.Height == until {
				return nil
			}
		}
		return errors.New("no error at the end")
	}
	var heights []int64
	note := func(h int64) {
		heights = append(heights, h)
		if h >= 3 && h < 8 { // the chain grows while we read
			n.AddBlock(fmt.Append(nil, h))
		}
	}
	if err := read(2, 8, note); err != nil || !slices.Equal(heights, []int64{2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("%v, %v", heights, err)
	}
	heights = nil
	if err := read(0, 8, note); err != nil || !slices.Equal(heights, []int64{8}) {
		t.Errorf("from the newest: %v, %v", heights, err)
	}
	for _, from := range []int64{10, 1<<63 - 1} {
		if err := read(from, 0, nil); !errors.Is(err, ErrNoBlock) || !strings.Contains(err.Error(), fmt.Sprintf("1 to 8, not %d", from)) {
			t.Error(err)
		}
	}
	// The end of the context comes last.
	ctx, cancel := context.WithCancel(t.Context())
	for b, err := range c.Blocks(ctx, 8) {
		if b.Height == 8 {
			cancel()
		} else if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	cancel()
	// And so does that of the node.
	for b, err := range c.Blocks(t.Context(), 8) {
		if b.Height == 8 {
			n.Disconnect()
		} else if !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "log") {
			t.Error(err)
		}
	}
	<-c.Done()
}

// A chain that was pruned, one that is empty, and one whose blocks do not fit.
func TestBlocksOfOddChains(t *testing.T) {
	goroutines(t)
	status := func(height, base int64) *cometv1.BlocksyncMessage {
		return &cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_StatusResponse{StatusResponse: &cometv1.StatusResponse{Height: height, Base: base}}}
	}
	pruned := comettest.Start(t, comettest.Options{Blocks: 9, Handle: func(p *comettest.Peer, _ p2p.ChannelID, m []byte) bool {
		if question(m) == askStatus || m == nil {
			p.Tell(status(9, 5))
			return true
		}
		return false
	}})
	c := dial(t, pruned.Address(), Options{})
	if err := last(c.Blocks(t.Context(), 4)); !errors.Is(err, ErrNoBlock) || !strings.Contains(err.Error(), "5 to 9, not 4") {
		t.Error(err)
	}

	asked := make(chan struct{})
	empty := comettest.Start(t, comettest.Options{Handle: func(_ *comettest.Peer, _ p2p.ChannelID, m []byte) bool {
		if question(m) == askStatus {
			select {
			case asked <- struct{}{}:
			case <-t.Context().Done():
			}
		}
		return false
	}})
	go func() {
		for i := range 100 {
			if i == 10 {
				empty.AddBlock()
			}
			select {
			case <-asked:
			case <-t.Context().Done():
				return
			}
		}
	}()
	c = dial(t, empty.Address(), Options{Poll: time.Millisecond})
	if s, err := c.Status(t.Context()); err != nil || s != (Status{}) {
		t.Error(s, err)
	}
	for b, err := range c.Blocks(t.Context(), 0) { // waits for the first
		if err != nil || b.Height != 1 {
			t.Error(b, err)
		}
		break
	}

	other := comettest.NextBlock([]*cometv1.Block{comettest.NextBlock(nil, []byte("another chain"))})
	forked := comettest.Start(t, comettest.Options{Blocks: 3, Handle: func(p *comettest.Peer, _ p2p.ChannelID, m []byte) bool {
		if q, err := readMessage(m); err == nil && q.kind == askBlock && must(q.height()) == 2 {
			p.Tell(&cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_BlockResponse{BlockResponse: &cometv1.BlockResponse{Block: other}}})
			return true
		}
		return false
	}})
	c = dial(t, forked.Address(), Options{})
	got := 0
	for _, err := range c.Blocks(t.Context(), 1) {
		if got++; got == 2 && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "block 2 follows")) {
			t.Error(err)
		}
	}
	if got != 2 {
		t.Errorf("%d blocks", got)
	}
}

// question is what a message asks; 0: it is none.
func question(m []byte) protowire.Number {
	q, _ := readMessage(m)
	return q.kind
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A node that does not answer: the deadline says who did not, and what.
func TestNoAnswer(t *testing.T) {
	goroutines(t)
	var mute sync.Map // of the questions that are not answered
	n := comettest.Start(t, comettest.Options{Blocks: 3, Handle: func(_ *comettest.Peer, _ p2p.ChannelID, m []byte) bool {
		_, is := mute.Load(question(m))
		return is && m != nil
	}})
	c := dial(t, n.Address(), Options{Wait: time.Second})
	mute.Store(askStatus, true)
	mute.Store(askBlock, true)
	for _, tc := range []struct {
		what string
		ask  func(context.Context) error
	}{
		{"how high its chain is", func(ctx context.Context) error { return second(c.Status(ctx)) }},
		{"for block 5", func(ctx context.Context) error { return second(c.Block(ctx, 5)) }},
		{"for block 4611686018427387905", func(ctx context.Context) error { return c.SubmitTx(ctx, []byte("a")) }},
		{"how high its chain is", func(context.Context) error { return last(c.Blocks(t.Context(), 1)) }}, // Options.Wait
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := tc.ask(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), tc.what) || !strings.Contains(err.Error(), string(n.ID())) || !strings.Contains(err.Error(), "stand-in") {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
	mute.Delete(askStatus)
	if err := last(c.Blocks(t.Context(), 3)); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "block 3") {
		t.Error(err)
	}
	mute.Delete(askBlock)
	if _, err := c.Block(t.Context(), 3); err != nil { // it is none the worse
		t.Error(err)
	}
	// One that is silent from the start.
	mute.Store(askStatus, true)
	silent := comettest.Start(t, comettest.Options{Handle: func(*comettest.Peer, p2p.ChannelID, []byte) bool { return true }})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := Dial(ctx, silent.Address(), Options{}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "did not answer how high") {
		t.Error(err)
	}
}

// What a node sends that no honest one does: the call that asked says so, or the
// connection ends and every call says so. Nothing of it is believed.
func TestBadInput(t *testing.T) {
	// A bad block is the fault of the call.
	for name, body := range badBlocks(t) {
		t.Run(name, func(t *testing.T) {
			goroutines(t)
			wire := lengthPrefixed(3, uint64(len(body)), body...)
			n := comettest.Start(t, comettest.Options{Blocks: 3, Handle: func(p *comettest.Peer, ch p2p.ChannelID, m []byte) bool {
				if q, err := readMessage(m); err != nil || q.kind != askBlock || must(q.height()) != 2 {
					return false
				}
				p.Send(ch, wire)
				return true
			}})
			c := dial(t, n.Address(), Options{})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if strings.HasSuffix(name, "height") { // is no answer
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			defer cancel()
			b, err := c.Block(ctx, 2)
			switch {
			case b.Height != 0 || err == nil:
				t.Errorf("%+v, %v", b, err)
			case errors.Is(err, ErrClosed) && errors.Is(err, ErrInvalid):
				<-c.Done() // it could not be read
			case errors.Is(err, ErrInvalid), strings.HasSuffix(name, "height") && errors.Is(err, context.DeadlineExceeded):
				if _, err := c.Block(t.Context(), 3); err != nil { // the others are as they were
					t.Error(err)
				}
			default:
				t.Error(err)
			}
		})
	}
	// A message that is none ends the connection.
	for name, wire := range map[string][]byte{
		"an empty message":    {},
		"of no known field":   lengthPrefixed(9, 1, 0),
		"a status of minus 1": lengthPrefixed(5, 11, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
		"a block of nothing":  lengthPrefixed(3, 0),
		"no block of nothing": lengthPrefixed(2, 1, 0xff),
	} {
		t.Run(name, func(t *testing.T) {
			goroutines(t)
			n := comettest.Start(t, comettest.Options{Blocks: 3, Handle: func(p *comettest.Peer, ch p2p.ChannelID, m []byte) bool {
				if q, err := readMessage(m); err != nil || q.kind != askBlock || must(q.height()) != 2 {
					return false
				}
				p.Send(ch, wire)
				return true
			}})
			c := dial(t, n.Address(), Options{})
			if _, err := c.Block(t.Context(), 2); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
			<-c.Done()
			if _, err := c.Status(t.Context()); !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
		})
	}
	// What is not even Protobuf never gets here; the deadline counts it.
	t.Run("no protobuf", func(t *testing.T) {
		goroutines(t)
		n := comettest.Start(t, comettest.Options{Blocks: 3, Handle: func(p *comettest.Peer, ch p2p.ChannelID, m []byte) bool {
			if q, err := readMessage(m); err != nil || q.kind != askBlock || must(q.height()) != 2 {
				return false
			}
			p.Send(ch, lengthPrefixed(3, 1<<31, 1, 2, 3))
			return true
		}})
		c := dial(t, n.Address(), Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Block(ctx, 2); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 messages of it could not be read") {
			t.Error(err)
		}
	})
	// Answers and transactions that nobody asked for.
	t.Run("unasked", func(t *testing.T) {
		goroutines(t)
		n := comettest.Start(t, comettest.Options{Blocks: 3, Handle: func(p *comettest.Peer, ch p2p.ChannelID, m []byte) bool {
			if question(m) == askStatus {
				for range 1000 {
					p.Tell(&cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_NoBlockResponse{NoBlockResponse: &cometv1.NoBlockResponse{Height: 3}}})
				}
				p.Send(comettest.TxChannel, must(proto.Marshal(&cometv1.MempoolMessage{Sum: &cometv1.MempoolMessage_Txs{Txs: &cometv1.Txs{Txs: [][]byte{{1}}}}})))
			}
			return false
		}})
		c := dial(t, n.Address(), Options{})
		if b, err := c.Block(t.Context(), 2); err != nil || b.Height != 2 {
			t.Error(b, err)
		}
		if len(c.waiting) != 0 {
			t.Errorf("%d remembered", len(c.waiting))
		}
	})
}

// A node asks us, too: we have nothing, and say so.
func TestQuestionsOfTheNode(t *testing.T) {
	goroutines(t)
	answers := make(chan message, 2)
	n := comettest.Start(t, comettest.Options{Blocks: 1, Handle: func(p *comettest.Peer, ch p2p.ChannelID, m []byte) bool {
		if m == nil {
			p.Tell(&cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_StatusRequest{StatusRequest: &cometv1.StatusRequest{}}})
			p.Tell(&cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_BlockRequest{BlockRequest: &cometv1.BlockRequest{Height: 77}}})
			return true
		}
		q, err := readMessage(m)
		if err == nil && (q.kind == tellStatus || q.kind == noBlock) {
			answers <- q
			return true
		}
		return false
	}})
	dial(t, n.Address(), Options{})
	for _, want := range []int64{0, 77} {
		select {
		case m := <-answers:
			if h, err := m.height(); err != nil || h != want || (m.kind == noBlock) != (want == 77) {
				t.Error(m, h, err)
			}
		case <-time.After(patience):
			t.Fatal("no answer")
		}
	}
}

// The node took the transaction when SubmitTx returns, even where answers to
// questions asked before are still on their way.
func TestRegressionSubmitTxReturnsTooEarly(t *testing.T) {
	goroutines(t)
	// The first status comes unasked, so that there is always one answer more
	// than questions.
	n := comettest.Start(t, comettest.Options{Blocks: 1})
	for i := range 20 {
		c := dial(t, n.Address(), Options{})
		tx := fmt.Sprintf("tx %d", i)
		if err := c.SubmitTx(t.Context(), []byte(tx)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if txs := n.Txs(); len(txs) != i+1 || string(txs[i]) != tx {
			t.Fatalf("%q is not there: %q", tx, txs)
		}
	}
}
