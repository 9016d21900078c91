package memory

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// Connection is one end of a connection: a p2p.Connection, p2p.ChunkSender and
// p2p.ChannelLimits. Closing it is like closing a TCP socket: what was flushed
// still arrives, what the other side sends from then on is destroyed, and the
// other side finds io.EOF, behind what it had not read when it reads, at once when
// it sends.
type Connection struct {
	pair          *pair
	out, in       *pipe
	local, remote p2p.Endpoint
	dialled       bool
	closed        chan struct{}
	once          sync.Once
	handshake     atomic.Int32 // none, under way, done
	limits        atomic.Pointer[map[p2p.ChannelID]int]
	cause         atomic.Pointer[error] // what the peer did wrong, if that closed it
}

var (
	_ p2p.Connection    = (*Connection)(nil)
	_ p2p.ChunkSender   = (*Connection)(nil)
	_ p2p.ChannelLimits = (*Connection)(nil)
)

const (
	handshakeNone = iota
	handshakeUnderWay
	handshakeDone
)

// LocalEndpoint is memory:ID of this node, or its IP and port when it was dialled
// by IP.
func (c *Connection) LocalEndpoint() p2p.Endpoint { return c.local }

// RemoteEndpoint is that of the other node, which has not proved that it is the
// one named there.
func (c *Connection) RemoteEndpoint() p2p.Endpoint { return c.remote }

// MaxChunk is Options.MaxChunk.
func (c *Connection) MaxChunk() int { return c.pair.net.o.MaxChunk }

// SetChannelLimits says which channels there are and how long their messages may
// be.
func (c *Connection) SetChannelLimits(limits map[p2p.ChannelID]int) {
	own := make(map[p2p.ChannelID]int, len(limits))
	for id, most := range limits {
		own[id] = most
	}
	c.limits.Store(&own)
}

func (c *Connection) limit(id p2p.ChannelID) (int, bool) {
	most, known := (*c.limits.Load())[id]
	return most, known
}

// sendable returns why nothing can be sent.
func (c *Connection) sendable() error {
	if c.handshake.Load() != handshakeDone {
		return c.tooEarly("send")
	}
	return c.alive()
}

// alive returns how the connection ended, as far as this end can know.
func (c *Connection) alive() error {
	select {
	case <-c.closed:
		if cause := c.cause.Load(); cause != nil {
			return *cause
		}
		return io.EOF
	default:
	}
	select {
	case <-c.pair.broken:
		return ErrReset
	default:
	}
	if ended, _ := c.in.ending(); ended {
		return io.EOF
	}
	return nil
}

// SendChunk buffers one chunk of at most MaxChunk bytes, and sends what is
// buffered when that is enough, or at once over a link with a bandwidth: then it
// blocks until the chunk has gone out. An error means that the chunk was not
// taken; what happens to one that was taken, the network's Stats know. Errors are
// io.EOF, ErrReset, ErrHandshake.
func (c *Connection) SendChunk(id p2p.ChannelID, data []byte, eof bool) error {
	if err := c.sendable(); err != nil {
		return err
	}
	full, err := c.out.put(segment{channel: id, data: append([]byte(nil), data...), eof: eof})
	if err != nil {
		return err
	}
	if full {
		_ = c.flush() // the chunk was taken; the next call tells
	}
	return nil
}

// Flush sends what is buffered and blocks until it has gone out and, at the other
// end, no more than Options.Window bytes are unread.
func (c *Connection) Flush() error {
	if err := c.sendable(); err != nil {
		return err
	}
	return c.flush()
}

func (c *Connection) flush() error {
	for {
		gone, moved, wait, err := c.out.step()
		switch {
		case err != nil:
			return err
		case wait:
			ended, in := c.in.ending()
			if ended {
				return io.EOF
			}
			if err := c.await(c.out.space, in); err != nil {
				return err
			}
		case !moved:
			return nil
		default:
			if left := time.Until(gone); left > 0 {
				if err := c.await(nil, left); err != nil {
					return err
				}
			}
		}
	}
}

// await blocks for a token, for a time (0: for ever) or for the connection's end,
// which is the error.
func (c *Connection) await(tokens <-chan struct{}, d time.Duration) error {
	var elapsed <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		elapsed = timer.C
	}
	select {
	case <-tokens:
		return nil
	case <-elapsed:
		return nil
	case <-c.closed:
	case <-c.pair.broken:
	}
	return c.alive()
}

// SendMessage sends a message chunk by chunk and flushes.
func (c *Connection) SendMessage(id p2p.ChannelID, data []byte) error {
	for most := c.MaxChunk(); len(data) > most; data = data[most:] {
		if err := c.SendChunk(id, data[:most], false); err != nil {
			return err
		}
	}
	if err := c.SendChunk(id, data, true); err != nil {
		return err
	}
	return c.Flush()
}

// ReceiveMessage returns the next message. Errors are io.EOF, ErrReset,
// ErrHandshake, and for what the peer did wrong ErrUnknownChannel and
// ErrMessageTooLarge, which close the connection.
func (c *Connection) ReceiveMessage() (p2p.ChannelID, []byte, error) {
	if c.handshake.Load() != handshakeDone {
		return 0, nil, c.tooEarly("receive")
	}
	for {
		select {
		case <-c.closed:
			return 0, nil, c.alive()
		default:
		}
		id, data, ok, wait, err := c.in.read(c.limit)
		switch {
		case ok:
			return id, data, nil
		case err == io.EOF:
			return 0, nil, err
		case err != nil:
			return 0, nil, c.fail(err)
		}
		if err := c.await(c.in.ready, wait); err != nil {
			return 0, nil, err
		}
	}
}

// fail closes the connection for a reason that its methods return from then on.
// It returns why the connection ended, which may have been something else before.
func (c *Connection) fail(err error) error {
	c.close(err)
	return c.alive()
}

// Close closes this end. It does not block.
func (c *Connection) Close() error {
	c.close(nil)
	return nil
}

func (c *Connection) close(cause error) {
	c.once.Do(func() {
		if cause != nil {
			c.cause.Store(&cause)
		}
		close(c.closed)
		c.out.finish()
		c.in.abandon()
		for _, end := range c.pair.ends {
			select {
			case <-end.closed:
			default:
				return
			}
		}
		c.pair.net.leave(c.pair)
	})
}
