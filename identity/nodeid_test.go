package identity

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"
)

// seededKey is the key whose seed is 32 times b.
func seededKey(t testing.TB, b byte) PrivKey {
	t.Helper()
	seed := make([]byte, SeedSize)
	for i := range seed {
		seed[i] = b
	}
	key, err := PrivKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestParseNodeID(t *testing.T) {
	good := "0123456789abcdef0123456789abcdef01234567"
	for _, s := range []string{good, strings.ToUpper(good)} {
		id, err := ParseNodeID(s)
		if err != nil || string(id) != good {
			t.Errorf("ParseNodeID(%q) = %q, %v", s, id, err)
		}
	}
	for _, c := range []struct{ in, fault string }{
		{"", "empty"},
		{good[:39], "39 characters"},
		{good + "0", "41 characters"},
		{"g" + good[1:], `'g' at position 1`},
		{good[:39] + " ", `' ' at position 40`},
		{good[:38] + "é", "position 39"},
		{"12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", "libp2p peer ID"},
		{strings.Repeat("a", 1<<16), "65536 characters"},
	} {
		_, err := ParseNodeID(c.in)
		if !errors.Is(err, ErrNodeID) || !strings.Contains(err.Error(), c.fault) || len(err.Error()) > 300 {
			t.Errorf("ParseNodeID(%.50q): error %.300v, want it to name %q", c.in, err, c.fault)
		}
	}
	if err := NodeID(strings.ToUpper(good)).Validate(); !errors.Is(err, ErrNodeID) {
		t.Errorf("Validate took uppercase: %v", err)
	}
}

// The names agree with libp2p's own, and with SHA-256 of the key as sha256sum computes it.
func TestNamesOfAKey(t *testing.T) {
	key := seededKey(t, 7)
	pub := key.Public()
	lpID, err := peer.IDFromPrivateKey(key.Libp2p())
	if err != nil {
		t.Fatal(err)
	}
	if pub.PeerID() != lpID {
		t.Errorf("PeerID %s, libp2p says %s", pub.PeerID(), lpID)
	}
	id, err := NodeIDFromPeerID(lpID)
	if err != nil || id != pub.NodeID() || id.Validate() != nil {
		t.Errorf("NodeIDFromPeerID = %q, %v, want %q", id, err, pub.NodeID())
	}
	// echo d75a98...511a | xxd -r -p | sha256sum, for the key of RFC 8032, section 7.1, TEST 1.
	known, _ := hex.DecodeString("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	if rfc, err := PubKeyFromBytes(known); err != nil || rfc.NodeID() != "21fe31dfa154a261626bf854046fd2271b7bed4b" {
		t.Errorf("NodeID of the RFC's key = %q, %v", rfc.NodeID(), err)
	}
	back, err := PubKeyFromPeerID(lpID)
	if err != nil || back != pub {
		t.Errorf("PubKeyFromPeerID = %v, %v, want %v", back, err, pub)
	}
}

func TestNodeIDFromPeerIDRefuses(t *testing.T) {
	_, secp, err := crypto.GenerateSecp256k1Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	secpID, err := peer.IDFromPublicKey(secp)
	if err != nil {
		t.Fatal(err)
	}
	hashed, err := mh.Sum([]byte("some long key"), mh.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	// The key of a usual ID with its two protobuf fields the other way round: same key, other bytes.
	raw := seededKey(t, 1).Public().Bytes()
	swapped, err := mh.Sum(append(append([]byte{0x12, 0x20}, raw...), 0x08, 0x01), mh.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	garbage, err := mh.Sum([]byte("not a key"), mh.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		id   peer.ID
		want error
	}{
		"empty":         {"", ErrPeerID},
		"not multihash": {"xyz", ErrPeerID},
		"a hash":        {peer.ID(hashed), ErrNoPublicKey},
		"secp256k1":     {secpID, ErrNotEd25519},
		"unusual order": {peer.ID(swapped), ErrPeerID},
		"garbage":       {peer.ID(garbage), ErrPeerID},
		"huge":          {peer.ID(garbage) + peer.ID(make([]byte, 1<<20)), ErrPeerID},
	} {
		if id, err := NodeIDFromPeerID(c.id); !errors.Is(err, c.want) || id != "" {
			t.Errorf("%s: %q, %v, want %v", name, id, err, c.want)
		}
	}
}

func FuzzNodeIDFromPeerID(f *testing.F) {
	f.Add([]byte(seededKey(f, 1).Public().PeerID()))
	f.Add([]byte("\x00\x02ab"))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := NodeIDFromPeerID(peer.ID(b))
		if err != nil {
			return
		}
		if verr := id.Validate(); verr != nil {
			t.Fatalf("invalid %q: %v", id, verr)
		}
		key, err := PubKeyFromPeerID(peer.ID(b))
		if err != nil || key.PeerID() != peer.ID(b) {
			t.Fatalf("%x does not come back: %v", b, err)
		}
	})
}
