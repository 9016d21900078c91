package libp2p

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Credit bounds what of a channel is on its way to a peer that does not take it, when
// both hellos know of it. A hello says with how many bytes a channel's stream begins, and the receiver grants
// more on the other half of that stream, behind the answer to the greeting:
//
//	+-------------------------------+
//	| how many bytes more (4, BE)   | ...
//	+-------------------------------+
//
// The sender looks for credit only when it has none left.
const (
	fieldWindow = protowire.Number(16) // of a hello: varint

	creditSize  = 4
	leastCredit = 16 << 10 // in one grant
	leastWindow = 64 << 10 // in a hello
	mostCredit  = 1 << 30  // of a window, and not used up
)

// appendWindow ends a hello.
func appendWindow(hello []byte) []byte {
	return protowire.AppendVarint(protowire.AppendTag(hello, fieldWindow, protowire.VarintType), firstWindow)
}

// parseWindow finds the window in what follows the kind of a hello that was parsed. 0:
// the peer does not know credit.
func parseWindow(hello []byte) (uint64, error) {
	var window uint64
	err := eachField(hello[sessionSize:], func(field protowire.Number, number uint64, _ []byte) error {
		if field == fieldWindow {
			if window = number; window < leastWindow || window > mostCredit {
				return fmt.Errorf("%w: %w: a window of %d bytes, at least %d and at most %d are allowed",
					ErrNodeInfo, ErrMalformed, window, leastWindow, mostCredit)
			}
		}
		return nil
	})
	return window, err
}

// put writes bytes of messages, as many at a time as the peer takes. lead says how many
// of them come before the messages. The caller has the channel's turn.
func (c *Connection) put(o *outChannel, b []byte, lead int) error {
	if c.credit == 0 {
		_, err := o.s.Write(b)
		return err
	}
	for len(b) > 0 {
		for o.credit == 0 && lead == 0 {
			if err := c.awaitCredit(o); err != nil {
				return err
			}
		}
		n := min(len(b), lead+o.credit)
		if _, err := o.s.Write(b[:n]); err != nil {
			return err
		}
		o.credit -= n - lead
		b, lead = b[n:], 0
	}
	return nil
}

// awaitCredit reads what the peer has granted on a channel's stream, and waits for that.
// The caller has the channel's turn.
func (c *Connection) awaitCredit(o *outChannel) error {
	if !o.answered {
		if err := readAnswer(o.s, channelGreeting); err != nil {
			return err
		}
		o.answered = true
	}
	n, err := o.s.Read(o.grants[o.granted:])
	o.granted += n
	rest := o.grants[:o.granted]
	for ; len(rest) >= creditSize; rest = rest[creditSize:] {
		grant := binary.BigEndian.Uint32(rest)
		if grant < leastCredit || uint64(o.credit)+uint64(grant) > mostCredit {
			err := fmt.Errorf("%w: %d bytes granted, %d not used up", ErrMalformed, grant, o.credit)
			c.fault(err)
			return err
		}
		o.credit += int(grant)
	}
	o.granted = copy(o.grants[:], rest)
	if n > 0 {
		return nil // an error that came with it comes again
	}
	return err
}
