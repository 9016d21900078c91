package connmgr

import (
	"fmt"
	"net/netip"
	"time"
)

// Kind says what a connection is for. Slots are counted and refilled by kind.
type Kind uint8

// The kinds. The numbers are stable.
const (
	// KindInbound is a connection somebody else opened.
	KindInbound Kind = iota
	// KindAutomatic fills the wanted number of outbound connections.
	KindAutomatic
	// KindPermanent is kept up for as long as it is listed.
	KindPermanent
	// KindManual was asked for by a person or a program, once.
	KindManual
	// KindFeeler only tests that an address answers, then closes.
	KindFeeler
	// KindAnchor is a peer of the last run, dialled first after a restart.
	KindAnchor
)

var kindNames = []string{"inbound", "automatic", "permanent", "manual", "feeler", "anchor"}

// String is the kind in one lower-case word.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// MarshalText is String, for JSON and logs.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Direction says who opened a connection.
type Direction uint8

// The directions.
const (
	Inbound  Direction = iota // by the other side
	Outbound                  // by us
)

// String is "inbound" or "outbound".
func (d Direction) String() string {
	if d == Outbound {
		return "outbound"
	}
	return "inbound"
}

// MarshalText is String, for JSON and logs.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// A Policy decides: whom to dial next and when to be asked again, what an
// outcome means, and who has to go when the house is full. The engine holds no
// target and no retry state of its own.
//
// The engine calls a policy from several goroutines (Next from one at a time)
// and never while it holds a lock of its own. The policy must not block and may
// call the engine's methods. Every Dial that Next returned is ended by exactly
// one Ended, before Run returns.
//
// The engine adds no pauses: a policy that returns the target that just failed,
// or was refused, at once makes a busy loop. Growth of delays is its part.
type Policy[A any] interface {
	// Next returns the next target to dial now (ok), or, without one, the time
	// at which to ask again; a zero wake waits for Wake. The engine asks while
	// it has room for another dial (EngineConfig.MaxDials, Limits.Outbound.Total,
	// Limits.Total), after every Ended and after Wake.
	Next(now time.Time) (d Dial[A], wake time.Time, ok bool)
	// Ended says that d is over: it was refused by the gate, could not be
	// dialled or established (Outcome.Established is false), or it was up and
	// went down. It is called before the disconnection is announced to anyone
	// else, and after the engine has given the place back.
	Ended(d Dial[A], o Outcome)
	// Victim names the inbound connection that should make room for a new one,
	// or says that none should (ok false: the new one is refused). The
	// candidates are in no particular order; LeastUseful is the default choice.
	Victim(candidates []Candidate) (id uint64, ok bool)
}

// A Dial is one decision of a policy: a target, what for (any kind but
// KindInbound), and a tag of the policy's own with which it recognises the dial
// in Admit and Ended.
type Dial[A any] struct {
	Target A
	Kind   Kind
	Tag    uint64
}

// Outcome says how a dial ended.
type Outcome struct {
	Established bool          // it was up; false: dialling, establishing or admission failed
	Lived       time.Duration // from established to ended; 0 if it never was
	Cause       error         // why; never nil
	At          time.Time
}

// A Candidate is an inbound connection that may be evicted.
type Candidate struct {
	ID         uint64
	IP         netip.Addr    // the zero Addr if unknown
	Group      string        // its address group
	Identity   string        // what Identify said, "" if nothing
	Since      time.Time     // established
	RTT        time.Duration // last measured round trip, 0 if never
	LastUseful time.Time     // last useful work, zero if none
	Useful     uint64        // useful work in all, in the caller's unit
	Protected  bool          // never evict
}
