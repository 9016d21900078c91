package p2p

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
)

// nodeID is an ID of one repeated character, 0 to 9 or a to f. Ours is "0".
func nodeID(c string) NodeID { return NodeID(strings.Repeat(c, 40)) }

func memoryAddress(c string) NodeAddress { return NodeAddress{Protocol: "memory", NodeID: nodeID(c)} }

func newManager(t testing.TB, o PeerManagerOptions) *PeerManager {
	t.Helper()
	return openManager(t, addrbook.NewMemoryStore(), o)
}

func openManager(t testing.TB, store Store, o PeerManagerOptions) *PeerManager {
	t.Helper()
	m, err := NewPeerManager(nodeID("0"), store, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func mustAdd(t testing.TB, m *PeerManager, as ...NodeAddress) {
	t.Helper()
	for _, a := range as {
		if added, err := m.Add(a); err != nil || !added {
			t.Fatalf("Add(%v): %v, %v", a, added, err)
		}
	}
}

// leaves fails the test when more goroutines run at its end than now.
func leaves(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
			}
		}
	})
}

// A step is one call and what it has to say.
type step struct {
	what string
	do   func(m *PeerManager) error
	want error // matched by errors.Is; errAny: any
}

var errAny = errors.New("any error")

// The semantics of the exported methods, which are Tendermint v0.35's: what each
// call says after those before it.
func TestPeerManagerSemantics(t *testing.T) {
	a, b, c, d, e := memoryAddress("a"), memoryAddress("b"), memoryAddress("c"), memoryAddress("d"), memoryAddress("e")
	at := NodeAddress{Protocol: "mconn", NodeID: a.NodeID, Hostname: "localhost"}
	scores := func(of ...any) map[NodeID]PeerScore {
		m := map[NodeID]PeerScore{}
		for i := 0; i < len(of); i += 2 {
			m[of[i].(NodeAddress).NodeID] = PeerScore(of[i+1].(int))
		}
		return m
	}
	add := func(a NodeAddress, want bool) step {
		return step{"Add " + a.String()[:8], func(m *PeerManager) error {
			if added, err := m.Add(a); err != nil || added != want {
				return fmt.Errorf("%v, %v", added, err)
			}
			return nil
		}, nil}
	}
	next := func(want NodeAddress) step {
		return step{"TryDialNext", func(m *PeerManager) error {
			if got := m.TryDialNext(); got != want {
				return fmt.Errorf("%v, want %v", got, want)
			}
			return nil
		}, nil}
	}
	dialed := func(a NodeAddress, want error) step {
		return step{"Dialed", func(m *PeerManager) error { return m.Dialed(a) }, want}
	}
	failed := func(a NodeAddress) step {
		return step{"DialFailed", func(m *PeerManager) error { return m.DialFailed(a) }, nil}
	}
	accepted := func(a NodeAddress, want error) step {
		return step{"Accepted", func(m *PeerManager) error { return m.Accepted(a.NodeID) }, want}
	}
	ready := func(a NodeAddress) step {
		return step{"Ready", func(m *PeerManager) error { return m.Ready(a.NodeID) }, nil}
	}
	gone := func(a NodeAddress) step {
		return step{"Disconnected", func(m *PeerManager) error { return m.Disconnected(a.NodeID) }, nil}
	}
	errored := func(a NodeAddress) step {
		return step{"Errored", func(m *PeerManager) error { m.Errored(a.NodeID, io.EOF); return nil }, nil}
	}
	evict := func(want NodeID) step {
		return step{"TryEvictNext", func(m *PeerManager) error {
			if got, err := m.TryEvictNext(); err != nil || got != want {
				return fmt.Errorf("%v, %v, want %v", got, err, want)
			}
			return nil
		}, nil}
	}
	status := func(a NodeAddress, want PeerStatus) step {
		return step{"Status", func(m *PeerManager) error {
			if got := m.Status(a.NodeID); got != want {
				return errors.New(string(got))
			}
			return nil
		}, nil}
	}
	peers := func(want ...NodeAddress) step {
		return step{"Peers", func(m *PeerManager) error {
			got := m.Peers()
			slices.Sort(got)
			if len(got) != len(want) {
				return fmt.Errorf("%v", got)
			}
			for i := range want {
				if got[i] != want[i].NodeID {
					return fmt.Errorf("%v", got)
				}
			}
			return nil
		}, nil}
	}
	none := NodeAddress{}
	self := memoryAddress("0")
	for _, test := range []struct {
		name    string
		options PeerManagerOptions
		steps   []step
	}{
		{"add", PeerManagerOptions{}, []step{
			add(a, true), add(a, false), add(at, true), add(self, false), peers(a),
			{"Add of nonsense", func(m *PeerManager) error { _, err := m.Add(NodeAddress{Path: "/foo"}); return err }, errAny},
		}},
		{"unknown peers are no error, but cannot be dialled", PeerManagerOptions{}, []step{
			failed(a), gone(a), ready(a), errored(a), evict(""), peers(), dialed(a, ErrPeerUnknown), peers(), status(a, PeerStatusDown),
		}},
		{"what is no ID is an error", PeerManagerOptions{}, []step{
			{"Accepted", func(m *PeerManager) error { return m.Accepted("x") }, errAny},
			{"Ready", func(m *PeerManager) error { return m.Ready("x") }, errAny},
			{"Disconnected", func(m *PeerManager) error { return m.Disconnected("x") }, errAny},
			{"Inactivate", func(m *PeerManager) error { return m.Inactivate("x") }, errAny},
			{"Ban", func(m *PeerManager) error { return m.Ban("x", 0, "") }, errAny},
			{"Unban", func(m *PeerManager) error { return m.Unban("x") }, errAny},
			{"Dialed", func(m *PeerManager) error { return m.Dialed(none) }, errAny},
			{"DialFailed", func(m *PeerManager) error { return m.DialFailed(none) }, errAny},
			{"Report", func(m *PeerManager) error { m.Report("x", Behaviour{Status: PeerStatusGood}); return nil }, nil},
			peers(),
		}},
		{"dialled without being asked to", PeerManagerOptions{}, []step{add(a, true), dialed(a, nil), dialed(a, ErrAlreadyConnected), next(none)}},
		{"dialled at an address that is not known", PeerManagerOptions{}, []step{add(a, true), dialed(at, nil), {"Addresses", func(m *PeerManager) error {
			if as := m.Addresses(a.NodeID); len(as) != 1 || as[0] != a {
				return fmt.Errorf("%v", as)
			}
			return nil
		}, nil}}},
		{"removed while it was dialled", PeerManagerOptions{}, []step{add(a, true), next(a), {"Forget", func(m *PeerManager) error { m.Book().Forget(a.NodeID); return nil }, nil}, dialed(a, ErrPeerUnknown)}},
		{"ourselves", PeerManagerOptions{}, []step{dialed(self, ErrSelf), accepted(self, ErrSelf), {"Ban", func(m *PeerManager) error { return m.Ban(self.NodeID, 0, "") }, ErrSelf}}},
		{"another address of who is dialled", PeerManagerOptions{}, []step{add(a, true), next(a), add(at, true), next(none), dialed(a, nil), next(none)}},
		{"a failure of another address ends the dial", PeerManagerOptions{}, []step{
			add(a, true), next(a), failed(at), next(a), failed(a), failed(a), next(none), peers(a),
		}},
		{"addresses in turn", PeerManagerOptions{PersistentPeers: []NodeID{a.NodeID}}, []step{
			add(a, true), add(at, true), next(a), failed(a), next(at), failed(at), next(none),
		}},
		{"accept", PeerManagerOptions{}, []step{
			add(a, true), accepted(a, nil), accepted(a, ErrAlreadyConnected), accepted(b, nil), peers(a, b),
			add(c, true), next(c), accepted(c, nil), dialed(c, ErrAlreadyConnected), add(d, true), next(d), dialed(d, nil), accepted(d, ErrAlreadyConnected),
		}},
		{"ready", PeerManagerOptions{}, []step{
			add(a, true), accepted(a, nil), status(a, PeerStatusDown), ready(a), status(a, PeerStatusUp), gone(a), status(a, PeerStatusDown),
			add(b, true), ready(b), status(b, PeerStatusDown), accepted(b, nil), status(b, PeerStatusDown),
		}},
		{"a dial outlives the end of a connection", PeerManagerOptions{}, []step{add(a, true), next(a), gone(a), next(none), accepted(a, nil), gone(a), next(none), dialed(a, nil)}},
		{"MaxConnected", PeerManagerOptions{MaxConnected: 2}, []step{
			add(a, true), next(a), dialed(a, nil), add(b, true), next(b), add(c, true), next(none), accepted(d, nil), accepted(e, ErrTooManyPeers), dialed(b, ErrTooManyPeers), next(none), gone(a),
		}},
		{"MaxConnected, dialled beside", PeerManagerOptions{MaxConnected: 1}, []step{add(a, true), next(a), add(b, true), dialed(b, nil), dialed(a, ErrTooManyPeers)}},
		{"upgrade by dialling", PeerManagerOptions{MaxConnected: 2, MaxConnectedUpgrade: 1, PersistentPeers: []NodeID{c.NodeID, d.NodeID}, PeerScores: scores(b, 1)}, []step{
			add(a, true), next(a), dialed(a, nil), add(b, true), next(b), dialed(b, nil), add(c, true), next(c), add(d, true), next(none), dialed(c, nil), next(none), dialed(d, ErrTooManyPeers),
			evict(a.NodeID), gone(a), next(d), dialed(d, nil), evict(b.NodeID), gone(b), add(e, true), next(none), evict(""),
		}},
		{"upgrades reserve whom they replace", PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 2, PeerScores: scores(b, 1, c, 1)}, []step{
			add(a, true), next(a), dialed(a, nil), add(b, true), next(b), add(c, true), next(none), accepted(c, ErrTooManyPeers), failed(b), next(c),
		}},
		{"upgrades replace strictly worse ones", PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 2, PeerScores: scores(a, 1, b, 1)}, []step{
			accepted(a, nil), add(b, true), next(none), accepted(b, ErrTooManyPeers), accepted(c, ErrTooManyPeers),
		}},
		{"who is to be evicted cannot be replaced again", PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 2, PeerScores: scores(b, 1, c, 1)}, []step{
			add(a, true), dialed(a, nil), add(b, true), next(b), dialed(b, nil), add(c, true), next(none), evict(a.NodeID), next(none),
		}},
		{"a still worse one is evicted", PeerManagerOptions{MaxConnected: 2, MaxConnectedUpgrade: 1, PeerScores: scores(a, 3, b, 2, c, 10, d, 1)}, []step{
			add(a, true), dialed(a, nil), add(b, true), dialed(b, nil), add(c, true), next(c), gone(a), accepted(d, nil), dialed(c, nil), evict(d.NodeID), evict(""),
		}},
		{"nobody is evicted when there is room again", PeerManagerOptions{MaxConnected: 2, MaxConnectedUpgrade: 1, PeerScores: scores(a, 1, b, 2, c, 3)}, []step{
			add(a, true), dialed(a, nil), add(b, true), dialed(b, nil), add(c, true), next(c), gone(b), dialed(c, nil), evict(""),
		}},
		{"upgrade by accepting", PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 1, PeerScores: scores(c, 1, d, 2)}, []step{
			add(a, true), dialed(a, nil), accepted(b, ErrTooManyPeers), accepted(c, nil), accepted(b, ErrTooManyPeers), accepted(d, ErrTooManyPeers),
			evict(a.NodeID), gone(a), accepted(b, ErrTooManyPeers), accepted(d, nil), evict(c.NodeID),
		}},
		{"who is dialled as an upgrade comes by itself", PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 2, PeerScores: scores(b, 1, c, 1)}, []step{
			accepted(a, nil), add(b, true), next(b), accepted(c, ErrTooManyPeers), accepted(b, nil), evict(a.NodeID), dialed(b, ErrAlreadyConnected),
		}},
		{"evict", PeerManagerOptions{}, []step{
			evict(""), accepted(a, nil), ready(a), evict(""), errored(a), evict(a.NodeID), evict(""), errored(a), evict(""), gone(a), evict(""), accepted(a, nil), evict(""),
		}},
		{"errors before a connection do not count", PeerManagerOptions{}, []step{add(a, true), errored(a), accepted(a, nil), evict(""), errored(a), evict(a.NodeID)}},
		{"MaxOutgoingConnections", PeerManagerOptions{MaxConnected: 4, MaxOutgoingConnections: 1, PersistentPeers: []NodeID{c.NodeID}}, []step{
			add(a, true), next(a), add(b, true), next(none), add(c, true), next(c), dialed(a, nil), dialed(c, nil), gone(a), next(none), accepted(b, nil), gone(c), next(c), accepted(d, nil), accepted(e, nil),
		}},
		{"inactive", PeerManagerOptions{}, []step{
			{"Inactivate", func(m *PeerManager) error { return m.Inactivate(a.NodeID) }, nil}, peers(), add(a, true),
			{"Inactivate", func(m *PeerManager) error { return m.Inactivate(a.NodeID) }, nil}, next(none), accepted(a, nil), gone(a), next(a), failed(a),
			{"Inactivate", func(m *PeerManager) error { return m.Inactivate(a.NodeID) }, nil}, add(a, false), next(a),
		}},
		{"bans", PeerManagerOptions{}, []step{
			add(a, true), accepted(a, nil), {"Ban", func(m *PeerManager) error { return m.Ban(a.NodeID, 0, "") }, nil}, evict(a.NodeID), gone(a),
			accepted(a, ErrBanned), next(none), dialed(a, ErrBanned), {"Unban", func(m *PeerManager) error { return m.Unban(a.NodeID) }, nil}, next(a), dialed(a, nil),
		}},
		{"a banned peer cannot be learnt", PeerManagerOptions{}, []step{
			{"Ban", func(m *PeerManager) error { return m.Ban(a.NodeID, time.Hour, "") }, nil},
			{"AddFrom", func(m *PeerManager) error {
				_, err := m.AddFrom(a, Source{Kind: addrbook.PEX, Peer: b.NodeID, Protocol: "memory"})
				refused, ok := errors.AsType[*addrbook.RefusedError](err)
				if !ok || refused.Reason != addrbook.RefusedBanned {
					return fmt.Errorf("%v", err)
				}
				return nil
			}, nil}, peers(),
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newManager(t, test.options)
			for i, s := range test.steps {
				if err := s.do(m); !errors.Is(err, s.want) && (s.want != errAny || err == nil) {
					t.Fatalf("call %d, %s: %v, want %v", i+1, s.what, err, s.want)
				}
			}
		})
	}
}

func TestNewPeerManagerRefuses(t *testing.T) {
	store := addrbook.NewMemoryStore()
	for name, try := range map[string]func() (*PeerManager, error){
		"no ID":    func() (*PeerManager, error) { return NewPeerManager("", store, PeerManagerOptions{}) },
		"bad ID":   func() (*PeerManager, error) { return NewPeerManager("x", store, PeerManagerOptions{}) },
		"no store": func() (*PeerManager, error) { return NewPeerManager(nodeID("0"), nil, PeerManagerOptions{}) },
		"bad options": func() (*PeerManager, error) {
			return NewPeerManager(nodeID("0"), store, PeerManagerOptions{PersistentPeers: []NodeID{"x"}})
		},
		"dead store": func() (*PeerManager, error) { return NewPeerManager(nodeID("0"), deadStore{}, PeerManagerOptions{}) },
	} {
		if m, err := try(); err == nil || m != nil {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

// deadStore is a store that can be neither read nor written.
type deadStore struct{ load bool }

func (s deadStore) Load(func(string, []byte)) ([]string, error) {
	if s.load {
		return []string{"one row was damaged"}, nil
	}
	return nil, io.ErrUnexpectedEOF
}
func (deadStore) Save([]addrbook.Change) error { return io.ErrShortWrite }

// A ban that cannot be saved holds all the same, and says so.
func TestBanHoldsWithoutStore(t *testing.T) {
	m := openManager(t, deadStore{load: true}, PeerManagerOptions{})
	mustAdd(t, m, memoryAddress("a"))
	if err := m.Ban(nodeID("a"), time.Hour, "nonsense"); !errors.Is(err, io.ErrShortWrite) {
		t.Fatal(err)
	}
	if err := m.Accepted(nodeID("a")); !errors.Is(err, ErrBanned) {
		t.Fatal(err)
	}
	if err := m.Unban(nodeID("a")); !errors.Is(err, io.ErrShortWrite) {
		t.Fatal(err)
	}
	if err := m.Accepted(nodeID("a")); err != nil {
		t.Fatal(err)
	}
}

func TestPeerManagerRemembers(t *testing.T) {
	store := addrbook.NewMemoryStore()
	a, b, c := memoryAddress("a"), memoryAddress("b"), memoryAddress("c")
	at := NodeAddress{Protocol: "mconn", NodeID: a.NodeID, Hostname: "host.example", Port: 80}
	m := openManager(t, store, PeerManagerOptions{PersistentPeers: []NodeID{a.NodeID}, PeerScores: map[NodeID]PeerScore{b.NodeID: 1}})
	mustAdd(t, m, a, at, b, c)
	m.Report(c.NodeID, Behaviour{Status: PeerStatusGood, Weight: 1000})
	m.Report(c.NodeID, Behaviour{Status: PeerStatusBad})
	m.Report(c.NodeID, Behaviour{Status: PeerStatusUp, Weight: 100}) // says nothing of what it did
	m.Report(nodeID("0"), Behaviour{Status: PeerStatusGood})
	if err := m.Ban(b.NodeID, time.Hour, "nonsense"); err != nil {
		t.Fatal(err)
	}
	check := func(m *PeerManager, a, b, c PeerScore) {
		t.Helper()
		want := map[NodeID]PeerScore{nodeID("a"): a, nodeID("b"): b, nodeID("c"): c}
		if got := m.Scores(); len(got) != 3 || got[nodeID("a")] != want[nodeID("a")] || got[nodeID("b")] != want[nodeID("b")] || got[nodeID("c")] != want[nodeID("c")] {
			t.Fatalf("scores %v, want %v", got, want)
		}
	}
	check(m, PeerScorePersistent, 1, 999)
	m.Close()

	m = openManager(t, store, PeerManagerOptions{PersistentPeers: []NodeID{b.NodeID}, PeerScores: map[NodeID]PeerScore{b.NodeID: 1, c.NodeID: 0}})
	check(m, 0, PeerScorePersistent, 999)
	if as := m.Addresses(a.NodeID); len(as) != 2 || !slices.Contains(as, a) || !slices.Contains(as, at) {
		t.Fatal(as)
	}
	if err := m.Accepted(b.NodeID); !errors.Is(err, ErrBanned) || !strings.Contains(err.Error(), "nonsense") {
		t.Fatal(err)
	}
	m.Close()

	// A node whose key changed was in the book: that is itself now.
	m, err := NewPeerManager(a.NodeID, store, PeerManagerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if ids := m.Peers(); len(ids) != 2 || slices.Contains(ids, a.NodeID) {
		t.Fatal(ids)
	}
}

func TestMaxPeers(t *testing.T) {
	store := addrbook.NewMemoryStore()
	addr := func(c string) NodeAddress {
		return NodeAddress{Protocol: "mconn", NodeID: nodeID(c), Hostname: "localhost", Port: 1000 + uint16(c[0])}
	}
	o := PeerManagerOptions{MaxPeers: 2, MaxConnected: 2, PersistentPeers: []NodeID{nodeID("a"), nodeID("c")}}
	m := openManager(t, store, o)
	mustAdd(t, m, addr("a"), memoryAddress("a"), addr("b"))
	if r := m.PeerRatio(); r != 1 {
		t.Fatal(r)
	}
	// A third peer is worth more than b.
	mustAdd(t, m, addr("c"))
	if ids := m.Peers(); len(ids) != 2 || slices.Contains(ids, nodeID("b")) {
		t.Fatal(ids)
	}
	// A fourth is not, and a full book is no error; nor does it cost anybody a place.
	if added, err := m.Add(addr("d")); added || err != nil {
		t.Fatal(added, err)
	}
	if ids := m.Peers(); len(ids) != 2 {
		t.Fatal(ids)
	}
	// Another address of a known peer is no question of places.
	mustAdd(t, m, NodeAddress{Protocol: "mconn", NodeID: nodeID("a"), Hostname: "localhost", Port: 7})
	m.Close()

	// Opened with less room, the worst are forgotten.
	m = openManager(t, store, PeerManagerOptions{MaxPeers: 1, MaxConnected: 1})
	if ids := m.Peers(); len(ids) != 1 {
		t.Fatal(ids)
	}
	m.Close()
	if r := openManager(t, store, PeerManagerOptions{}).PeerRatio(); r != 0 {
		t.Fatal(r)
	}
}

// A peer that has all the addresses it may have keeps out one more of its own,
// and nobody else loses a place for that.
func TestRegressionPeerFullForgetsNobodyElse(t *testing.T) {
	m := newManager(t, PeerManagerOptions{MaxPeers: 2, MaxConnected: 2, PersistentPeers: []NodeID{nodeID("a")}})
	for port := range uint16(8) {
		mustAdd(t, m, NodeAddress{Protocol: "mconn", NodeID: nodeID("a"), Hostname: "localhost", Port: 1 + port})
	}
	mustAdd(t, m, memoryAddress("b"))
	if added, err := m.Add(NodeAddress{Protocol: "mconn", NodeID: nodeID("a"), Hostname: "localhost", Port: 99}); added || err != nil {
		t.Fatal(added, err)
	}
	if ids := m.Peers(); len(ids) != 2 {
		t.Fatal(ids)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	leaves(t)
	a := memoryAddress("a")
	m := newManager(t, PeerManagerOptions{MinRetryTime: time.Hour})
	mustAdd(t, m, a)
	sub := m.Subscribe()
	if m.TryDialNext() != a || m.DialFailed(a) != nil || m.Accepted(nodeID("b")) != nil || m.Ready(nodeID("b")) != nil {
		t.Fatal("cannot prepare")
	}
	errs := make(chan error, 2)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_, err := m.DialNext(t.Context())
		errs <- err
	})
	waiting.Go(func() {
		_, err := m.EvictNext(t.Context())
		errs <- err
	})
	var closing sync.WaitGroup
	for range 3 {
		closing.Go(m.Close)
	}
	closing.Wait()
	waiting.Wait()
	for range 2 {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
	}
	if up, ok := <-sub.Updates(); !ok || up.Status != PeerStatusUp {
		t.Fatal("the update from before is lost")
	}
	if _, ok := <-sub.Updates(); ok {
		t.Fatal("the subscription is open")
	}
	if _, ok := <-m.Subscribe().Updates(); ok {
		t.Fatal("a subscription after Close is open")
	}
	sub.Close()

	// What would begin something says that it is too late.
	_, addErr := m.Add(memoryAddress("c"))
	_, learnErr := m.AddFrom(memoryAddress("c"), Source{Kind: addrbook.PEX})
	_, dialErr := m.DialNext(t.Context())
	_, evictErr := m.EvictNext(t.Context())
	_, tryErr := m.TryEvictNext()
	_, admitErr := m.admit(arrival{id: a.NodeID})
	for name, err := range map[string]error{
		"Add": addErr, "AddFrom": learnErr, "DialNext": dialErr, "EvictNext": evictErr, "TryEvictNext": tryErr, "admit": admitErr,
		"Dialed": m.Dialed(a), "Accepted": m.Accepted(a.NodeID), "Inactivate": m.Inactivate(a.NodeID),
		"Ban": m.Ban(a.NodeID, 0, ""), "Unban": m.Unban(a.NodeID), "screen": m.screen(arrival{id: a.NodeID}),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What ends something, and what reads, goes on.
	if m.DialFailed(a) != nil || m.Ready(nodeID("b")) != nil || m.Status(nodeID("b")) != PeerStatusUp || m.Disconnected(nodeID("b")) != nil || m.Status(nodeID("b")) != PeerStatusDown {
		t.Error("connections cannot end")
	}
	m.Errored(a.NodeID, nil)
	m.Report(a.NodeID, Behaviour{Status: PeerStatusBad})
	if !m.TryDialNext().IsZero() || len(m.Peers()) != 1 || len(m.Scores()) != 1 || len(m.Addresses(a.NodeID)) != 1 || m.PeerRatio() != 0 || len(m.Advertise(a.NodeID, 9)) != 0 {
		t.Error("cannot be read")
	}
}

// Many goroutines do everything at once: for the race detector, and so that
// nothing deadlocks.
func TestPeerManagerConcurrently(t *testing.T) {
	leaves(t)
	m := newManager(t, PeerManagerOptions{
		MaxConnected: 4, MaxConnectedUpgrade: 2, MinRetryTime: time.Microsecond, MaxPeers: 10, PersistentPeers: []NodeID{nodeID("a")},
		PeerScores: map[NodeID]PeerScore{nodeID("b"): 2, nodeID("c"): -2}, ScopeAddresses: true,
	})
	m.attach(memoryAddress("0"), func() {})
	const rounds = 400
	var all, readers sync.WaitGroup
	var ups, downs atomic.Int64
	for range 2 {
		sub := m.Subscribe()
		readers.Go(func() {
			last := map[NodeID]PeerStatus{}
			for up := range sub.Updates() {
				if last[up.NodeID] == up.Status || last[up.NodeID] == "" && up.Status == PeerStatusDown {
					t.Errorf("%v is %s after %q", up.NodeID, up.Status, last[up.NodeID])
				}
				if last[up.NodeID] = up.Status; up.Status == PeerStatusUp {
					ups.Add(1)
				} else {
					downs.Add(1)
				}
			}
		})
	}
	all.Go(func() { // a dialler
		for range rounds {
			if a := m.TryDialNext(); a.IsZero() {
				runtime.Gosched()
			} else if a.NodeID[0]%2 == 0 || m.Dialed(a) != nil {
				_ = m.DialFailed(a)
			} else {
				_ = m.Ready(a.NodeID)
			}
		}
	})
	readers.Go(func() { // an evictor
		for {
			id, err := m.EvictNext(t.Context())
			if err != nil {
				return
			}
			_ = m.Disconnected(id)
		}
	})
	for i, c := range []string{"a", "b", "c", "d", "e", "f"} {
		all.Go(func() {
			for n := range rounds {
				_, _ = m.AddFrom(memoryAddress(c), Source{Kind: addrbook.PEX, Peer: nodeID("9"), Protocol: "memory"})
				_, _ = m.Add(memoryAddress(c))
				if m.AcceptedFrom(nodeID(c), Endpoint{Protocol: "memory"}) == nil {
					_ = m.Ready(nodeID(c))
				}
				m.Report(nodeID(c), Behaviour{Status: PeerStatusGood, Weight: uint16(n)})
				_ = m.Advertise(nodeID(c), 10)
				_, _, _, _ = m.Peers(), m.Scores(), m.Status(nodeID(c)), m.PeerRatio()
				switch (n + i) % 16 {
				case 0:
					_ = m.Ban(nodeID(c), time.Hour, "")
					_ = m.Unban(nodeID(c))
				case 1:
					_ = m.Inactivate(nodeID(c))
				case 2:
					m.otherNetwork(nodeID(c), io.EOF)
				case 3:
					sub := m.Subscribe()
					sub.Close()
				case 4, 5:
					m.Errored(nodeID(c), io.EOF)
				default:
					_ = m.Disconnected(nodeID(c))
				}
			}
		})
	}
	all.Wait()
	m.detach()
	m.Close()
	readers.Wait()
	if ups.Load() == 0 || downs.Load() == 0 {
		t.Error("nobody came, or nobody went")
	}
}
