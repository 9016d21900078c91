package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
)

// NodeIDLength is the length of a NodeID in characters: 20 bytes in hex.
const NodeIDLength = 40

var (
	// ErrNodeID is matched by every error about a string that is no NodeID.
	ErrNodeID = errors.New("identity: invalid node ID")
	// ErrNoPublicKey says that a peer ID is only a hash (Qm..., or another kind of key too long to be carried in
	// it), so that neither the public key nor the NodeID can be computed from it.
	ErrNoPublicKey = errors.New("identity: peer ID does not carry a public key")
	// ErrNotEd25519 says that a key or the key in a peer ID is of a type other than Ed25519.
	ErrNotEd25519 = errors.New("identity: not an Ed25519 key")
	// ErrPeerID says that a peer ID is empty, damaged, or not in the one form libp2p makes of that key.
	ErrPeerID = errors.New("identity: invalid peer ID")
)

// NodeID names a node: 40 lowercase hex characters, the first 20 bytes of SHA-256 of its Ed25519 public key (as in
// Tendermint). Make one with PubKey.NodeID, ParseNodeID or NodeIDFromPeerID; a value converted from a string should be
// validated before use. The empty NodeID means none and is not valid.
type NodeID string

// String returns the ID as it is.
func (id NodeID) String() string { return string(id) }

// Validate returns nil for exactly 40 lowercase hex characters, otherwise an error that matches ErrNodeID and names
// the fault and its position.
func (id NodeID) Validate() error {
	if len(id) != NodeIDLength {
		if id == "" {
			return fmt.Errorf("%w: empty", ErrNodeID)
		}
		if len(id) >= 46 && (strings.HasPrefix(string(id), "12D3KooW") || strings.HasPrefix(string(id), "Qm")) {
			return fmt.Errorf("%w: %q is a libp2p peer ID, a node ID has %d hex characters", ErrNodeID, clip(string(id)), NodeIDLength)
		}
		return fmt.Errorf("%w: %q has %d characters, want %d", ErrNodeID, clip(string(id)), len(id), NodeIDLength)
	}
	for i := range len(id) {
		switch c := id[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
		case c >= 'A' && c <= 'F':
			return fmt.Errorf("%w: %q has an uppercase %q at position %d", ErrNodeID, string(id), c, i+1)
		default:
			return fmt.Errorf("%w: %q has %q at position %d, which is not a hex digit", ErrNodeID, string(id), c, i+1)
		}
	}
	return nil
}

// ParseNodeID lowercases s and validates it. Errors match ErrNodeID.
func ParseNodeID(s string) (NodeID, error) {
	if len(s) == NodeIDLength {
		s = strings.ToLower(s)
	}
	id := NodeID(s)
	if err := id.Validate(); err != nil {
		return "", err
	}
	return id, nil
}

// NodeIDFromPeerID computes the NodeID of the peer whose ID carries its Ed25519 public key inline (12D3KooW...).
// Errors match ErrNoPublicKey, ErrNotEd25519 or ErrPeerID.
func NodeIDFromPeerID(id peer.ID) (NodeID, error) {
	key, err := PubKeyFromPeerID(id)
	if err != nil {
		return "", err
	}
	return key.NodeID(), nil
}

func nodeIDOf(key *[PubKeySize]byte) NodeID {
	sum := sha256.Sum256(key[:])
	return NodeID(hex.EncodeToString(sum[:NodeIDLength/2]))
}

// clip bounds what an error repeats of its input.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
