package mconn

import (
	"bytes"
	"crypto/sha3"
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

// sha3Of is SHA3-256 over our own permutation (FIPS 202, 4 and 6.1).
func sha3Of(message []byte) [32]byte {
	const rate = 136
	var state [200]byte
	padded := append(bytes.Clone(message), 0x06)
	for len(padded)%rate != 0 {
		padded = append(padded, 0)
	}
	padded[len(padded)-1] |= 0x80
	for ; len(padded) > 0; padded = padded[rate:] {
		for i := range rate {
			state[i] ^= padded[i]
		}
		keccakF(&state)
	}
	return [32]byte(state[:32])
}

func TestKeccakAgreesWithTheLibrary(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	for n := range 600 {
		message := make([]byte, n)
		random.Read(message)
		if got, want := sha3Of(message), sha3.Sum256(message); got != want {
			t.Fatalf("%d bytes: %x, want %x", n, got, want)
		}
	}
}

// The vectors published with Merlin: its crate's tests (transcript.rs,
// strobe.rs) and the Go port's.
func TestMerlinVectors(t *testing.T) {
	simple := newTranscript("test protocol")
	simple.add("some label", []byte("some data"))
	want(t, simple.challenge("challenge", 32), "d5a21972d0d5fe320c0d263fac7fffb8145aa640af6e9bca177c03c7efcf0615")

	// 32 rounds of messages larger than the rate, each with what the one before gave.
	long := newTranscript("test protocol")
	long.add("step1", []byte("some data"))
	data := bytes.Repeat([]byte{99}, 1024)
	var drawn []byte
	for range 32 {
		drawn = long.challenge("challenge", 32)
		long.add("bigdata", data)
		long.add("challengedata", drawn)
	}
	want(t, drawn, "a8c933f54fae76e3f9bea93648c1308e7dfa2152dd51674ff3ca438351cf003c")
}

// want compares bytes with their hex.
func want(t *testing.T, got []byte, hexed string) {
	t.Helper()
	if hex.EncodeToString(got) != hexed {
		t.Errorf("got  %x\nwant %s", got, hexed)
	}
}
