package host

import (
	"errors"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/sec"
)

// What the muxer sends at once leaves with one write to the socket:
//
//	yamux -> securedConn -> TLS or Noise -> outbox -> socket
//
// TLS encrypts 16 KiB at a time and writes each such record by itself, and
// yamux writes each of its frames by itself: the opening of a stream, the
// negotiation, the first bytes. A system call, a packet and a wake-up of the
// peer each time. The outbox holds records back while a frame is being
// encrypted, and while yamux has further frames waiting. It is emptied when
// yamux has none, never by a timer, so nothing waits for bytes that may not
// come. The bytes on the wire are the same.
const (
	// batchMax is from where on held bytes are written even though more are
	// waiting: it is small frames that gain by company. (Batches of several full
	// frames of 64 KiB were no faster, and yamux allows a slow link 5 s for each.)
	batchMax = 16 << 10
	// batchCap is what a buffer has room for: a batch that is not full, and a
	// frame, encrypted.
	batchCap = batchMax + 64<<10 + 1<<10
	// record is what TLS encrypts at once; less is one write anyway.
	record = 16 << 10
	// farewell bounds how long Close waits for the socket to take what was held,
	// and TLS's last word.
	farewell = 100 * time.Millisecond
)

// batches lends buffers to outboxes that hold something.
var batches = sync.Pool{New: func() any {
	b := make([]byte, 0, batchCap)
	return &b
}}

// outbox is the socket under a security transport.
//
// mu is held over writes to the socket, as TLS and Noise hold a lock of their
// own over theirs: it orders the muxer's writes and what TLS sends by itself
// (key updates, alerts). A write deadline or Close ends a write that is stuck.
type outbox struct {
	net.Conn

	mu   sync.Mutex
	hold bool    // keep what is written
	held *[]byte // not written yet; nil when there is nothing
	err  error   // of a write to the socket; there is none after it

	deadline sync.Mutex // guards leaving, and is held while a deadline is set
	leaving  bool       // the last write deadline is set
}

// Write takes the records of the security transport.
func (o *outbox) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	if !o.hold && o.held == nil {
		n, err := o.Conn.Write(p)
		o.err = err
		return n, err
	}
	if o.held == nil {
		o.held = batches.Get().(*[]byte)
	}
	*o.held = append(*o.held, p...)
	if o.hold {
		return len(p), nil
	}
	if err := o.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// flush writes what is held. The caller holds mu.
func (o *outbox) flush() error {
	if o.held == nil || o.err != nil {
		return o.err
	}
	_, o.err = o.Conn.Write(*o.held)
	*o.held = (*o.held)[:0]
	batches.Put(o.held)
	o.held = nil
	return o.err
}

func (o *outbox) keep() {
	o.mu.Lock()
	o.hold = true
	o.mu.Unlock()
}

// release ends keep. What is held is written, unless more is to come and there
// is room for it.
func (o *outbox) release(more bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hold = false
	if more && (o.held == nil || len(*o.held) < batchMax) {
		return o.err
	}
	return o.flush()
}

// SetWriteDeadline and SetDeadline change nothing for writes after leave.
func (o *outbox) SetWriteDeadline(t time.Time) error {
	o.deadline.Lock()
	defer o.deadline.Unlock()
	if o.leaving {
		return nil
	}
	return o.Conn.SetWriteDeadline(t)
}

func (o *outbox) SetDeadline(t time.Time) error {
	return errors.Join(o.SetReadDeadline(t), o.SetWriteDeadline(t))
}

// leave ends every write to the socket, under way or to come, after farewell.
func (o *outbox) leave() {
	o.deadline.Lock()
	defer o.deadline.Unlock()
	if !o.leaving {
		o.leaving = true
		_ = o.Conn.SetWriteDeadline(time.Now().Add(farewell))
	}
}

// Close writes what is held, if the socket takes it soon, and closes the
// socket. A write that is under way is cut short.
func (o *outbox) Close() error {
	o.leave()
	if o.mu.TryLock() {
		_ = o.flush()
		o.mu.Unlock()
	}
	return o.Conn.Close()
}

// securedConn is what the muxer writes to.
type securedConn struct {
	sec.SecureConn
	out   *outbox
	queue atomic.Pointer[reflect.Value] // of frames that wait in the muxer
}

// Write takes one frame of the muxer, and may hold it back if others follow.
// An error of the socket comes from this call or from a later one.
func (c *securedConn) Write(frame []byte) (int, error) {
	more := c.more()
	if !more && len(frame) <= record {
		return c.SecureConn.Write(frame) // after what is held
	}
	c.out.keep()
	n, err := c.SecureConn.Write(frame)
	if ferr := c.out.release(more && err == nil); err == nil && ferr != nil {
		return 0, ferr
	}
	return n, err
}

// Close closes the socket. crypto/tls would give its last word five seconds, and
// with them a frame that the peer does not take.
func (c *securedConn) Close() error {
	c.out.leave()
	return c.SecureConn.Close()
}

// watch learns from a muxer whether it has more frames for c.
//
// yamux does not say so; the length of its send queue does, which only the
// goroutine that calls Write takes from. So a queue that is not empty means
// that Write is called again without a wait. If a later version of yamux has
// no such field, each frame is a batch (and TestBatchesFrames fails).
func (c *securedConn) watch(m network.MuxedConn) {
	v := reflect.ValueOf(m)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return
	}
	if q := v.Elem().FieldByName("sendCh"); q.IsValid() && q.Kind() == reflect.Chan {
		c.queue.Store(&q)
	}
}

func (c *securedConn) more() bool {
	q := c.queue.Load()
	return q != nil && q.Len() > 0
}
