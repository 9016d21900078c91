package libp2p

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/time/rate"

	"github.com/kith-p2p/kith/internal/wire"
)

// Control frames: so many at once, and so many a second after that.
const (
	controlBurst = 1000
	controlRate  = 100
)

// controlTimeout is how long the peer's libp2p may take to take a control frame.
const controlTimeout = 10 * time.Second

// say writes one control frame, within a time. Whoever writes holds the turn; it
// comes back, since every write has a deadline.
func (c *Connection) say(body []byte, within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case c.turn <- struct{}{}:
	case <-timer.C:
		return errors.New("libp2p: the control stream is stuck")
	}
	defer func() { <-c.turn }()
	return c.write(c.path.Load(), body, within)
}

// write is say on a path. The caller has the turn.
func (c *Connection) write(p *path, body []byte, within time.Duration) error {
	frame, err := wire.AppendFrame(make([]byte, 0, len(body)+3), body, maxControl)
	if err != nil {
		return err
	}
	_ = p.control.SetWriteDeadline(time.Now().Add(within))
	if _, err := p.control.Write(frame); err != nil {
		return fmt.Errorf("libp2p: control stream: %w", err)
	}
	return nil
}

// keep reads the control stream of a path until it ends. The end of one that we
// have moved from is not the session's.
func (c *Connection) keep(p *path) {
	noise := rate.NewLimiter(controlRate, controlBurst)
	for {
		body, err := c.readControl(p)
		switch {
		case errors.Is(err, ErrMalformed):
			c.fault(err)
			return
		case err != nil && c.path.Load() != p:
			_ = p.control.Close()
			return
		case err != nil:
			c.depart(&lostError{err}, 0)
			return
		}
		c.heard.Store(c.clock())
		if !noise.Allow() {
			c.fault(ErrFlood)
			return
		}
		switch kind, rest := body[0], body[1:]; kind {
		case kindHello, kindMoved:
			c.fault(fmt.Errorf("%w: frame kind %d in a session that stands", ErrMalformed, kind))
			return
		case kindPing:
			if len(rest) != pingSize {
				c.fault(fmt.Errorf("%w: a ping of %d bytes", ErrMalformed, len(rest)))
				return
			}
			body[0] = kindPong
			_ = c.say(body, controlTimeout) // a failure will show in reading
		case kindPong:
			if len(rest) == pingSize && int64(binary.BigEndian.Uint64(rest)) == c.pinged.Load() {
				c.rtt.Store(c.clock() - c.pinged.Swap(0))
				select {
				case c.pong <- struct{}{}:
				default:
				}
			}
		case kindGoodbye:
			bye, err := parseGoodbye(rest)
			if err != nil {
				c.fault(err)
				return
			}
			c.depart(endOf(bye), bye.streams)
			return
		}
	}
}

// endOf is a goodbye as an error: plain io.EOF if it says nothing.
func endOf(bye goodbye) error {
	if bye.reason == "" && len(bye.peers) == 0 {
		return io.EOF
	}
	return &GoodbyeError{Reason: bye.reason, Peers: bye.peers}
}

// farewellError is a goodbye that comes instead of a hello.
func farewellError(rest []byte) error {
	bye, err := parseGoodbye(rest)
	if err != nil {
		return err
	}
	return &GoodbyeError{Reason: bye.reason, Peers: bye.peers}
}

// ping asks at every interval whether the peer is there, until the session ends.
func (c *Connection) ping() {
	timer := time.NewTimer(c.t.o.PingInterval)
	defer timer.Stop()
	wait := func() (elapsed bool) {
		select {
		case <-timer.C:
			return true
		case <-c.pong:
		case <-c.closed:
		case <-c.gone:
		}
		return false
	}
	for {
		if !wait() {
			if c.ended() != nil {
				return
			}
			continue // a pong that came late
		}
		now := max(1, c.clock())
		c.pinged.Store(now)
		frame := binary.BigEndian.AppendUint64([]byte{kindPing}, uint64(now))
		_ = c.say(frame, controlTimeout)
		timer.Reset(c.t.o.PongTimeout)
		if wait() {
			c.fault(ErrPongTimeout)
			return
		}
		if c.ended() != nil {
			return
		}
		timer.Reset(c.t.o.PingInterval)
	}
}
