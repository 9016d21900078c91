package p2p

import (
	"encoding/binary"
	"errors"
	"time"
)

// The first bytes of every message on a channel that both sides' NodeInfo
// extensions list for requests:
//
//	plain    0
//	request  1  id uvarint  deadline uvarint (ms from now; 0 none)
//	reply    2  id uvarint
//	cancel   3  id uvarint
//
// The message follows; a cancel has none. Ids are the requester's own.
type callKind uint8

const (
	callPlain callKind = iota
	callRequest
	callReply
	callCancel
)

type callHead struct {
	kind    callKind
	id      uint64
	timeout time.Duration
}

// callHeadMax is the longest head: a kind and two uvarints.
const callHeadMax = 1 + 2*binary.MaxVarintLen64

// maxCallTimeout bounds the deadline that a peer can ask for.
const maxCallTimeout = 24 * time.Hour

var errCallFrame = errors.New("p2p: malformed request frame")

func (h callHead) append(dst []byte) []byte {
	dst = append(dst, byte(h.kind))
	if h.kind == callPlain {
		return dst
	}
	dst = binary.AppendUvarint(dst, h.id)
	if h.kind == callRequest {
		ms := (h.timeout + time.Millisecond - 1) / time.Millisecond
		dst = binary.AppendUvarint(dst, uint64(max(0, ms)))
	}
	return dst
}

// parseCall splits a message into its head and its body.
func parseCall(data []byte) (h callHead, body []byte, err error) {
	if len(data) == 0 || data[0] > byte(callCancel) {
		return h, nil, errCallFrame
	}
	h.kind, body = callKind(data[0]), data[1:]
	if h.kind == callPlain {
		return h, body, nil
	}
	var n int
	if h.id, n = binary.Uvarint(body); n <= 0 {
		return h, nil, errCallFrame
	}
	body = body[n:]
	if h.kind == callRequest {
		ms, n := binary.Uvarint(body)
		if n <= 0 {
			return h, nil, errCallFrame
		}
		h.timeout = maxCallTimeout
		if ms < uint64(maxCallTimeout/time.Millisecond) {
			h.timeout = time.Duration(ms) * time.Millisecond
		}
		body = body[n:]
	}
	if h.kind == callCancel && len(body) > 0 {
		return h, nil, errCallFrame
	}
	return h, body, nil
}
