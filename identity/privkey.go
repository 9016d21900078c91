package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// SeedSize is the length of the secret seed of a key in bytes.
const SeedSize = ed25519.SeedSize

// ErrNoKey says that an operation was asked of the zero PrivKey.
var ErrNoKey = errors.New("identity: no private key (zero PrivKey); use Generate, Load or LoadOrCreate")

// PrivKey is an Ed25519 private key. Copies share the same secret, which never changes; it is safe for concurrent use.
// No way of printing, logging or encoding a PrivKey shows the secret; Seed and MarshalPEM are the only ways to have
// it. The zero value means no key: IsZero tells, Sign and the like return ErrNoKey. Compare keys with Equal.
type PrivKey struct {
	// The secret stands inside a function because fmt cannot call Format on an unexported field of somebody's struct
	// and walks into it; there it prints the address of a function. A pointer is not enough: %s follows it. The
	// function also makes == on keys a compile error.
	secret func() ed25519.PrivateKey
}

func newPrivKey(key ed25519.PrivateKey) PrivKey {
	return PrivKey{secret: func() ed25519.PrivateKey { return key }}
}

// Generate makes a new key from the system's random source.
func Generate() (PrivKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return PrivKey{}, fmt.Errorf("identity: generate key: %w", err)
	}
	return newPrivKey(key), nil
}

// PrivKeyFromSeed makes the key of a 32-byte seed (RFC 8032), for import from elsewhere and for tests. Two nodes with
// one seed are one node. The seed is copied.
func PrivKeyFromSeed(seed []byte) (PrivKey, error) {
	if len(seed) != SeedSize {
		return PrivKey{}, fmt.Errorf("%w: seed has %d bytes, want %d", ErrNotEd25519, len(seed), SeedSize)
	}
	return newPrivKey(ed25519.NewKeyFromSeed(seed)), nil
}

// IsZero reports whether there is no key.
func (k PrivKey) IsZero() bool { return k.secret == nil }

// Seed returns a copy of the 32-byte secret, for export, or nil for the zero key. Who holds it is the node.
func (k PrivKey) Seed() []byte {
	if k.IsZero() {
		return nil
	}
	return k.secret().Seed()
}

// Equal reports whether both are the same key, in constant time. Two zero keys are equal.
func (k PrivKey) Equal(other PrivKey) bool {
	if k.IsZero() || other.IsZero() {
		return k.IsZero() == other.IsZero()
	}
	return subtle.ConstantTimeCompare(k.secret(), other.secret()) == 1
}

// Public returns the public key, the zero PubKey for the zero key.
func (k PrivKey) Public() PubKey {
	if k.IsZero() {
		return PubKey{}
	}
	return PubKey{b: [PubKeySize]byte(k.secret()[SeedSize:])}
}

// Sign signs exactly msg (Ed25519, RFC 8032; 64 bytes, deterministic). It is for protocols that fix the signed bytes,
// as SecretConnection does; sign anything of kith's own with SignContext. It returns ErrNoKey for the zero key.
func (k PrivKey) Sign(msg []byte) ([]byte, error) {
	if k.IsZero() {
		return nil, ErrNoKey
	}
	return ed25519.Sign(k.secret(), msg), nil
}

// Libp2p returns the key as libp2p wants it, holding its own copy of the secret; nil for the zero key.
func (k PrivKey) Libp2p() crypto.PrivKey {
	if k.IsZero() {
		return nil
	}
	lk, err := crypto.UnmarshalEd25519PrivateKey(append([]byte(nil), k.secret()...))
	if err != nil {
		return nil // only for a length other than 64
	}
	return lk
}

// String says which key it is, never the secret.
func (k PrivKey) String() string {
	if k.IsZero() {
		return "[no private key]"
	}
	return "[private key of " + string(k.Public().NodeID()) + "]"
}

// GoString is String, for %#v.
func (k PrivKey) GoString() string { return k.String() }

// Format writes String for every verb.
func (k PrivKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue is String, for log/slog.
func (k PrivKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText is String, for encoders: what they write cannot be read back as a key.
func (k PrivKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
