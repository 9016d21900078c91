package mconn

import (
	"encoding/binary"
	"math/bits"
)

// keccakRounds are the 24 constants of step iota (FIPS 202, 3.2.5).
var keccakRounds = [24]uint64{
	0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000,
	0x000000000000808b, 0x0000000080000001, 0x8000000080008081, 0x8000000000008009,
	0x000000000000008a, 0x0000000000000088, 0x0000000080008009, 0x000000008000000a,
	0x000000008000808b, 0x800000000000008b, 0x8000000000008089, 0x8000000000008003,
	0x8000000000008002, 0x8000000000000080, 0x000000000000800a, 0x800000008000000a,
	0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008,
}

// keccakWalk is the order in which pi visits the lanes, starting from lane 1,
// and keccakTurn how far rho rotates what arrives there.
var (
	keccakWalk = [24]int{10, 7, 11, 17, 18, 3, 5, 16, 8, 21, 24, 4, 15, 23, 19, 13, 12, 2, 20, 14, 22, 9, 6, 1}
	keccakTurn = [24]int{1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 2, 14, 27, 41, 56, 8, 25, 43, 62, 18, 39, 61, 20, 44}
)

// keccakF is the permutation Keccak-f[1600] (FIPS 202, 3.3) on a state of 25
// little-endian lanes. It is written for reading: one handshake runs it a
// dozen times.
func keccakF(state *[200]byte) {
	var a [25]uint64
	for i := range a {
		a[i] = binary.LittleEndian.Uint64(state[8*i:])
	}
	for _, round := range keccakRounds {
		var c [5]uint64 // theta
		for x := range c {
			c[x] = a[x] ^ a[x+5] ^ a[x+10] ^ a[x+15] ^ a[x+20]
		}
		for x := range c {
			d := c[(x+4)%5] ^ bits.RotateLeft64(c[(x+1)%5], 1)
			for y := 0; y < 25; y += 5 {
				a[y+x] ^= d
			}
		}
		lane := a[1] // rho and pi
		for i, to := range keccakWalk {
			lane, a[to] = a[to], bits.RotateLeft64(lane, keccakTurn[i])
		}
		for y := 0; y < 25; y += 5 { // chi
			row := [5]uint64(a[y : y+5])
			for x := range row {
				a[y+x] = row[x] ^ (^row[(x+1)%5] & row[(x+2)%5])
			}
		}
		a[0] ^= round // iota
	}
	for i := range a {
		binary.LittleEndian.PutUint64(state[8*i:], a[i])
	}
}
