package libp2p

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// The dialler's half of multistream-select 1.0.0
// (https://github.com/multiformats/multistream-select), said together with the
// first bytes of the protocol itself: each line is a uvarint length, the text, and a
// newline that the length includes, and the listener answers with the same two.
const multistream = "/multistream/1.0.0"

func greeting(id protocol.ID) []byte {
	var b []byte
	for _, text := range []string{multistream, string(id)} {
		b = binary.AppendUvarint(b, uint64(len(text)+1))
		b = append(append(b, text...), '\n')
	}
	return b
}

var (
	controlGreeting = greeting(ControlProtocol)
	channelGreeting = greeting(ChannelProtocol)
	moveGreeting    = greeting(MoveProtocol)
)

// readAnswer reads the answer to a greeting, byte for byte what is expected and
// nothing beyond.
func readAnswer(r io.Reader, want []byte) error {
	got := make([]byte, len(want))
	for n := 0; n < len(want); {
		m, err := r.Read(got[n:])
		n += m
		if !bytes.HasPrefix(want, got[:n]) {
			return fmt.Errorf("%w: it answered %.40q", ErrNotSpoken, got[:n])
		}
		if n == len(want) {
			return nil
		}
		var reset *network.StreamError
		switch {
		case err == io.EOF:
			return fmt.Errorf("%w: it closed the stream", ErrNotSpoken)
		case errors.As(err, &reset) && reset.Remote && reset.ErrorCode == network.StreamProtocolNegotiationFailed:
			// yamux drops an unread answer when the reset behind it arrives.
			return fmt.Errorf("%w: %w", ErrNotSpoken, err)
		case err != nil:
			return err
		}
	}
	return nil
}
