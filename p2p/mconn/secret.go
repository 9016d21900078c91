package mconn

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// The key agreement of SecretConnection. Both sides send in clear, at once,
//
//	22 0a 20 <32 bytes>      a delimited BytesValue: an X25519 ephemeral key
//
// and everything after that is in frames (frame.go).
const (
	transcriptLabel = "TENDERMINT_SECRET_CONNECTION_TRANSCRIPT_HASH"
	keysInfo        = "TENDERMINT_SECRET_CONNECTION_KEY_AND_CHALLENGE_GEN"
	ephemeralSize   = 3 + 32
	keySize         = chacha20poly1305.KeySize
)

var ephemeralHead = [3]byte{0x22, 0x0a, 0x20}

// ephemeralMessage is the first message with a public key in it.
func ephemeralMessage(public *ecdh.PublicKey) []byte {
	return append(ephemeralHead[:], public.Bytes()...)
}

// parseEphemeral takes the key out of the first message. It has one spelling:
// a byte less in it is a byte less to tamper with.
func parseEphemeral(message []byte) (*ecdh.PublicKey, error) {
	if len(message) != ephemeralSize || [3]byte(message[:3]) != ephemeralHead {
		return nil, fmt.Errorf("%w: the peer does not speak SecretConnection", ErrEphemeralKey)
	}
	public, err := ecdh.X25519().NewPublicKey(message[3:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEphemeralKey, err)
	}
	return public, nil
}

// An agreement is what the two ephemeral keys give.
type agreement struct {
	lower      bool        // our key is the lower one
	transcript *transcript // of the handshake so far
	challenge  []byte      // 32 bytes that both sides sign
	keys       [2 * keySize]byte
}

// agree computes the shared secret and all that follows from it. A remote key
// that leads to the all-zero secret, or that is our own, is ErrEphemeralKey.
func agree(private *ecdh.PrivateKey, remote *ecdh.PublicKey) (*agreement, error) {
	own := private.PublicKey().Bytes()
	lo, hi := own, remote.Bytes()
	order := bytes.Compare(lo, hi)
	if order == 0 {
		return nil, fmt.Errorf("%w: it is our own, sent back", ErrEphemeralKey)
	}
	if order > 0 {
		lo, hi = hi, lo
	}
	dh, err := private.ECDH(remote)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEphemeralKey, err)
	}
	a := &agreement{lower: order < 0, transcript: newTranscript(transcriptLabel)}
	a.transcript.add("EPHEMERAL_LOWER_PUBLIC_KEY", lo)
	a.transcript.add("EPHEMERAL_UPPER_PUBLIC_KEY", hi)
	a.transcript.add("DH_SECRET", dh)
	a.challenge = a.transcript.challenge("SECRET_CONNECTION_MAC", 32)
	keys, err := hkdf.Key(sha256.New, dh, nil, keysInfo, 96)
	if err != nil {
		return nil, fmt.Errorf("mconn: derive keys: %w", err)
	}
	copy(a.keys[:], keys) // the last 32 are not used
	return a, nil
}

// kithKeys replaces the keys by ones that also depend on what both sides
// offered, so that a session in which anybody changed an offer does not
// decrypt. The transcript goes on after the challenge; nothing of it is sent.
func (a *agreement) kithKeys(own, remote uint64) {
	lo, hi := own, remote
	if !a.lower {
		lo, hi = hi, lo
	}
	a.transcript.add("KITH_OFFER_LOWER", binary.LittleEndian.AppendUint64(nil, lo))
	a.transcript.add("KITH_OFFER_UPPER", binary.LittleEndian.AppendUint64(nil, hi))
	copy(a.keys[:], a.transcript.challenge("KITH_KEYS", len(a.keys)))
}

// ciphers returns the two directions: the lower key's owner receives with the
// first half of the keys and sends with the second.
func (a *agreement) ciphers() (send, receive cipher.AEAD, err error) {
	first, err := chacha20poly1305.New(a.keys[:keySize])
	if err != nil {
		return nil, nil, err
	}
	second, err := chacha20poly1305.New(a.keys[keySize:])
	if err != nil {
		return nil, nil, err
	}
	if a.lower {
		return second, first, nil
	}
	return first, second, nil
}
