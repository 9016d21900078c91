package mconn

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"encoding/hex"
	"errors"
	"sync"
	"testing"
)

// ephemeral is the X25519 key of 32 times b.
func ephemeral(t testing.TB, b byte) *ecdh.PrivateKey {
	t.Helper()
	key, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors of the wire: what live CometBFT nodes agree with.
func TestSecretVectors(t *testing.T) {
	a, b := ephemeral(t, 1), ephemeral(t, 2)
	want(t, a.PublicKey().Bytes(), "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209")
	want(t, b.PublicKey().Bytes(), "ce8d3ad1ccb633ec7b70c17814a5c76ecd029685050d344745ba05870e587d59")
	dh, err := a.ECDH(b.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	want(t, dh, "2ed76ab549b1e73c031eb49c9448f0798aea81b698279a0c3dc3e49fbfc4b953")
	const (
		key1 = "e57986db437b44e0f07279abf95e2c818b2ad8ab9e36f079d54b6a29be14d097"
		key2 = "ce20ea7cf36f4d507a1cd6313cde6cf7a38c1148e49277aa79cf8390fc2a3ba9"
	)
	var sides [2]*agreement
	for i, pair := range [][2]*ecdh.PrivateKey{{a, b}, {b, a}} {
		side, err := agree(pair[0], pair[1].PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		want(t, side.challenge, "4206c8c11bdca5a661d2a4939fd3566e52fbf4ea7501df0d089bcd055291f25d")
		want(t, side.keys[:keySize], key1)
		want(t, side.keys[keySize:], key2)
		if side.lower != (i == 0) {
			t.Errorf("side %d: lower is %v", i, side.lower)
		}
		sides[i] = side
	}
	if id := seeded(t, 3).Public().NodeID(); id != "b62e867fa2f33afe62d5d6b1642e1621d5433078" {
		t.Error(id)
	}

	send, _, err := sides[0].ciphers()
	if err != nil {
		t.Fatal(err)
	}
	c := frameCipher{aead: send}
	plain := make([]byte, frameHead+frameData)
	copy(plain[frameHead:], "hi")
	sealed, err := c.seal(nil, plain, 2)
	if err != nil || len(sealed) != 1044 {
		t.Fatal(len(sealed), err)
	}
	want(t, sealed[:16], "8fbe91855928935b93dd53209f51db5a")
	want(t, sealed[len(sealed)-16:], "eeb6f8157c9e8a6b112133410d9b2fbc")
	_, receive, err := sides[1].ciphers()
	if err != nil {
		t.Fatal(err)
	}
	o := frameCipher{aead: receive}
	if end, err := o.open(plain, frameHead, sealed); err != nil || string(plain[frameHead:end]) != "hi" {
		t.Fatalf("%q, %v", plain[frameHead:end], err)
	}
	want(t, ephemeralMessage(a.PublicKey())[:3], "220a20")
}

// The keys of kith's frames depend on both offers and on the direction, and
// not on who is who.
func TestKithKeys(t *testing.T) {
	a, b := ephemeral(t, 1), ephemeral(t, 2)
	keys := func(own, remote *ecdh.PrivateKey, offered, got uint64) string {
		side, err := agree(own, remote.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		old := hex.EncodeToString(side.keys[:])
		side.kithKeys(offered, got)
		if now := hex.EncodeToString(side.keys[:]); now != old && now[:64] != now[64:] {
			return now
		}
		t.Fatal("the keys did not change, or are one")
		return ""
	}
	first := keys(a, b, 1, 3)
	if keys(b, a, 3, 1) != first {
		t.Error("the sides differ")
	}
	// The vector of spec.md.
	want(t, unhex(t, keys(a, b, 1, 1)), kithKeysVector)
	for _, c := range [][2]uint64{{1, 1}, {3, 1}, {3, 3}, {1, 2}} {
		if keys(a, b, c[0], c[1]) == first {
			t.Errorf("offers %v give the keys of others", c)
		}
	}
}

const kithKeysVector = "0cefa291f376dcfcd9866c3d49380dc2638f02cd069997cc9379af564f599a73" +
	"fe54e27ceef23727fd001e1edfbe6cab924c5f0d6e76209991d4b4746d3dce3c"

// Low-order points (cr.yp.to/ecdh.html, and those that differ only in the bit
// that X25519 ignores) give the all-zero secret.
var lowOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"0100000000000000000000000000000000000000000000000000000000000080",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

func TestBadEphemeralKeys(t *testing.T) {
	own := ephemeral(t, 1)
	for _, point := range lowOrder {
		public, err := parseEphemeral(append([]byte{0x22, 0x0a, 0x20}, unhex(t, point)...))
		if err == nil {
			_, err = agree(own, public)
		}
		if !errors.Is(err, ErrEphemeralKey) {
			t.Errorf("%s: %v", point, err)
		}
	}
	if _, err := agree(own, own.PublicKey()); !errors.Is(err, ErrEphemeralKey) {
		t.Error("our own key sent back:", err)
	}
	good := ephemeralMessage(own.PublicKey())
	for name, message := range map[string][]byte{
		"empty": nil, "short": good[:34], "long": append(bytes.Clone(good), 0),
		"another length": append([]byte{0x21, 0x0a, 0x20}, good[3:]...), "another field": append([]byte{0x22, 0x12, 0x20}, good[3:]...),
		"another key length": append([]byte{0x22, 0x0a, 0x1f}, good[3:]...), "HTTP": []byte("GET / HTTP/1.1\r\nHost: example.org\r\n"),
	} {
		if _, err := parseEphemeral(message); !errors.Is(err, ErrEphemeralKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// aeads are two ends of one direction.
func aeads(t testing.TB) (seal, open cipher.AEAD) {
	t.Helper()
	oneDirection.Do(func() {
		x, err := agree(ephemeral(t, 1), ephemeral(t, 2).PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		y, err := agree(ephemeral(t, 2), ephemeral(t, 1).PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		if oneDirection.seal, _, err = x.ciphers(); err != nil {
			t.Fatal(err)
		}
		if _, oneDirection.open, err = y.ciphers(); err != nil {
			t.Fatal(err)
		}
	})
	return oneDirection.seal, oneDirection.open
}

var oneDirection struct {
	sync.Once
	seal, open cipher.AEAD
}
