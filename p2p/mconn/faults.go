package mconn

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
)

// Faults counts connections that ended for what the peer did, by the error that
// they ended with. A connection counts once, for the first.
type Faults struct {
	// During the handshake.
	Cut          int64 // it closed the connection before the handshake was done
	Late         int64 // the handshake took longer than it may
	EphemeralKey int64 // ErrEphemeralKey
	Auth         int64 // ErrAuth
	NodeInfo     int64 // ErrNodeInfo
	// At any time.
	Decrypt        int64 // ErrDecrypt
	Frame          int64 // ErrFrame
	Malformed      int64 // ErrMalformed
	PacketTooLarge int64 // ErrPacketTooLarge
	Flood          int64 // ErrFlood
	// After the handshake.
	UnknownPacket   int64 // ErrUnknownPacket
	UnknownChannel  int64 // ErrUnknownChannel
	MessageTooLarge int64 // ErrMessageTooLarge
	PongTimeout     int64 // ErrPongTimeout
}

// Total is the sum of all.
func (f Faults) Total() int64 {
	return f.Cut + f.Late + f.EphemeralKey + f.Auth + f.NodeInfo + f.Decrypt + f.Frame + f.Malformed + f.PacketTooLarge +
		f.Flood + f.UnknownPacket + f.UnknownChannel + f.MessageTooLarge + f.PongTimeout
}

// faultErrors name the fault of an error, the first that matches: a node info that
// is too large is ErrPacketTooLarge, too.
var faultErrors = []error{
	ErrEphemeralKey, ErrAuth, ErrNodeInfo, ErrDecrypt, ErrFrame, ErrMalformed, ErrPacketTooLarge, ErrFlood,
	ErrUnknownPacket, ErrUnknownChannel, ErrMessageTooLarge, ErrPongTimeout,
}

// Places in faultCounts behind those of faultErrors.
var (
	faultCut   = len(faultErrors)
	faultLate  = len(faultErrors) + 1
	faultCount = len(faultErrors) + 2
)

// faultCounts are the counts behind Faults.
type faultCounts []atomic.Int64

func newFaultCounts() faultCounts { return make(faultCounts, faultCount) }

// faultOf is the place of a fault in the counts; -1: the end was none of the
// peer's. shaking says that the handshake was not done.
func faultOf(cause error, shaking bool) int {
	for i, known := range faultErrors {
		if errors.Is(cause, known) {
			return i
		}
	}
	switch {
	case shaking && errors.Is(cause, io.EOF):
		return faultCut
	case shaking && errors.Is(cause, context.DeadlineExceeded):
		return faultLate
	}
	return -1
}

func (c faultCounts) faults() Faults {
	at := func(i int) int64 { return c[i].Load() }
	return Faults{
		EphemeralKey: at(0), Auth: at(1), NodeInfo: at(2), Decrypt: at(3), Frame: at(4), Malformed: at(5), PacketTooLarge: at(6), Flood: at(7),
		UnknownPacket: at(8), UnknownChannel: at(9), MessageTooLarge: at(10), PongTimeout: at(11), Cut: at(faultCut), Late: at(faultLate),
	}
}

// tellable says whether a peer that did this, after the handshake, is told so
// before the connection ends: whatever opened came from the peer.
func tellable(cause error) bool {
	i := faultOf(cause, false)
	return i >= 0 && faultErrors[i] != ErrDecrypt && faultErrors[i] != ErrPongTimeout
}
