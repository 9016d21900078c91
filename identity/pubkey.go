package identity

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/crypto/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// PubKeySize is the length of a public key in bytes.
const PubKeySize = ed25519.PublicKeySize

// maxPeerID bounds the bytes of a peer ID, printing of which takes quadratic time: keys of up to 42 bytes are carried
// inline, longer ones hashed, and two bytes say which.
const maxPeerID = 64

// PubKey is an Ed25519 public key. It is a value: comparable with ==, usable as a map key, safe for concurrent use.
// The zero value means no key: it has no names and verifies nothing.
type PubKey struct {
	b [PubKeySize]byte
}

// PubKeyFromBytes copies a raw 32-byte Ed25519 public key. It returns an error for another length and for all zeros.
func PubKeyFromBytes(b []byte) (PubKey, error) {
	if len(b) != PubKeySize {
		return PubKey{}, fmt.Errorf("%w: public key has %d bytes, want %d", ErrNotEd25519, len(b), PubKeySize)
	}
	key := PubKey{b: [PubKeySize]byte(b)}
	if key.IsZero() {
		return PubKey{}, fmt.Errorf("%w: public key is all zeros", ErrNotEd25519)
	}
	return key, nil
}

// PubKeyFromPeerID takes the key out of a peer ID that carries it (12D3KooW...). Errors match ErrNoPublicKey when the
// ID is only a hash, ErrNotEd25519 when it carries another type of key, and ErrPeerID when it is empty, damaged, or an
// encoding of the key other than the one libp2p makes: otherwise one key would have many peer IDs.
func PubKeyFromPeerID(id peer.ID) (PubKey, error) {
	if id == "" {
		return PubKey{}, fmt.Errorf("%w: empty", ErrPeerID)
	}
	if len(id) > maxPeerID {
		return PubKey{}, fmt.Errorf("%w: it has %d bytes, at most %d are possible", ErrPeerID, len(id), maxPeerID)
	}
	k, err := id.ExtractPublicKey()
	if errors.Is(err, peer.ErrNoPublicKey) {
		return PubKey{}, fmt.Errorf("%w: %s is a hash of one", ErrNoPublicKey, id)
	}
	if err != nil {
		return PubKey{}, fmt.Errorf("%w: %w", ErrPeerID, err)
	}
	if k.Type() != pb.KeyType_Ed25519 {
		return PubKey{}, fmt.Errorf("%w: peer ID %s carries a key of type %s", ErrNotEd25519, clip(id.String()), k.Type())
	}
	raw, err := k.Raw()
	if err != nil {
		return PubKey{}, fmt.Errorf("%w: %w", ErrPeerID, err)
	}
	key, err := PubKeyFromBytes(raw)
	if err != nil {
		return PubKey{}, err
	}
	if key.PeerID() != id {
		return PubKey{}, fmt.Errorf("%w: %s is not the usual spelling of its key, want %s", ErrPeerID, clip(id.String()), key.PeerID())
	}
	return key, nil
}

// IsZero reports whether there is no key.
func (k PubKey) IsZero() bool { return k == PubKey{} }

// Bytes returns a copy of the 32 raw bytes.
func (k PubKey) Bytes() []byte { return append([]byte(nil), k.b[:]...) }

// String returns the key in lowercase hex (64 characters).
func (k PubKey) String() string { return hex.EncodeToString(k.b[:]) }

// MarshalText is String for encoders.
func (k PubKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// NodeID returns the node's name as a hash of the key; for the zero key the empty NodeID.
func (k PubKey) NodeID() NodeID {
	if k.IsZero() {
		return ""
	}
	return nodeIDOf(&k.b)
}

// PeerID returns libp2p's name for the key (12D3KooW...); for the zero key the empty peer ID.
func (k PubKey) PeerID() peer.ID {
	if k.IsZero() {
		return ""
	}
	lk, err := crypto.UnmarshalEd25519PublicKey(k.b[:])
	if err != nil {
		return "" // only for a length other than 32
	}
	id, err := peer.IDFromPublicKey(lk)
	if err != nil {
		return "" // marshalling 32 bytes does not fail
	}
	return id
}

// Verify reports whether sig is this key's Ed25519 signature (RFC 8032) of exactly msg. It is false for the zero key
// and for a signature of the wrong length.
func (k PubKey) Verify(msg, sig []byte) bool {
	return !k.IsZero() && len(sig) == ed25519.SignatureSize && ed25519.Verify(k.b[:], msg, sig)
}
