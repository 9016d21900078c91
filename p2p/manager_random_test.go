package p2p

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
)

// Random operations on a core, whose tables must never contradict each other or
// the options, whatever the order of events.

// walk is one run of random operations on one core.
type walk struct {
	*coreRig
	t      *testing.T
	r      *rand.Rand
	peers  []NodeID
	number uint64          // of the last session
	status map[NodeID]bool // who is up, by the updates
	log    interface{ Write([]byte) (int, error) }
	sum    func() uint64
	refuse map[string]int // how often what happened
}

func numberedID(n int) NodeID { return NodeID(fmt.Sprintf("%040x", 0x1000+n)) }

func numberedAddress(n, port int) NodeAddress {
	return NodeAddress{NodeID: numberedID(n), Protocol: "mconn", Hostname: fmt.Sprintf("%d.%d.7.%d", 20+n/250, n%250, 1+n%200), Port: uint16(26656 + port)}
}

func newWalk(t *testing.T, seed uint64) *walk {
	w := &walk{t: t, r: rand.New(rand.NewPCG(seed, 99)), status: map[NodeID]bool{}, refuse: map[string]int{}}
	h := fnv.New64a()
	w.log, w.sum = h, h.Sum64
	o := PeerManagerOptions{
		PeerScores: map[NodeID]PeerScore{}, DisconnectCooldownPeriod: time.Duration(w.r.IntN(3)) * time.Second,
		MinRetryTime: time.Duration(w.r.IntN(3)) * time.Second, RetryTimeJitter: time.Second,
	}
	if o.MinRetryTime > 0 {
		o.MaxRetryTime = time.Minute
	}
	if w.r.IntN(8) > 0 {
		o.MaxConnected = uint16(1 + w.r.IntN(8))
		o.MaxConnectedUpgrade = uint16(w.r.IntN(4))
		o.MaxOutgoingConnections = uint16(w.r.IntN(int(o.MaxConnected) + 1))
	}
	if o.MaxConnected > 0 && w.r.IntN(2) == 0 {
		o.MaxPeers = o.MaxConnected + o.MaxConnectedUpgrade + uint16(w.r.IntN(20))
	}
	const peers = 30
	self := peers / 2
	for n := range peers {
		w.peers = append(w.peers, numberedID(n)) // with ourselves in the middle
		switch w.r.IntN(12) {
		case 0:
			if o.MaxConnected == 0 || len(o.PersistentPeers) < int(o.MaxConnected) {
				o.PersistentPeers = append(o.PersistentPeers, numberedID(n))
			}
		case 1:
			o.PeerScores[numberedID(n)] = PeerScore(w.r.IntN(7) - 3)
		}
	}
	w.coreRig = newCoreRig(t, numberedID(self), nil, newTestClock(), seed, o)
	if w.r.IntN(2) == 0 {
		w.nextFeeler = w.clock.now().Add(feelerEvery)
	}
	return w
}

// any is a peer, ourselves at times; one of those that stand or are dialled
// more often than others.
func (w *walk) any() NodeID {
	switch w.r.IntN(4) {
	case 0:
		return w.peers[w.r.IntN(len(w.peers))]
	case 1:
		return w.oneOf(func(id NodeID) bool { _, ok := w.dialing[id]; return ok })
	default:
		return w.oneOf(func(id NodeID) bool { return w.connected[id] != nil })
	}
}

func (w *walk) oneOf(is func(NodeID) bool) NodeID {
	start := w.r.IntN(len(w.peers))
	for i := range w.peers {
		if id := w.peers[(start+i)%len(w.peers)]; is(id) {
			return id
		}
	}
	return w.peers[start]
}

func (w *walk) addr(id NodeID) NodeAddress {
	return numberedAddress(slices.Index(w.peers, id), w.r.IntN(2))
}

// note writes what happened into the log, which has to be the same in each run.
func (w *walk) note(format string, args ...any) { fmt.Fprintf(w.log, format+"\n", args...) }

func (w *walk) outcome(what string, err error) {
	for _, known := range []error{ErrSelf, ErrAlreadyConnected, ErrTooManyPeers, ErrPeerUnknown, ErrBanned, errFeelerDone} {
		if errors.Is(err, known) {
			what += ": " + known.Error()
		}
	}
	w.refuse[what]++
	w.note("%s %v", what, err)
}

func (w *walk) step() error {
	now := w.clock.now()
	switch op := w.r.IntN(100); {
	case op < 15:
		added, err := w.book.Add(w.addr(w.any()), []Source{{Kind: addrbook.Manual}, {Kind: addrbook.PEX, IP: ipOf(Endpoint{IP: []byte{80, byte(op), 1, 1}})}}[w.r.IntN(2)])
		w.note("add %v %v", added, err)
	case op < 35:
		return w.dial(now)
	case op < 50:
		id := w.any()
		d, ok := w.dialing[id]
		if !ok {
			d.address = w.addr(id)
		}
		switch w.r.IntN(6) {
		case 0:
			w.dialFailed(d.address, now)
		case 1:
			w.dialFailed(w.addr(id), now)
		case 2:
			w.notDialled(id, now.Add(time.Duration(w.r.IntN(2))*refusedPause))
		default:
			w.number++
			s := session{number: w.number, kind: d.kind, kith: w.r.IntN(2) == 0}
			old := w.connected[id]
			superseded, err := w.dialled(d.address, s, now)
			w.outcome("dialled", err)
			return w.crossed(id, old, superseded, err)
		}
	case op < 62:
		id := w.any()
		w.number++
		s := session{number: w.number, kith: w.r.IntN(2) == 0}
		old := w.connected[id]
		superseded, err := w.accepted(id, s, now)
		w.outcome("accepted", err)
		return w.crossed(id, old, superseded, err)
	case op < 72:
		id := w.any()
		if s := w.connected[id]; s != nil {
			w.ready(id, s, nil)
		}
	case op < 80:
		id := w.any()
		if s := w.connected[id]; s != nil {
			w.disconnected(id, s, now)
		}
	case op < 84:
		w.markEvict(w.any(), errors.New("spoke nonsense"))
	case op < 90:
		before := w.countEvicting()
		id, s, ok := w.evictNext()
		w.note("evict %v", id)
		if ok && (w.connected[id] != s || w.countEvicting() != before+1) {
			return fmt.Errorf("evicts %v, which it cannot", id)
		}
	case op < 91:
		id := w.any()
		w.book.SetBan(id, time.Duration(1+w.r.IntN(60))*time.Second, "")
		w.markEvict(id, ErrBanned)
	case op < 92:
		w.book.ClearBan(w.any())
	case op < 93:
		w.book.Shun(w.any(), time.Duration(w.r.IntN(2))*time.Minute, "")
	case op < 94:
		w.book.Forget(w.any())
	case op < 96:
		if id := w.any(); id != w.self {
			w.book.Adjust(id, w.r.IntN(9)-4)
		}
	case op < 97:
		return w.makeVictim(now)
	case op < 99:
		w.clock.add(time.Duration(w.r.IntN(3000)) * time.Millisecond)
	default:
		w.clock.add(feelerEvery)
	}
	return nil
}

// dial asks whom to dial and checks that it may be.
func (w *walk) dial(now time.Time) error {
	full, crowded := w.full(), !w.room()
	mayDial := w.mayDial()
	taken := map[NodeID]bool{}
	for id := range w.connected {
		taken[id] = true
	}
	for id := range w.dialing {
		taken[id] = true
	}
	d, ok := w.next(now, w.r.IntN(2) == 0)
	if !ok {
		if wake := w.wake(now); !wake.IsZero() && !wake.After(now) {
			return fmt.Errorf("asks to be asked again at %v, now", wake)
		}
		return nil
	}
	id := d.address.NodeID
	w.outcome("dials "+d.kind.String(), nil)
	w.note("%v", d)
	_, banned := w.book.Banned(id)
	switch {
	case id == w.self || taken[id] || banned:
		return fmt.Errorf("dials %v: self, taken or banned", d.address)
	case d.kind == connmgr.KindFeeler:
	case crowded:
		return fmt.Errorf("dials %v without room", d.address)
	case !mayDial && !w.isPersistent[id]:
		return fmt.Errorf("dials %v above MaxOutgoingConnections", d.address)
	case full != (w.promised(id) != ""):
		return fmt.Errorf("full is %v, but %v is promised the place of %q", full, id, w.promised(id))
	case full && w.score(w.promised(id)) >= w.score(id):
		return fmt.Errorf("%v is not better than %v", id, w.promised(id))
	}
	return nil
}

// crossed checks what became of two connections to one peer.
func (w *walk) crossed(id NodeID, old *session, superseded uint64, err error) error {
	now := w.connected[id]
	switch {
	case err != nil && now != old:
		return fmt.Errorf("refuses %v and changes its session", id)
	case err == nil && (now == nil || now == old || now.number != w.number):
		return fmt.Errorf("takes %v, and has another session", id)
	case err == nil && old == nil && superseded != 0, err == nil && old != nil && (superseded != old.number || now.evict != old.evict):
		return fmt.Errorf("%v takes the place of a session %d that there was not", id, superseded)
	}
	return nil
}

func (w *walk) makeVictim(now time.Time) error {
	var candidates []connmgr.Candidate
	for _, id := range w.peers {
		if s := w.connected[id]; s != nil && s.direction == connmgr.Inbound {
			candidates = append(candidates, connmgr.Candidate{ID: s.number, Identity: string(id), Since: s.since, Group: string(id)})
		}
	}
	before := len(w.connected)
	number, ok := w.victim(candidates, now)
	w.note("victim %d %v", number, ok)
	if ok && len(w.connected) != before-1 {
		return fmt.Errorf("names session %d, and has %d of %d left", number, len(w.connected), before)
	}
	return nil
}

func (w *walk) countEvicting() (n int) {
	for _, s := range w.connected {
		if s.evicting {
			n++
		}
	}
	return n
}

// told checks the updates of a step.
func (w *walk) told() error {
	for _, up := range w.updates {
		if is := up.Status == PeerStatusUp; w.status[up.NodeID] == is {
			return fmt.Errorf("%v is %s twice", up.NodeID, up.Status)
		} else {
			w.status[up.NodeID] = is
		}
		w.note("%v", up)
	}
	w.updates = nil
	for id, up := range w.status {
		if s := w.connected[id]; up != (s != nil && s.ready) {
			return fmt.Errorf("%v is up: %v, which is not what was told", id, !up)
		}
	}
	return nil
}

// settle ends all that is on its way: then nothing may be held.
func (w *walk) settle() error {
	for _, id := range w.peers {
		if d, ok := w.dialing[id]; ok {
			w.dialFailed(d.address, w.clock.now())
		}
		if s := w.connected[id]; s != nil {
			w.disconnected(id, s, w.clock.now())
		}
		w.book.ClearBan(id)
	}
	if err := w.told(); err != nil {
		return err
	}
	if len(w.dialing)+len(w.upgrading)+len(w.connected)+w.outgoing+w.feelers > 0 {
		return errors.New("something is left when all has ended")
	}
	for _, id := range w.book.Peers() {
		if p, _ := w.book.Peer(id); p.Held {
			return fmt.Errorf("%v is held for ever", id)
		}
	}
	return nil
}

// run makes n steps and returns the sum of the log.
func (w *walk) run(n int) uint64 {
	for i := range n {
		err := w.step()
		if err == nil {
			err = w.told()
		}
		if err == nil {
			err = w.check()
		}
		if err == nil && i%16 == 0 {
			err = w.checkHeld()
		}
		if err == nil && i%500 == 499 {
			err = w.settle()
		}
		if err != nil {
			w.t.Fatalf("step %d: %v", i, err)
		}
	}
	if w.book.Peers() != nil && w.r.IntN(2) == 0 { // a pause heals everything
		if err := w.settle(); err != nil {
			w.t.Fatal(err)
		}
		w.clock.add(48 * time.Hour)
		w.book.ResetRetries()
		for _, id := range w.peers {
			w.book.Connected(id) // ends shuns
		}
		if _, ok := w.next(w.clock.now(), false); !ok {
			w.t.Fatal("nobody to dial after a day without events, though peers are known")
		}
	}
	return w.sum()
}

var managerSeed = flag.Uint64("manager-seed", 0, "the first seed of TestPeerManagerRandomly; 0: another each time")

func TestPeerManagerRandomly(t *testing.T) {
	const steps, rounds = 4000, 60
	first := cmp.Or(*managerSeed, rand.Uint64())
	t.Logf("seed %d, %d operations", first, rounds*steps)
	seen := map[string]int{}
	for i := range rounds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWalk(t, seed)
			sum := w.run(steps)
			for what, n := range w.refuse {
				seen[what] += n
			}
			if i%10 == 0 && newWalk(t, seed).run(steps) != sum {
				t.Error("the same seed made other decisions")
			}
		})
	}
	t.Log(seen)
	for _, what := range []string{"dialled", "accepted", "dials permanent", "dials automatic", "dials feeler"} {
		if seen[what] == 0 {
			t.Errorf("%s: never happened", what)
		}
	}
}
