package comet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kith-p2p/kith/internal/pb/cometv1"
	"github.com/kith-p2p/kith/p2p"
)

// MaxTx is the longest transaction in bytes that a mempool takes by default.
const MaxTx = 1 << 20

// Errors of a Client that a caller can decide on, beside ErrInvalid.
var (
	// ErrNoBlock says that the node does not have the height.
	ErrNoBlock = errors.New("comet: the node does not have this block")
	// ErrTx says that a transaction is empty or longer than MaxTx.
	ErrTx = errors.New("comet: not a transaction that a mempool takes")
	// ErrClosed is returned after Close, and when the node is gone.
	ErrClosed = errors.New("comet: closed")
)

// Status is how much of its chain a node has: the blocks from Base to Height. A
// node without any has 0 for both.
type Status struct{ Height, Base int64 }

// Client is a connection to one CometBFT node. When that is lost, so is the
// Client: Done is closed, and every method returns an error that wraps ErrClosed.
// All methods are safe for concurrent use.
type Client struct {
	o      Options
	info   p2p.NodeInfo
	pm     *p2p.PeerManager
	router *p2p.Router
	blocks *p2p.TypedChannel[*emptypb.Empty]
	txs    *p2p.TypedChannel[*cometv1.MempoolMessage]
	work   sync.WaitGroup
	gone   chan struct{} // closed when the node is gone or Close was called
	once   sync.Once     // of closing gone

	mu      sync.Mutex // guards the fields below
	status  Status
	known   bool                     // status was heard
	heard   chan struct{}            // closed and replaced at each status
	waiting map[int64][]chan message // for the block of a height
	marks   int64                    // how often settled was called
	fault   error                    // what the node sent that no node does
	closed  bool
}

func newClient(o Options, info p2p.NodeInfo) *Client {
	return &Client{o: o, info: info, gone: make(chan struct{}), heard: make(chan struct{}), waiting: make(map[int64][]chan message)}
}

// watch notes when the node is up, and that it is gone.
func (c *Client) watch(updates *p2p.PeerUpdates, up chan struct{}) {
	defer updates.Close()
	seen := false
	for u := range updates.Updates() {
		switch {
		case u.Status == p2p.PeerStatusUp && !seen:
			seen = true
			close(up)
		case u.Status == p2p.PeerStatusDown && seen:
			c.end()
			return
		}
	}
}

func (c *Client) end() { c.once.Do(func() { close(c.gone) }) }

// receive hands what the node sends to those who wait for it.
func (c *Client) receive() {
	for in, err := range c.blocks.Receive(context.Background()) {
		if err != nil {
			return
		}
		if err := c.handle(in.Message.ProtoReflect().GetUnknown()); err != nil {
			c.mu.Lock()
			if c.fault == nil {
				c.fault = err
			}
			c.mu.Unlock()
			c.blocks.Report(p2p.PeerError{NodeID: in.From, Err: err, Fatal: true})
		}
	}
}

// handle takes one message; its bytes are ours.
func (c *Client) handle(b []byte) error {
	m, err := readMessage(b)
	if err != nil {
		return err
	}
	switch m.kind {
	case tellStatus:
		status, err := m.status()
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.status, c.known = status, true
		close(c.heard)
		c.heard = make(chan struct{})
		c.mu.Unlock()
	case tellBlock, noBlock:
		height, err := m.height()
		if err != nil {
			return err
		}
		c.answer(height, m)
	case askStatus: // we have nothing
		c.reply(&cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_StatusResponse{StatusResponse: &cometv1.StatusResponse{}}})
	case askBlock:
		height, err := m.height()
		if err != nil {
			return err
		}
		c.reply(&cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_NoBlockResponse{NoBlockResponse: &cometv1.NoBlockResponse{Height: height}}})
	}
	return nil
}

// reply answers a question of the node's, if there is room.
func (c *Client) reply(m *cometv1.BlocksyncMessage) {
	if e, err := toWire(m); err == nil {
		_ = c.blocks.TrySend(c.info.NodeID, e)
	}
}

// discard takes the transactions that the node sends, and forgets them.
func (c *Client) discard() {
	for _, err := range c.txs.Receive(context.Background()) {
		if err != nil {
			return
		}
	}
}

func (c *Client) answer(height int64, m message) {
	c.mu.Lock()
	waiting := c.waiting[height]
	delete(c.waiting, height)
	c.mu.Unlock()
	for _, ch := range waiting {
		ch <- m // has room for the one
	}
}

// Info is what the node said of itself.
func (c *Client) Info() p2p.NodeInfo { return c.info }

// Done is closed when the node is gone or Close was called.
func (c *Client) Done() <-chan struct{} { return c.gone }

// ask sends a question on the block channel.
func (c *Client) ask(ctx context.Context, m *cometv1.BlocksyncMessage) error {
	e, err := toWire(m)
	if err != nil {
		return err
	}
	if err := c.blocks.Send(ctx, c.info.NodeID, e); err != nil {
		return c.failed(err)
	}
	return nil
}

// Status asks the node how much it has, and blocks for the answer or the end of
// the context, whose error is then wrapped.
func (c *Client) Status(ctx context.Context) (Status, error) {
	c.mu.Lock()
	heard := c.heard
	c.mu.Unlock()
	if err := c.ask(ctx, &cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_StatusRequest{StatusRequest: &cometv1.StatusRequest{}}}); err != nil {
		return Status{}, err
	}
	select {
	case <-heard:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.status, nil
	case <-c.gone:
		return Status{}, c.failed(nil)
	case <-ctx.Done():
		return Status{}, c.unanswered("how high its chain is", ctx.Err())
	}
}

// failed is why a call failed: cause, unless that only says that the node is
// gone; nil says so, too.
func (c *Client) failed(cause error) error {
	if cause != nil && !errors.Is(cause, p2p.ErrPeerUnknown) && !errors.Is(cause, p2p.ErrQueueClosed) && !errors.Is(cause, p2p.ErrClosed) {
		return fmt.Errorf("comet: %w", cause)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrClosed
	case c.fault != nil:
		return fmt.Errorf("%w (%w)", c.fault, ErrClosed)
	case !c.known:
		return ErrRefused
	default:
		return fmt.Errorf("%w: the node ended the connection; its log may say why", ErrClosed)
	}
}

// unanswered is the error for a question whose context ended.
func (c *Client) unanswered(what string, err error) error {
	unread := ""
	if s := c.blocks.Stats(); s.Undecodable > 0 {
		unread = fmt.Sprintf("; %d messages of it could not be read", s.Undecodable)
	}
	return fmt.Errorf("comet: %s (%.60q) did not answer %s%s: %w", c.info.NodeID, c.info.Moniker, what, unread, err)
}

// Block fetches one block, and checks it against its own header. It blocks for
// the answer or the end of the context, whose error is then wrapped. ErrNoBlock:
// the node does not have it. ErrInvalid: it is not what the node's chain could have.
func (c *Client) Block(ctx context.Context, height int64) (Block, error) {
	if height < 1 {
		return Block{}, fmt.Errorf("%w: height %d; heights start at 1", ErrNoBlock, height)
	}
	m, err := c.fetch(ctx, height)
	if err != nil {
		return Block{}, err
	}
	if m.kind == noBlock {
		return Block{}, fmt.Errorf("%w: height %d", ErrNoBlock, height)
	}
	return newBlock(m.body, height, c.info.Network)
}

// fetch asks for a block and returns what the node answers.
func (c *Client) fetch(ctx context.Context, height int64) (message, error) {
	answer := make(chan message, 1)
	c.mu.Lock()
	c.waiting[height] = append(c.waiting[height], answer)
	c.mu.Unlock()
	defer c.forget(height, answer)
	if err := c.ask(ctx, &cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_BlockRequest{BlockRequest: &cometv1.BlockRequest{Height: height}}}); err != nil {
		return message{}, err
	}
	select {
	case m := <-answer:
		return m, nil
	case <-c.gone:
		return message{}, c.failed(nil)
	case <-ctx.Done():
		return message{}, c.unanswered(fmt.Sprintf("for block %d", height), ctx.Err())
	}
}

// firstMark is the lowest of the heights that settled asks for: no chain gets
// there.
const firstMark = 1 << 62

// settled returns when the node has handled everything that was sent before: it
// handles what comes in order, and says that it does not have a block.
func (c *Client) settled(ctx context.Context) error {
	c.mu.Lock()
	mark := firstMark + c.marks
	c.marks++
	c.mu.Unlock()
	_, err := c.fetch(ctx, mark)
	return err
}

func (c *Client) forget(height int64, answer chan message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, ch := range c.waiting[height] {
		if ch == answer {
			c.waiting[height] = append(c.waiting[height][:i], c.waiting[height][i+1:]...)
			break
		}
	}
	if len(c.waiting[height]) == 0 {
		delete(c.waiting, height)
	}
}

// Blocks returns the blocks from a height on (0: from the newest), each checked
// to follow the one before, and then new ones as they are made, until the
// context ends, the node is gone, or it does not answer for Options.Wait; that
// error comes last. ErrNoBlock: the node's chain begins above from, or ends more
// than one height below it.
func (c *Client) Blocks(ctx context.Context, from int64) iter.Seq2[Block, error] {
	return func(yield func(Block, error) bool) {
		status, err := c.statusWithin(ctx)
		if err == nil && from > 0 && (from < status.Base || from-1 > status.Height) {
			err = fmt.Errorf("%w: its chain has the heights %d to %d, not %d", ErrNoBlock, status.Base, status.Height, from)
		}
		if err != nil {
			yield(Block{}, err)
			return
		}
		if from <= 0 {
			from = max(1, status.Height)
		}
		var last Block
		for height := from; ; height++ {
			for height > status.Height {
				if status, err = c.later(ctx); err != nil {
					yield(Block{}, err)
					return
				}
			}
			b, err := c.blockWithin(ctx, height)
			if err == nil && last.Height > 0 && !bytes.Equal(b.Previous, last.Hash) {
				b, err = Block{}, fmt.Errorf("%w: block %d follows %v, but %d was %v", ErrInvalid, height, b.Previous, last.Height, last.Hash)
			}
			if !yield(b, err) || err != nil {
				return
			}
			last = b
		}
	}
}

func (c *Client) statusWithin(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Wait)
	defer cancel()
	return c.Status(ctx)
}

func (c *Client) blockWithin(ctx context.Context, height int64) (Block, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Wait)
	defer cancel()
	return c.Block(ctx, height)
}

// later is the status a moment later.
func (c *Client) later(ctx context.Context) (Status, error) {
	t := time.NewTimer(c.o.Poll)
	defer t.Stop()
	select {
	case <-t.C:
		return c.statusWithin(ctx)
	case <-c.gone:
		return Status{}, c.failed(nil)
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

// SubmitTx sends a transaction to the node's mempool, and blocks until the node
// has handled it. The mempool gives no answer: only a block shows that it was
// taken. ErrTx: it is empty or longer than MaxTx.
func (c *Client) SubmitTx(ctx context.Context, tx []byte) error {
	if len(tx) == 0 || len(tx) > MaxTx {
		return fmt.Errorf("%w: %d bytes, not 1 to %d", ErrTx, len(tx), MaxTx)
	}
	if err := c.txs.Send(ctx, c.info.NodeID, &cometv1.MempoolMessage{Sum: &cometv1.MempoolMessage_Txs{Txs: &cometv1.Txs{Txs: [][]byte{tx}}}}); err != nil {
		return c.failed(err)
	}
	// Order is kept within a channel only: the mark has to be sent after it.
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for c.txs.Stats().Send.Queued > 0 {
		select {
		case <-t.C:
		case <-c.gone:
			return c.failed(nil)
		case <-ctx.Done():
			return fmt.Errorf("comet: the transaction was not sent: %w", ctx.Err())
		}
	}
	return c.settled(ctx)
}

// Close ends the connection and waits for all that Dial started. A second call
// does nothing.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	if c.router != nil {
		_ = c.router.Stop()
	}
	if c.pm != nil {
		c.pm.Close()
	}
	c.work.Wait()
}
