package mconn

import "encoding/binary"

// A transcript is what both sides of a handshake have seen, in order, each part
// under a label; challenges drawn from it depend on all of it. This is Merlin
// v1.0 (merlin.cool), which stands on STROBE-128 (strobe.sourceforge.io, v1.0.2),
// cut down to the operations that Merlin needs. It is for one goroutine.
type transcript struct {
	state [200]byte // Keccak-f[1600]
	at    int       // the next byte of the rate
	begin int       // where the current operation began, plus one
	flags byte      // the current operation, for those spread over several calls
}

const (
	strobeRate = 166 // 200 - 2*128/8 - 2: what is left for data at 128 bits

	// STROBE's flags: inbound, by the application, to the cipher, transport, meta.
	flagI, flagA, flagC, flagM = 1, 2, 4, 16
)

// newTranscript starts a transcript for one protocol.
func newTranscript(label string) *transcript {
	t := &transcript{}
	copy(t.state[:], []byte{1, strobeRate + 2, 1, 0, 1, 12 * 8})
	copy(t.state[6:], "STROBEv1.0.2")
	keccakF(&t.state)
	t.meta([]byte("Merlin v1.0"), false)
	t.add("dom-sep", []byte(label))
	return t
}

// add appends a message under a label.
func (t *transcript) add(label string, message []byte) {
	t.meta([]byte(label), false)
	t.meta(binary.LittleEndian.AppendUint32(nil, uint32(len(message))), true)
	t.operate(flagA, false)
	t.absorb(message)
}

// challenge draws n bytes under a label. What follows depends on it too.
func (t *transcript) challenge(label string, n int) []byte {
	t.meta([]byte(label), false)
	t.meta(binary.LittleEndian.AppendUint32(nil, uint32(n)), true)
	t.operate(flagI|flagA|flagC, false)
	out := make([]byte, n)
	for i := range out {
		out[i], t.state[t.at] = t.state[t.at], 0
		t.step()
	}
	return out
}

// meta absorbs what frames the data: labels and lengths.
func (t *transcript) meta(b []byte, more bool) {
	t.operate(flagM|flagA, more)
	t.absorb(b)
}

// operate begins an operation, or goes on with the same one.
func (t *transcript) operate(flags byte, more bool) {
	if more && t.flags == flags {
		return
	}
	old := t.begin
	t.begin, t.flags = t.at+1, flags
	t.absorb([]byte{byte(old), flags})
	if flags&flagC != 0 && t.at != 0 {
		t.permute()
	}
}

func (t *transcript) absorb(b []byte) {
	for _, c := range b {
		t.state[t.at] ^= c
		t.step()
	}
}

func (t *transcript) step() {
	if t.at++; t.at == strobeRate {
		t.permute()
	}
}

func (t *transcript) permute() {
	t.state[t.at] ^= byte(t.begin)
	t.state[t.at+1] ^= 0x04
	t.state[strobeRate+1] ^= 0x80
	keccakF(&t.state)
	t.at, t.begin = 0, 0
}
