package rpc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// Faults counts what peers did wrong. Each is an error of its own at the one
// who sees it, and ends at most the stream it came on.
type Faults struct {
	Malformed    uint64 // ErrMalformed
	OutOfOrder   uint64 // ErrOutOfOrder
	TooLarge     uint64 // ErrTooLarge: announced, not read
	Unfinished   uint64 // frames whose end did not come, or not in time
	Stalled      uint64 // peers that stopped reading
	Bombs        uint64 // ErrBomb
	UnknownCodec uint64 // ErrUnknownCodec
	UnknownCall  uint64 // ErrUnknownCall
	Lost         uint64 // streams that were reset or lost in the middle of a call
}

// faultCounters is Faults while they grow.
type faultCounters struct {
	malformed, outOfOrder, tooLarge, unfinished, stalled, bombs, unknownCodec, unknownCall, lost atomic.Uint64
}

// count counts err under its name, and returns it.
func (f *faultCounters) count(err error) error {
	switch {
	case err == nil:
	case errors.Is(err, ErrBomb):
		f.bombs.Add(1)
	case errors.Is(err, ErrTooLarge):
		f.tooLarge.Add(1)
	case errors.Is(err, ErrMalformed):
		f.malformed.Add(1)
	case errors.Is(err, ErrOutOfOrder):
		f.outOfOrder.Add(1)
	case errors.Is(err, ErrUnknownCall):
		f.unknownCall.Add(1)
	case errors.Is(err, ErrUnknownCodec):
		f.unknownCodec.Add(1)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, errUnfinished):
		f.unfinished.Add(1)
	case errors.Is(err, errStalled):
		f.stalled.Add(1)
	default:
		f.lost.Add(1)
	}
	return err
}

// isLoss says whether the stream was reset or lost.
func isLoss(err error) bool { return errors.Is(err, network.ErrReset) || errors.Is(err, net.ErrClosed) }

func (f *faultCounters) snapshot() Faults {
	return Faults{
		Malformed: f.malformed.Load(), OutOfOrder: f.outOfOrder.Load(), TooLarge: f.tooLarge.Load(),
		Unfinished: f.unfinished.Load(), Stalled: f.stalled.Load(), Bombs: f.bombs.Load(),
		UnknownCodec: f.unknownCodec.Load(), UnknownCall: f.unknownCall.Load(), Lost: f.lost.Load(),
	}
}

// What a janitor finds; it resets the stream for it.
var (
	errUnfinished = fmt.Errorf("%w: the rest of a frame did not come in time", io.ErrUnexpectedEOF)
	errStalled    = errors.New("rpc: the peer does not read what it is sent")
	errForgotten  = errors.New("rpc: nothing was sent in either direction for MaxIdleTime")
)

// ServerStats counts what a Server has done since it was made.
type ServerStats struct {
	Conns   int // streams being served
	Running int // calls in handlers
	Queued  int // calls that wait for their turn

	Calls     uint64 // calls that came, plain ones too
	Failed    uint64 // of these, handlers returned an error for
	Refused   uint64 // of these, no handler has seen: overload, not allowed, unknown method
	Panics    uint64 // of these, panicked
	Cancelled uint64 // cancels that callers sent
	Pings     uint64

	ConnsOpened  uint64
	ConnsRefused uint64 // above MaxConcurrentConns
	Memory       uint64 // bytes of requests held now

	Faults Faults
	// Methods are those that were started, by protocol ID.
	Methods map[string]MethodStats
}

// MethodStats counts the calls of one method.
type MethodStats struct {
	Calls, Failed, Refused, Panics uint64
	// Time is the sum of the handler's running times, Slowest the longest.
	Time, Slowest time.Duration
	// LastError is the code of the last failure, and LastErrorAt when it was.
	LastError   Code
	LastErrorAt time.Time
}

// ClientStats counts what a Client has done since it was made.
type ClientStats struct {
	Conns, Idle int // streams open, and of these not in a call

	Calls       uint64
	Failed      uint64
	Retries     uint64
	Dials       uint64 // streams opened
	Reused      uint64 // calls on a stream that was open already
	Fallbacks   uint64 // peers found to speak the plain wire only
	BudgetSpent uint64 // retries not made because the budget was spent

	Faults Faults
}

// methodCounters is MethodStats while it grows.
type methodCounters struct {
	calls, failed, refused, panics atomic.Uint64
	nanos, slowest                 atomic.Int64
	lastError                      atomic.Uint32
	lastErrorAt                    atomic.Int64
}

func (m *methodCounters) ran(d time.Duration, err error) {
	m.nanos.Add(int64(d))
	for old := m.slowest.Load(); int64(d) > old && !m.slowest.CompareAndSwap(old, int64(d)); old = m.slowest.Load() {
	}
	if err != nil {
		m.failed.Add(1)
		m.lastError.Store(uint32(CodeOf(err)))
		m.lastErrorAt.Store(time.Now().UnixNano())
	}
}

func (m *methodCounters) snapshot() MethodStats {
	s := MethodStats{
		Calls: m.calls.Load(), Failed: m.failed.Load(), Refused: m.refused.Load(), Panics: m.panics.Load(),
		Time: time.Duration(m.nanos.Load()), Slowest: time.Duration(m.slowest.Load()), LastError: Code(m.lastError.Load()),
	}
	if at := m.lastErrorAt.Load(); at != 0 {
		s.LastErrorAt = time.Unix(0, at)
	}
	return s
}
