package grpcid

import (
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Why a handshake is refused.
var (
	// ErrNoPeer: the connection proves no peer ID. It is not over a libp2p
	// stream, or a wrapper hides RemotePeer and has no NetConn.
	ErrNoPeer = errors.New("grpcid: the connection proves no peer ID; use an address with /p2p/<id>, or other credentials")

	// ErrNoTarget: nothing says which peer a client means to call.
	ErrNoTarget = errors.New("grpcid: the authority must be the peer ID to call")
)

// MismatchError: somebody else is at the other end than the client meant.
type MismatchError struct {
	Want, Got peer.ID
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("grpcid: meant to call peer %s, but %s is at the other end", e.Want, e.Got)
}
