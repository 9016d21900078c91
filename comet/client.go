package comet

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/cometv1"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

const (
	blocksyncChannel p2p.ChannelID = 0x40
	mempoolChannel   p2p.ChannelID = 0x30

	maxBlock = 100<<20 + 5 // CometBFT's largest blocksync message

	// blockProtocol is the version of blocks that every CometBFT node speaks, and
	// compares; p2pProtocol it does not compare.
	blockProtocol, p2pProtocol = 11, 9
)

// MaxTx is the longest transaction in bytes that a mempool takes by default.
const MaxTx = 1 << 20

// Errors a caller can decide on.
var (
	// ErrAddress is wrapped by what is wrong with the spelling of an address.
	ErrAddress = errors.New("comet: not the address of a CometBFT node")
	// ErrNoBlock says that the node does not have the height.
	ErrNoBlock = errors.New("comet: the node does not have this block")
	// ErrRefused says that the node closed the connection after the handshake.
	// CometBFT gives no reason: its log has it.
	ErrRefused = errors.New("comet: the node closed the connection after the handshake")
	// ErrClosed is returned after Close, and when the node is gone.
	ErrClosed = errors.New("comet: closed")
)

// Options of Dial. The zero value is useful.
type Options struct {
	Key     p2p.PrivKey   // who we are; zero: a key of this connection only
	Network string        // what the node's network has to be; "": whatever it says
	Moniker string        // our name in the node's list of peers; "": kith
	Logger  *slog.Logger  // nil: discard
	Poll    time.Duration // how often Blocks asks for the height at the end of the chain; 0: 1 s
}

// Status is how much of its chain a node has.
type Status struct{ Height, Base int64 }

// Client is a connection to one CometBFT node. All methods are safe for
// concurrent use.
type Client struct {
	o      Options
	info   p2p.NodeInfo
	pm     *p2p.PeerManager
	router *p2p.Router
	blocks *p2p.TypedChannel[*cometv1.BlocksyncMessage]
	txs    *p2p.TypedChannel[*cometv1.MempoolMessage]
	work   sync.WaitGroup
	gone   chan struct{} // closed when the node is gone or Close was called

	mu      sync.Mutex // guards the fields below
	status  Status
	known   bool                                       // status was heard
	heard   chan struct{}                              // closed and replaced at each status
	waiting map[int64][]chan *cometv1.BlocksyncMessage // for a height
	closed  bool
	once    sync.Once
}

// Dial connects to the node at an address: ID@host:port, an mconn:// URL, or
// host:port, where whoever answers is believed to be the node. It asks the
// node for its network first, unless Options has it, which takes a connection
// of its own. It blocks until the node is ready or the context ends.
func Dial(ctx context.Context, at string, o Options) (*Client, error) {
	if o.Key.IsZero() {
		key, err := identity.Generate()
		if err != nil {
			return nil, fmt.Errorf("comet: %w", err)
		}
		o.Key = key
	}
	if o.Moniker == "" {
		o.Moniker = "kith"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	target, err := parse(at)
	if err != nil {
		return nil, err
	}
	info, err := Probe(ctx, at, o)
	if err != nil {
		return nil, err
	}
	if o.Network != "" && o.Network != info.Network {
		return nil, fmt.Errorf("comet: the network of %s is %q, not %q", at, info.Network, o.Network)
	}
	o.Network, target.NodeID = info.Network, info.NodeID
	c := &Client{o: o, info: info, gone: make(chan struct{}), heard: make(chan struct{}), waiting: make(map[int64][]chan *cometv1.BlocksyncMessage)}
	if err := c.start(ctx, target); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// parse takes the spellings of Dial. Without an ID the NodeID is empty.
func parse(at string) (p2p.NodeAddress, error) {
	if !strings.Contains(at, "@") && !strings.Contains(at, "/") {
		host, text, err := net.SplitHostPort(at)
		if err != nil {
			return p2p.NodeAddress{}, fmt.Errorf("%w: %q; write ID@host:port, or host:port to believe whoever answers", ErrAddress, at)
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 || host == "" {
			return p2p.NodeAddress{}, fmt.Errorf("%w: %q; the port is 1 to 65535, after a host", ErrAddress, at)
		}
		return p2p.NodeAddress{Protocol: mconn.Protocol, Hostname: host, Port: uint16(port)}, nil
	}
	a, err := address.Parse(at)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	if a.Protocol != mconn.Protocol {
		return a, fmt.Errorf("%w: %q is one of %s; a CometBFT node has ID@host:port", ErrAddress, at, a.Protocol)
	}
	return a, nil
}

// nodeInfo is what we say of ourselves.
func nodeInfo(o Options, network string) p2p.NodeInfo {
	return p2p.NodeInfo{
		ProtocolVersion: p2p.ProtocolVersion{P2P: p2pProtocol, Block: blockProtocol}, NodeID: o.Key.Public().NodeID(),
		ListenAddr: "tcp://127.0.0.1:0", Network: network, Version: "kith", Moniker: o.Moniker,
		Channels: []p2p.ChannelID{mempoolChannel, blocksyncChannel},
	}
}

// Probe asks a node who it is, with a handshake that goes no further: it works
// whatever the node's network is. It blocks until the node answers or the
// context ends.
func Probe(ctx context.Context, at string, o Options) (info p2p.NodeInfo, err error) {
	target, err := parse(at)
	if err != nil {
		return info, err
	}
	if o.Key.IsZero() {
		if o.Key, err = identity.Generate(); err != nil {
			return info, fmt.Errorf("comet: %w", err)
		}
	}
	if o.Moniker == "" {
		o.Moniker = "kith"
	}
	expected := target.NodeID
	if expected == "" { // any well-formed one, to resolve the name
		target.NodeID = o.Key.Public().NodeID()
	}
	endpoints, err := target.Resolve(ctx)
	if err != nil {
		return info, fmt.Errorf("comet: %w", err)
	}
	transport, err := mconn.New(mconn.Options{CometOnly: true})
	if err != nil {
		return info, fmt.Errorf("comet: %w", err)
	}
	defer transport.Close()
	var faults []error
	for _, e := range endpoints {
		conn, err := transport.Dial(ctx, e)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		network := o.Network
		if network == "" {
			network = "unknown"
		}
		info, key, err := conn.Handshake(ctx, nodeInfo(o, network), o.Key)
		_ = conn.Close()
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("comet: %v answers, but not as a CometBFT node does: %w", e, err))
		case expected != "" && key.NodeID() != expected:
			faults = append(faults, fmt.Errorf("comet: %v is %v, not %v", e, key.NodeID(), expected))
		case info.NodeID != key.NodeID():
			faults = append(faults, fmt.Errorf("comet: %v says it is %v, its key that it is %v", e, info.NodeID, key.NodeID()))
		default:
			return info, nil
		}
	}
	return info, errors.Join(faults...)
}

// start runs a Router whose only peer is the node.
func (c *Client) start(ctx context.Context, target p2p.NodeAddress) (err error) {
	c.pm, err = p2p.NewPeerManager(c.o.Key.Public().NodeID(), addrbook.NewMemoryStore(), p2p.PeerManagerOptions{
		PersistentPeers: []p2p.NodeID{target.NodeID}, MinRetryTime: 100 * time.Millisecond, MaxRetryTime: time.Second, Logger: c.o.Logger,
	})
	if err != nil {
		return err
	}
	transport, err := mconn.New(mconn.Options{})
	if err != nil {
		return err
	}
	if c.router, err = p2p.NewRouter(p2p.RouterOptions{
		NodeInfo: nodeInfo(c.o, c.o.Network), PrivKey: c.o.Key, PeerManager: c.pm, Transports: []p2p.Transport{transport}, Logger: c.o.Logger,
	}); err != nil {
		return err
	}
	if c.blocks, err = p2p.OpenTyped[*cometv1.BlocksyncMessage](c.router, blocksyncChannel, p2p.WithDescriptor(p2p.ChannelDescriptor{
		Name: "blocksync", RecvMessageCapacity: maxBlock,
	})); err != nil {
		return err
	}
	if c.txs, err = p2p.OpenTyped[*cometv1.MempoolMessage](c.router, mempoolChannel, p2p.WithDescriptor(p2p.ChannelDescriptor{
		Name: "mempool", RecvMessageCapacity: 2 * MaxTx,
	})); err != nil {
		return err
	}
	updates := c.pm.Subscribe()
	if err := c.router.Start(); err != nil {
		updates.Close()
		return err
	}
	if _, err := c.pm.Add(target); err != nil {
		updates.Close()
		return err
	}
	up := make(chan struct{})
	c.work.Go(func() { c.watch(updates, up) })
	c.work.Go(c.receive)
	select {
	case <-up:
	case <-ctx.Done():
		return fmt.Errorf("comet: %v did not become ready: %w", target, ctx.Err())
	}
	// There is no word of welcome: the first answer or the end tells.
	if _, err := c.Status(ctx); err != nil {
		return err
	}
	return nil
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
		switch m := in.Message.GetSum().(type) {
		case *cometv1.BlocksyncMessage_StatusResponse:
			c.mu.Lock()
			c.status, c.known = Status{m.StatusResponse.GetHeight(), m.StatusResponse.GetBase()}, true
			close(c.heard)
			c.heard = make(chan struct{})
			c.mu.Unlock()
		case *cometv1.BlocksyncMessage_BlockResponse:
			c.answer(m.BlockResponse.GetBlock().GetHeader().GetHeight(), in.Message)
		case *cometv1.BlocksyncMessage_NoBlockResponse:
			c.answer(m.NoBlockResponse.GetHeight(), in.Message)
		case *cometv1.BlocksyncMessage_StatusRequest: // we have nothing
			_ = c.blocks.TrySend(in.From, &cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_StatusResponse{StatusResponse: &cometv1.StatusResponse{}}})
		case *cometv1.BlocksyncMessage_BlockRequest:
			_ = c.blocks.TrySend(in.From, &cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_NoBlockResponse{
				NoBlockResponse: &cometv1.NoBlockResponse{Height: m.BlockRequest.GetHeight()},
			}})
		}
	}
}

func (c *Client) answer(height int64, m *cometv1.BlocksyncMessage) {
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

// Status asks the node how much it has, and blocks for the answer.
func (c *Client) Status(ctx context.Context) (Status, error) {
	c.mu.Lock()
	heard := c.heard
	c.mu.Unlock()
	err := c.blocks.Send(ctx, c.info.NodeID, &cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_StatusRequest{StatusRequest: &cometv1.StatusRequest{}}})
	if err != nil {
		return Status{}, c.failed(err)
	}
	select {
	case <-heard:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.status, nil
	case <-c.gone:
		return Status{}, c.failed(ErrClosed)
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

// failed tells a refusal from an end.
func (c *Client) failed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrClosed
	case !c.known:
		return fmt.Errorf("%w: %v", ErrRefused, err)
	default:
		return fmt.Errorf("comet: the node is gone: %w", err)
	}
}

// Block fetches one block, and checks it against its own header. It blocks for
// the answer. ErrNoBlock: the node does not have it.
func (c *Client) Block(ctx context.Context, height int64) (Block, error) {
	if height < 1 {
		return Block{}, fmt.Errorf("comet: height %d: heights start at 1", height)
	}
	answer := make(chan *cometv1.BlocksyncMessage, 1)
	c.mu.Lock()
	c.waiting[height] = append(c.waiting[height], answer)
	c.mu.Unlock()
	defer c.forget(height, answer)
	err := c.blocks.Send(ctx, c.info.NodeID, &cometv1.BlocksyncMessage{Sum: &cometv1.BlocksyncMessage_BlockRequest{BlockRequest: &cometv1.BlockRequest{Height: height}}})
	if err != nil {
		return Block{}, c.failed(err)
	}
	select {
	case m := <-answer:
		if b := m.GetBlockResponse().GetBlock(); b != nil {
			return newBlock(b, height, c.info.Network)
		}
		return Block{}, fmt.Errorf("%w: height %d", ErrNoBlock, height)
	case <-c.gone:
		return Block{}, c.failed(ErrClosed)
	case <-ctx.Done():
		return Block{}, ctx.Err()
	}
}

func (c *Client) forget(height int64, answer chan *cometv1.BlocksyncMessage) {
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
// context ends or the node is gone; that error comes last.
func (c *Client) Blocks(ctx context.Context, from int64) iter.Seq2[Block, error] {
	return func(yield func(Block, error) bool) {
		status, err := c.Status(ctx)
		if err == nil && from > 0 && from < status.Base {
			err = fmt.Errorf("%w: it begins at height %d", ErrNoBlock, status.Base)
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
			b, err := c.Block(ctx, height)
			if err == nil && last.Height > 0 && b.Previous.String() != last.Hash.String() {
				err = fmt.Errorf("%w: height %d follows %v, but %d was %v", errBlock, height, b.Previous, last.Height, last.Hash)
			}
			if !yield(b, err) || err != nil {
				return
			}
			last = b
		}
	}
}

// later is the status a moment later.
func (c *Client) later(ctx context.Context) (Status, error) {
	t := time.NewTimer(c.o.Poll)
	defer t.Stop()
	select {
	case <-t.C:
		return c.Status(ctx)
	case <-c.gone:
		return Status{}, c.failed(ErrClosed)
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

// SubmitTx sends a transaction to the node's mempool, and blocks until it is
// there. The mempool gives no answer: only a block shows that it was taken.
func (c *Client) SubmitTx(ctx context.Context, tx []byte) error {
	if len(tx) == 0 || len(tx) > MaxTx {
		return fmt.Errorf("comet: a transaction of %d bytes; 1 to %d", len(tx), MaxTx)
	}
	if err := c.txs.Send(ctx, c.info.NodeID, &cometv1.MempoolMessage{Sum: &cometv1.MempoolMessage_Txs{Txs: &cometv1.Txs{Txs: [][]byte{tx}}}}); err != nil {
		return c.failed(err)
	}
	// It is on its way when nothing waits any more, and there when the node has
	// answered something that was sent after it.
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for c.txs.Stats().Send.Queued > 0 {
		select {
		case <-t.C:
		case <-c.gone:
			return c.failed(ErrClosed)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	_, err := c.Status(ctx)
	return err
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
