package p2p_test

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
)

// cutter is a place that passes TCP connections on to another, one at a time and
// only when it was told to, and resets each after a number of bytes.
type cutter struct {
	listener net.Listener
	to       string
	all      sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	budget  int64      // of the next connection; 0: it is closed at once
	passing bool       // there is one
	reset   func()     // it
}

// placed is a transport that says it listens elsewhere: nobody goes past the cutter.
type placed struct {
	p2p.Transport
	at p2p.Endpoint
}

func (p placed) Endpoints() []p2p.Endpoint { return []p2p.Endpoint{p.at} }

func newCutter(t *testing.T, to p2p.Endpoint) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, to: (&net.TCPAddr{IP: to.IP, Port: int(to.Port)}).String()}
	c.all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			c.pass(near)
		}
	})
	return c
}

// pass passes on one connection, unless none may pass now.
func (c *cutter) pass(near net.Conn) {
	c.mu.Lock()
	budget := c.budget
	c.budget, c.passing = 0, c.passing || budget > 0
	c.mu.Unlock()
	if budget == 0 {
		_ = near.Close()
		return
	}
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		_ = near.Close()
		c.over()
		return
	}
	reset := sync.OnceFunc(func() {
		for _, end := range []net.Conn{near, far} {
			_ = end.(*net.TCPConn).SetLinger(0)
			_ = end.Close()
		}
		c.over()
	})
	c.mu.Lock()
	c.reset = reset
	c.mu.Unlock()
	c.all.Go(func() {
		_, _ = io.CopyN(far, near, budget)
		reset()
	})
	c.all.Go(func() {
		_, _ = io.Copy(near, far)
		reset()
	})
}

func (c *cutter) over() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passing = false
}

// admit lets the next connection pass, for so many bytes from who dialled, unless
// there is one.
func (c *cutter) admit(bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.passing {
		c.budget = bytes
	}
}

// cut resets the connection that passes, if it has not been.
func (c *cutter) cut() {
	c.mu.Lock()
	reset := c.reset
	c.mu.Unlock()
	if reset != nil {
		reset()
	}
}

func (c *cutter) close() {
	_ = c.listener.Close()
	c.cut()
	c.all.Wait()
}

// Numbered messages through two Routers over TCP connections that are reset again
// and again. At the sender, on each channel: accepted = what Send took = written +
// dropped, by reason. What is delivered is a subsequence of that, in order, without
// repetition, and nothing is missing in the midst of a session: of each, a first
// part arrives.
func TestConservationOverResetsOfTCP(t *testing.T) {
	const messages, channels = 100_000, 3
	w := &world{TB: t}
	w.peers.DisconnectCooldownPeriod = -1
	var link *cutter
	b := w.node(func(o *p2p.RouterOptions) {
		at := o.Transports[0].Endpoints()[0]
		link = newCutter(t, at)
		t.Cleanup(link.close)
		at.Port = uint16(link.listener.Addr().(*net.TCPAddr).Port)
		o.Transports[0] = placed{o.Transports[0], at}
	})
	a := w.node(func(o *p2p.RouterOptions) {
		at := o.Transports[0].Endpoints()[0]
		at.Port = 1 // where nobody is
		o.Transports[0] = placed{o.Transports[0], at}
	})
	d := p2p.ChannelDescriptor{SendPolicy: p2p.SendBlock, RecvQueueCapacity: messages, RecvQueueBytes: 128 << 20, RecvTotalBytes: 128 << 20}
	var from, to [channels]*bytesFace
	for i := range channels {
		d.Class, d.Priority = uint8(i), uint8(1+i)
		from[i], to[i] = openBytes(t, a, p2p.ChannelID(i+1), d), openBytes(t, b, p2p.ChannelID(i+1), d)
	}
	w.start(a, b)
	if _, err := a.pm.Add(b.at); err != nil {
		t.Fatal(err)
	}

	// The messages: number, session, the number of the session's first message on the
	// channel. A receiver knows only these and what it got before.
	var receivers sync.WaitGroup
	var delivered, gaps [channels]uint64
	var latest [channels]atomic.Uint64 // the number of the last message that arrived
	for i, c := range to {
		receivers.Go(func() {
			var session, last uint64
			for in, err := range c.Receive(t.Context()) {
				if err != nil { // the Router stopped
					return
				}
				m := in.Message.Value
				number, of, first := binary.BigEndian.Uint64(m), binary.BigEndian.Uint64(m[8:]), binary.BigEndian.Uint64(m[16:])
				switch {
				case number <= last:
					t.Errorf("channel %d: message %d comes after %d", i, number, last)
				case of < session:
					t.Errorf("channel %d: message %d is of session %d and comes in %d", i, number, of, session)
				case of == session && number != last+1:
					t.Errorf("channel %d: messages between %d and %d of session %d are missing", i, last, number, session)
				case of > session && number != first:
					t.Errorf("channel %d: session %d begins with message %d, not %d", i, of, number, first)
				case number != last+1:
					gaps[i]++
				}
				session, last = of, number
				delivered[i]++
				latest[i].Store(number)
			}
		})
	}

	rng := rand.New(rand.NewPCG(1, 7))
	var next [channels]uint64 // the numbers of the last messages that were taken
	sessions := uint64(0)
	for left := messages; left > 0; {
		sessions++
		first := next
		budget, floor := 16<<10+rng.Int64N(800<<10), messages/20
		peace := left <= floor // nothing is lost in the last session
		if peace {
			budget, floor = 1<<40, 0
		}
		w.until(func() bool {
			link.admit(budget)
			return up(a, b.id) && up(b, a.id)
		})
		for left > floor {
			i := rng.IntN(channels)
			m := make([]byte, 24+rng.IntN(200))
			binary.BigEndian.PutUint64(m, next[i]+1)
			binary.BigEndian.PutUint64(m[8:], sessions)
			binary.BigEndian.PutUint64(m[16:], first[i]+1)
			if from[i].Send(t.Context(), b.id, wrapperspb.Bytes(m)) != nil {
				break // the session is over, and none comes before it is admitted
			}
			next[i]++
			left--
		}
		if !peace {
			link.cut()
		}
		w.until(func() bool { return peace || !up(a, b.id) && !up(b, a.id) })
	}
	w.until(func() bool {
		for i := range channels {
			if latest[i].Load() != next[i] {
				return false
			}
		}
		return true
	})
	var written uint64
	for i := range channels {
		written += from[i].Stats().Send.Written
	}
	a.r.Stop()
	b.r.Stop()
	receivers.Wait()
	var lost, cut, missing, skipped uint64
	for i := range channels {
		s, in := from[i].Stats().Send, to[i].Stats().Received
		gone := s.Dropped[p2p.DropClosed] + s.Dropped[p2p.DropCut]
		if s.Accepted != next[i] || s.Accepted != s.Written+gone || s.Queued != 0 {
			t.Errorf("channel %d: Send took %d, accepted %d, written %d, dropped %v", i, next[i], s.Accepted, s.Written, s.Dropped)
		}
		if in.Received != delivered[i] || in.Delivered != delivered[i] || in.Dropped.Total() != 0 || delivered[i] > s.Written {
			t.Errorf("channel %d: written %d, delivered %d, the receiver's books: %+v", i, s.Written, delivered[i], in)
		}
		balance(t, from[i].Stats())
		balance(t, to[i].Stats())
		lost, cut, missing, skipped = lost+gone, cut+s.Dropped[p2p.DropCut], missing+s.Written-delivered[i], skipped+gaps[i]
	}
	if sessions < 5 || skipped == 0 || lost == 0 {
		t.Errorf("a test of little: %d sessions, %d gaps, %d dropped", sessions, skipped, lost)
	}
	t.Logf("%d messages in %d sessions: %d written, %d dropped when a session ended (%d cut), %d lost on the way, %d gaps", messages, sessions, written, lost, cut, missing, skipped)
}
