package stream

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// loopWindow is how many bytes may be under way in one direction of a
// connection of a node to itself: yamux's initial window.
const loopWindow = 256 << 10

// loopback is one end of an in-process stream. Like yamux, and unlike QUIC, a
// Read into an empty slice blocks until there is something to read.
type loopback struct{ in, out *loopHalf }

var _ network.MuxedStream = loopback{}

func newLoopback() (a, b loopback) {
	x, y := newLoopHalf(), newLoopHalf()
	return loopback{x, y}, loopback{y, x}
}

func (l loopback) Read(p []byte) (int, error)  { return l.in.read(p) }
func (l loopback) Write(p []byte) (int, error) { return l.out.write(p) }

func (l loopback) CloseWrite() error {
	l.out.finish()
	return nil
}

func (l loopback) CloseRead() error {
	l.in.abort(network.StreamNoError, false)
	return nil
}

func (l loopback) Close() error {
	_ = l.CloseRead()
	return l.CloseWrite()
}

func (l loopback) Reset() error { return l.ResetWithError(network.StreamNoError) }

func (l loopback) ResetWithError(code network.StreamErrorCode) error {
	l.in.abort(code, false)
	l.out.abort(code, true)
	return nil
}

func (l loopback) SetDeadline(t time.Time) error {
	_ = l.SetReadDeadline(t)
	return l.SetWriteDeadline(t)
}

func (l loopback) SetReadDeadline(t time.Time) error {
	l.in.setDeadline(&l.in.reading, t)
	return nil
}

func (l loopback) SetWriteDeadline(t time.Time) error {
	l.out.setDeadline(&l.out.writing, t)
	return nil
}

// loopHalf is one direction. mu owns every field.
type loopHalf struct {
	mu   sync.Mutex
	cond sync.Cond // anything changed

	buf              bytes.Buffer // at most loopWindow
	eof              bool         // the writer is done
	readErr          error        // the direction was aborted: what its reader gets
	writeErr         error        // and its writer
	reading, writing loopDeadline
}

type loopDeadline struct {
	timer  *time.Timer
	passed bool
}

func newLoopHalf() *loopHalf {
	h := new(loopHalf)
	h.cond.L = &h.mu
	return h
}

func (h *loopHalf) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readErr != nil:
			return 0, h.readErr
		case h.reading.passed:
			return 0, os.ErrDeadlineExceeded
		case h.buf.Len() > 0:
			n, _ := h.buf.Read(p)
			if n > 0 {
				h.cond.Broadcast()
			}
			return n, nil
		case h.eof:
			return 0, io.EOF
		}
		h.cond.Wait()
	}
}

func (h *loopHalf) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := 0
	for {
		switch {
		case h.writeErr != nil:
			return done, h.writeErr
		case h.writing.passed:
			return done, os.ErrDeadlineExceeded
		case done == len(p):
			return done, nil
		}
		if n := min(len(p)-done, loopWindow-h.buf.Len()); n > 0 {
			h.buf.Write(p[done : done+n])
			done += n
			h.cond.Broadcast()
			if done == len(p) {
				return done, nil
			}
			continue
		}
		h.cond.Wait()
	}
}

// finish is the writer's orderly end.
func (h *loopHalf) finish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.eof = true
	if h.writeErr == nil {
		h.writeErr = os.ErrClosed // Conn knows better: it closed for writing itself
	}
	h.writing.stop()
	h.cond.Broadcast()
}

// abort ends the direction at once; byWriter says who does it. As on TCP, a
// direction that has ended in good order stays readable to its end.
func (h *loopHalf) abort(code network.StreamErrorCode, byWriter bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.writeErr == nil {
		h.writeErr = &network.StreamError{ErrorCode: code, Remote: !byWriter}
	}
	if h.readErr == nil && !(byWriter && h.eof) {
		h.readErr = &network.StreamError{ErrorCode: code, Remote: byWriter}
		h.buf = bytes.Buffer{}
	}
	h.reading.stop()
	h.writing.stop()
	h.cond.Broadcast()
}

func (h *loopHalf) setDeadline(d *loopDeadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.stop()
	d.passed = false
	if !t.IsZero() {
		if wait := time.Until(t); wait > 0 {
			var timer *time.Timer
			timer = time.AfterFunc(wait, func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				if d.timer == timer { // not replaced meanwhile
					d.passed = true
					h.cond.Broadcast()
				}
			})
			d.timer = timer
		} else {
			d.passed = true
		}
	}
	h.cond.Broadcast()
}

func (d *loopDeadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
