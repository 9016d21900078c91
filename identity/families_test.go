package identity

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// family is one kind of byte string that a node's key signs: what its strings start with, and their length.
type family struct {
	name     string
	prefix   string
	min, max int    // length of the whole; max 0 is open
	example  []byte // one real member
}

// families lists everything signed with the one key of a node. Each line was read in the source named there.
func families() []family {
	pub := bytes.Repeat([]byte{0xab}, 32)
	peerID := append([]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}, pub...) // identity multihash of an Ed25519 key
	spki := append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, pub...)
	ours, err := contextBytes("t", nil)
	if err != nil {
		panic(err)
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	field := func(b []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(b))), b...) }
	return []family{
		// sign.go here: prefix, context, NUL, SHA-512.
		{"kith", "kith-signature-v1:", 84, 18 + MaxContext + 1 + 64, ours},
		// CometBFT p2p/conn/secret_connection.go, signChallenge: the 32 bytes of the transcript's challenge, bare.
		{"SecretConnection", "", 32, 32, pub},
		// go-libp2p v0.51.0 p2p/security/noise/handshake.go, payloadSigPrefix: then the 32-byte X25519 static key.
		{"libp2p Noise", "noise-libp2p-static-key:", 56, 56, join([]byte("noise-libp2p-static-key:"), pub)},
		// go-libp2p v0.51.0 p2p/security/tls/crypto.go, certificatePrefix: then the certificate key's SPKI, which is
		// 91 bytes for the P-256 key made there and at least 44 for any type of key.
		{"libp2p TLS", "libp2p-tls-handshake:", 21 + 44, 0, join([]byte("libp2p-tls-handshake:"), spki)},
		// go-libp2p-pubsub sign.go, SignPrefix: then the Protobuf message, whose field 1 (from) is the signer's peer
		// ID of 38 bytes, with tag and length 40.
		{"GossipSub", "libp2p-pubsub:", 14 + 40, 0, join([]byte("libp2p-pubsub:\x0a"), field(peerID), []byte{0x22, 1, 't'})},
		// go-libp2p v0.51.0 core/record/envelope.go, makeUnsigned: length, domain, length, type, length, payload.
		// Domains: core/peer/record.go, p2p/protocol/circuitv2/proto/voucher.go; both payloads hold a peer ID.
		{"peer record", "\x12libp2p-peer-record", 19 + 3 + 1 + 38, 0, join(field([]byte("libp2p-peer-record")), field([]byte{3, 1}), field(peerID))},
		{"relay voucher", "\x11libp2p-relay-rsvp", 18 + 3 + 1 + 38, 0, join(field([]byte("libp2p-relay-rsvp")), field([]byte{3, 2}), field(peerID))},
		// go-libp2p v0.51.0 p2p/http/auth/internal/handshake, PeerIDAuthScheme: then length-prefixed key=value parts,
		// one of them "challenge-client" or "challenge-server" with at least 32 bytes (challengeLen).
		{"libp2p HTTP auth", "libp2p-PeerID", 13 + 1 + 17 + 32, 0, join([]byte("libp2p-PeerID"), field([]byte("challenge-client="+strings.Repeat("A", 44))))},
	}
}

// One key may serve all of them because no byte string can be in two: either neither prefix begins with the other, so
// that they differ within the shorter one, or no length is possible in both.
func TestSignedFamiliesAreDisjoint(t *testing.T) {
	all := families()
	for i, a := range all {
		if len(a.example) < a.min || a.max > 0 && len(a.example) > a.max || !strings.HasPrefix(string(a.example), a.prefix) {
			t.Errorf("%s: the example of %d bytes is not of its own family", a.name, len(a.example))
		}
		for _, b := range all[i+1:] {
			byPrefix := !strings.HasPrefix(a.prefix, b.prefix) && !strings.HasPrefix(b.prefix, a.prefix)
			byLength := a.max > 0 && a.max < b.min || b.max > 0 && b.max < a.min
			if !byPrefix && !byLength {
				t.Errorf("%s and %s can sign the same bytes", a.name, b.name)
			}
		}
	}
}

// Any other envelope domain would have to be 107 bytes long (0x6b is 'k') and go on with "ith-signature-v1:".
func TestEnvelopeDomainsCannotSpellOurPrefix(t *testing.T) {
	if signaturePrefix[0] != 107 || len(signaturePrefix) != 18 {
		t.Fatal("prefix changed: think again about libp2p envelopes, and about the length of the shortest message")
	}
	shortest, err := contextBytes("c", nil)
	if err != nil || len(shortest) != 84 {
		t.Fatalf("shortest message of ours has %d bytes (%v), want 84", len(shortest), err)
	}
}

// A signature made in one family is refused in all others.
func TestSignaturesDoNotTravel(t *testing.T) {
	key, all := seededKey(t, 9), families()
	for i, a := range all {
		sig, err := key.Sign(a.example)
		if err != nil {
			t.Fatal(err)
		}
		for j, b := range all {
			if got := key.Public().Verify(b.example, sig); got != (i == j) {
				t.Errorf("signature of %s on %s: %v", a.name, b.name, got)
			}
		}
	}
}
