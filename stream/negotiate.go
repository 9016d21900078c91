package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// The dialler's half of multistream-select 1.0.0, from
// https://github.com/multiformats/multistream-select. Each line is a uvarint
// length, the text, and a newline that the length includes:
//
//	dialler  -> \x13/multistream/1.0.0\n <len><protocol>\n  data...
//	listener -> \x13/multistream/1.0.0\n <len><protocol>\n  data...   or   \x03na\n
//
// Data follows the hello without waiting for the answer. The answer is read by
// the first Read, byte for byte what is expected and nothing beyond, and both
// halves may be interrupted by a deadline and resumed.

const multistream = "/multistream/1.0.0"

var (
	preamble = appendLine(nil, multistream)
	notHere  = appendLine(nil, "na")
)

func appendLine(b []byte, text string) []byte {
	b = binary.AppendUvarint(b, uint64(len(text)+1))
	return append(append(b, text...), '\n')
}

// greeting is the hello, and the answer that it must get.
func greeting(id protocol.ID) []byte {
	return appendLine(bytes.Clone(preamble), string(id))
}

// sendHello sends what is left of the hello. The caller holds wmu.
func (c *Conn) sendHello() error {
	for len(c.hello) > 0 {
		n, err := c.s.Write(c.hello)
		c.hello = c.hello[n:]
		if err != nil {
			return err
		}
	}
	c.state.Or(greeted)
	return nil
}

// togetherMax is how much a first Write may have for the hello to leave in one
// piece with it: an opening of a protocol and a small request.
const togetherMax = 1 << 10

// sendHelloWith sends what is left of the hello, and p with it if p is short,
// in one write: one frame of the muxer, one record, one packet. It returns how
// much of p was sent. The caller holds wmu.
func (c *Conn) sendHelloWith(p []byte) (int, error) {
	if len(p) == 0 || len(p) > togetherMax {
		return 0, c.sendHello()
	}
	hello := len(c.hello)
	n, err := c.s.Write(append(c.hello[:hello:hello], p...))
	sent := min(n, hello)
	c.hello = c.hello[sent:]
	if len(c.hello) == 0 {
		c.state.Or(greeted)
	}
	return n - sent, err
}

// sendHelloAnyway is sendHello without regard to the write deadline: that is no
// concern of a Read or a CloseWrite. The caller holds wmu.
func (c *Conn) sendHelloAnyway() error {
	if len(c.hello) == 0 {
		return nil
	}
	heed := func(deadline bool) {
		c.dmu.Lock()
		defer c.dmu.Unlock()
		var t time.Time
		if deadline {
			t = c.writeBy
		}
		if c.state.Load()&closed == 0 { // or else it is Close's
			_ = c.s.SetWriteDeadline(t)
		}
	}
	heed(false)
	defer heed(true)
	return c.sendHello()
}

// readAnswer reads what is left of the answer. The caller holds rmu. On a lazy
// connection it says hello first, unless a writer is doing so.
func (c *Conn) readAnswer() error {
	if c.wmu.TryLock() {
		err := c.sendHelloAnyway()
		c.wmu.Unlock()
		if err != nil {
			return err
		}
	}
	for len(c.got) < len(c.answer) {
		// Never more than the answer can still have: the rest is the caller's.
		n, err := c.s.Read(c.got[len(c.got):len(c.answer)])
		c.got = c.got[:len(c.got)+n]
		if !bytes.HasPrefix(c.answer, c.got) {
			return c.badAnswer()
		}
		if len(c.got) == len(c.answer) {
			break // an error that came with the last byte comes again
		}
		if err == io.EOF {
			return &resetError{text: "peer closed the stream before it agreed on the protocol"}
		}
		if err != nil {
			return err
		}
	}
	c.answer, c.got = nil, nil
	c.state.Or(answered)
	return nil
}

// badAnswer says what is wrong with an answer that is not the expected one.
func (c *Conn) badAnswer() error {
	if len(c.got) > len(preamble) && bytes.HasPrefix(c.got, preamble) {
		if rest := c.got[len(preamble):]; bytes.HasPrefix(rest, notHere) || bytes.HasPrefix(notHere, rest) {
			c.state.Or(refused)
			return noSuchService(c.remotePeer, c.id)
		}
	}
	return &resetError{text: fmt.Sprintf("peer does not speak %s: it answered %.40q", multistream, c.got)}
}

func noSuchService(p peer.ID, id protocol.ID) error {
	return fmt.Errorf("%w: peer %s does not offer %q; check the name, and that it is listening there", ErrNoSuchService, p, id)
}

// isNegotiationReset says whether the peer gave up while the protocol was
// being agreed. yamux drops an unread "na" when the reset behind it arrives.
func isNegotiationReset(err error) bool {
	se, ok := errors.AsType[*network.StreamError](err)
	return ok && se.Remote && se.ErrorCode == network.StreamProtocolNegotiationFailed
}
