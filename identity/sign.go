package identity

import (
	"crypto/sha512"
	"errors"
	"fmt"
)

// MaxContext is the longest context in bytes that SignContext takes.
const MaxContext = 64

// signaturePrefix starts every byte string that kith itself signs. Changing it invalidates all tickets and grants.
const signaturePrefix = "kith-signature-v1:"

// ErrContext says that a context is empty, too long, or not printable ASCII.
var ErrContext = errors.New("identity: invalid signature context")

// SignContext signs msg for one purpose of kith's own, named by context: 1 to 64 printable ASCII characters, a
// constant of the program such as "ticket v1". A signature made for one context is worth nothing in another, nor in
// any other protocol that uses the same key. It returns ErrContext or ErrNoKey.
//
// Signed are the bytes
//
//	"kith-signature-v1:" context 0x00 SHA-512(msg)
//
// The hash makes them at least 84 bytes, whatever msg is: CometBFT's SecretConnection signs 32 raw bytes that have no
// prefix, so only the length keeps the two apart.
func (k PrivKey) SignContext(context string, msg []byte) ([]byte, error) {
	signed, err := contextBytes(context, msg)
	if err != nil {
		return nil, err
	}
	return k.Sign(signed)
}

// VerifyContext reports whether sig was made by SignContext of this key's private key with the same context and msg.
// It is false for an invalid context.
func (k PubKey) VerifyContext(context string, msg, sig []byte) bool {
	signed, err := contextBytes(context, msg)
	return err == nil && k.Verify(signed, sig)
}

func contextBytes(context string, msg []byte) ([]byte, error) {
	if len(context) == 0 || len(context) > MaxContext {
		return nil, fmt.Errorf("%w: %d characters, want 1 to %d", ErrContext, len(context), MaxContext)
	}
	for i := range len(context) {
		if context[i] < 0x20 || context[i] > 0x7e {
			return nil, fmt.Errorf("%w: byte %#02x at position %d is not printable ASCII", ErrContext, context[i], i+1)
		}
	}
	sum := sha512.Sum512(msg)
	b := make([]byte, 0, len(signaturePrefix)+len(context)+1+len(sum))
	b = append(b, signaturePrefix...)
	b = append(b, context...)
	b = append(b, 0)
	return append(b, sum[:]...), nil
}
