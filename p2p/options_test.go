package p2p

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestPeerManagerOptionsValidate(t *testing.T) {
	id := nodeID("a")
	for name, test := range map[string]struct {
		o    PeerManagerOptions
		want string // part of the error; "": none
	}{
		"zero":                          {PeerManagerOptions{}, ""},
		"persistent":                    {PeerManagerOptions{PersistentPeers: []NodeID{id}}, ""},
		"persistent, no ID":             {PeerManagerOptions{PersistentPeers: []NodeID{"foo"}}, `persistent peer "foo"`},
		"persistent, upper case":        {PeerManagerOptions{PersistentPeers: []NodeID{NodeID(strings.ToUpper(string(id)))}}, "persistent peer"},
		"private, no ID":                {PeerManagerOptions{PrivatePeers: map[NodeID]struct{}{"foo": {}}}, `private peer "foo"`},
		"scored, no ID":                 {PeerManagerOptions{PeerScores: map[NodeID]PeerScore{"foo": 1}}, `scored peer "foo"`},
		"persistent at MaxConnected":    {PeerManagerOptions{PersistentPeers: []NodeID{id, id}, MaxConnected: 2}, ""},
		"persistent above MaxConnected": {PeerManagerOptions{PersistentPeers: []NodeID{id, id}, MaxConnected: 1, MaxConnectedUpgrade: 1}, "2 persistent peers"},
		"MaxPeers alone":                {PeerManagerOptions{MaxPeers: 3}, "MaxPeers 3"},
		"MaxPeers too small":            {PeerManagerOptions{MaxPeers: 2, MaxConnected: 2, MaxConnectedUpgrade: 1}, "MaxPeers 2"},
		"MaxPeers enough":               {PeerManagerOptions{MaxPeers: 3, MaxConnected: 2, MaxConnectedUpgrade: 1}, ""},
		"sum above uint16":              {PeerManagerOptions{MaxPeers: 3, MaxConnected: math.MaxUint16, MaxConnectedUpgrade: 2}, "MaxPeers 3"},
		"outgoing at MaxConnected":      {PeerManagerOptions{MaxConnected: 2, MaxOutgoingConnections: 2}, ""},
		"outgoing above MaxConnected":   {PeerManagerOptions{MaxConnected: 2, MaxOutgoingConnections: 3}, "MaxOutgoingConnections 3"},
		"MaxRetryTime below Min":        {PeerManagerOptions{MinRetryTime: 7, MaxRetryTime: 5}, "above MaxRetryTime"},
		"MaxRetryTime at Min":           {PeerManagerOptions{MinRetryTime: 5, MaxRetryTime: 5}, ""},
		"MaxRetryTime alone":            {PeerManagerOptions{MaxRetryTime: 5}, "MaxRetryTime is set without"},
		"persistent retry below Min":    {PeerManagerOptions{MinRetryTime: 7, MaxRetryTimePersistent: 5}, "above MaxRetryTimePersistent"},
		"persistent retry alone":        {PeerManagerOptions{MaxRetryTimePersistent: 5}, "MaxRetryTimePersistent is set without"},
		"negative":                      {PeerManagerOptions{RetryTimeJitter: -1}, "RetryTimeJitter is negative"},
		"self":                          {PeerManagerOptions{SelfAddress: memoryAddress("0")}, ""},
		"self, wrong":                   {PeerManagerOptions{SelfAddress: NodeAddress{Protocol: "mconn"}}, "SelfAddress"},
		"protocol":                      {PeerManagerOptions{Protocols: []Protocol{"mconn"}}, ""},
		"no protocol":                   {PeerManagerOptions{Protocols: []Protocol{"tcp"}}, "Protocols"},
	} {
		err := test.o.Validate()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	// All faults are reported, not the first.
	err := PeerManagerOptions{MaxPeers: 1, RetryTimeJitter: -1, PersistentPeers: []NodeID{"x"}}.Validate()
	for _, want := range []string{"MaxPeers", "Jitter", "persistent"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v says nothing of %s", err, want)
		}
	}
}

// Tendermint documented an exponential retry and did a linear one.
func TestRegressionRetryIsExponential(t *testing.T) {
	o := PeerManagerOptions{MinRetryTime: time.Second}
	for n := range uint32(30) {
		if d := o.retryDelay(n+1, false, 0); d != time.Second<<n {
			t.Fatalf("after %d failures %v, want %v", n+1, d, time.Second<<n)
		}
	}
}

func TestRetryDelay(t *testing.T) {
	never := retryNever
	for _, test := range []struct {
		o          PeerManagerOptions
		failures   uint32
		persistent bool
		random     float64
		want       time.Duration
	}{
		{PeerManagerOptions{}, 0, false, 0, 0},
		{PeerManagerOptions{}, 1, false, 0, never},
		{PeerManagerOptions{}, 1, true, 0, never},
		{PeerManagerOptions{MinRetryTime: 1}, 0, false, 0, 0},
		{PeerManagerOptions{MinRetryTime: 2, MaxRetryTime: 9}, 3, false, 0, 8},
		{PeerManagerOptions{MinRetryTime: 2, MaxRetryTime: 9}, 4, false, 0, 9},
		{PeerManagerOptions{MinRetryTime: 2, MaxRetryTime: 9}, math.MaxUint32, true, 0, 9},
		{PeerManagerOptions{MinRetryTime: 2, MaxRetryTime: 9, MaxRetryTimePersistent: 3}, 4, true, 0, 3},
		{PeerManagerOptions{MinRetryTime: 2, MaxRetryTime: 9, MaxRetryTimePersistent: 3}, 4, false, 0, 9},
		{PeerManagerOptions{MinRetryTime: 10, RetryTimeJitter: 4}, 1, false, 0.5, 12},
		{PeerManagerOptions{MinRetryTime: 10, MaxRetryTime: 11, RetryTimeJitter: 4}, 1, false, 0.5, 11},
		{PeerManagerOptions{MinRetryTime: 1}, 200, false, 0, never / 4},
		{PeerManagerOptions{MinRetryTime: never, MaxRetryTime: never, RetryTimeJitter: never}, 5, false, 0.99, never / 4},
	} {
		if got := test.o.retryDelay(test.failures, test.persistent, test.random); got != test.want {
			t.Errorf("%+v, %d failures: %v, want %v", test.o, test.failures, got, test.want)
		}
	}
	// Whatever the options, a pause is neither negative nor above the cap, and more
	// failures make it no shorter.
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		o := PeerManagerOptions{MinRetryTime: time.Duration(1 + r.Int64()>>r.IntN(63)), RetryTimeJitter: time.Duration(r.Int64() >> r.IntN(63))}
		o.MaxRetryTime = max(o.MinRetryTime, time.Duration(r.Int64()>>r.IntN(63)))
		n, random := r.Uint32()>>r.IntN(32), r.Float64()
		d, more := o.retryDelay(n, false, random), o.retryDelay(n/2*2+2, false, random)
		if d < 0 || d > o.MaxRetryTime || more < d && n/2*2+2 > n {
			t.Fatalf("seed %d: %+v, %d failures: %v, then %v", seed, o, n, d, more)
		}
	}
}
