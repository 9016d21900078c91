package p2p

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
)

// A clock that only the test moves.
type testClock struct{ ns atomic.Int64 }

func newTestClock() *testClock {
	c := new(testClock)
	c.ns.Store(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *testClock) now() time.Time      { return time.Unix(0, c.ns.Load()) }
func (c *testClock) add(d time.Duration) { c.ns.Add(int64(d)) }

// coreRig is a managerCore with its book, without the shell.
type coreRig struct {
	*managerCore
	clock *testClock
	store *addrbook.MemoryStore
	woke  bool // the book called Wake
}

// newCoreRig makes a core on a store; nil: a new one.
func newCoreRig(t testing.TB, self NodeID, store *addrbook.MemoryStore, clock *testClock, seed uint64, o PeerManagerOptions) *coreRig {
	t.Helper()
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	if store == nil {
		store = addrbook.NewMemoryStore()
	}
	r := &coreRig{clock: clock, store: store}
	o.Now, o.Rand = clock.now, rand.New(rand.NewPCG(seed, 7)).Float64
	book, err := addrbook.Open(store, addrbook.Options{
		Self: self, MaxPeers: int(o.MaxPeers), PrivatePeers: o.PrivatePeers, Protocols: o.Protocols,
		Wake: func() { r.woke = true }, Now: o.Now, Rand: o.Rand,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { book.Close() })
	r.managerCore = newManagerCore(self, o, book)
	return r
}

// namedID is the ID of a peer with a name.
func namedID(name string) NodeID {
	sum := sha256.Sum256([]byte(name))
	return NodeID(hex.EncodeToString(sum[:20]))
}

// The commands of testdata/peermanager-*.txt. Peers have names; each has one
// address, in a network of its own, and more as NAME/2, NAME/3.
//
//	options [persistent=A,B] [scores=A:3,B:-1] [max=] [upgrade=] [outgoing=] [retry=] [maxretry=]
//	        [maxpersistent=] [cooldown=] [feelers=yes]        a new node
//	restart                        the same node again, with what it saved
//	add NAME...                    the user adds addresses
//	dial [times=N]                 whom to dial now, or when to ask again
//	failed NAME, arrived NAME, cancelled NAME, refused NAME   what became of a dial
//	accept NAME, ready NAME, gone NAME, error NAME            what became of a connection
//	evict                          who has to go
//	clock DURATION, report NAME good|bad WEIGHT, ban NAME DURATION, unban NAME, inactivate NAME
//	state                          who is where
//
// Whatever a command makes known is printed after its answer: updates, and
// which of the waiting loops it wakes.
func peerManagerScript(t *testing.T) func(string, []string) string {
	var (
		rig     *coreRig
		options PeerManagerOptions
		feelers bool
		clock   = newTestClock()
		names   = map[NodeID]string{}
		numbers = map[NodeAddress]string{}
	)
	id := func(name string) NodeID {
		name, _, _ = strings.Cut(name, "/")
		names[namedID(name)] = name
		return namedID(name)
	}
	addr := func(name string) NodeAddress {
		peer, number, _ := strings.Cut(name, "/")
		sum := sha256.Sum256([]byte(peer))
		a := NodeAddress{NodeID: id(name), Protocol: "mconn", Hostname: fmt.Sprintf("%d.%d.%d.1", 20+sum[0]%100, sum[1], sum[2]), Port: 26656}
		if number != "" {
			a.Port += uint16(scriptNumber(number, 0))
		}
		numbers[a] = name
		return a
	}
	list := func(s string) (ids []NodeID) {
		if s != "" {
			for name := range strings.SplitSeq(s, ",") {
				ids = append(ids, id(name))
			}
		}
		return ids
	}
	duration := func(s string) time.Duration {
		if s == "" {
			return 0
		}
		return scriptDuration(s)
	}
	start := func(store *addrbook.MemoryStore) {
		rig = newCoreRig(t, namedID("self"), store, clock, 1, options)
		if feelers {
			rig.nextFeeler = clock.now().Add(feelerEvery)
		}
	}
	say := func(err error) string {
		text := strings.TrimPrefix(err.Error(), "p2p: ")
		for id, name := range names {
			text = strings.ReplaceAll(text, string(id), name)
		}
		return text + "\n"
	}
	answer := func(err error) string {
		if err == nil {
			return "yes\n"
		}
		return "no: " + say(err)
	}
	run := func(command string, args []string) string {
		o, now := scriptOptions(args), clock.now()
		switch command {
		case "options":
			options = PeerManagerOptions{
				PersistentPeers: list(o["persistent"]), PeerScores: map[NodeID]PeerScore{},
				MaxConnected: uint16(scriptNumber(o["max"], 0)), MaxConnectedUpgrade: uint16(scriptNumber(o["upgrade"], 0)),
				MaxOutgoingConnections: uint16(scriptNumber(o["outgoing"], 0)), MinRetryTime: duration(o["retry"]),
				MaxRetryTime: duration(o["maxretry"]), MaxRetryTimePersistent: duration(o["maxpersistent"]),
				DisconnectCooldownPeriod: duration(o["cooldown"]),
			}
			for s := range strings.SplitSeq(o["scores"], ",") {
				if name, score, ok := strings.Cut(s, ":"); ok {
					options.PeerScores[id(name)] = PeerScore(scriptNumber(score, 0))
				}
			}
			feelers = o["feelers"] == "yes"
			start(nil)
		case "restart":
			if anchors := rig.steady(now); len(anchors) > 0 {
				rig.book.SetAnchors(anchors)
			}
			if err := rig.book.Close(); err != nil {
				return err.Error() + "\n"
			}
			start(rig.store)
		case "add":
			for _, name := range args {
				if added, err := rig.book.Add(addr(name), Source{Kind: addrbook.Manual}); err != nil {
					return answer(err)
				} else if !added {
					return "known\n"
				}
			}
		case "dial":
			var out strings.Builder
			for range scriptNumber(o["times"], 1) {
				d, ok := rig.next(now, feelers)
				if !ok {
					if wake := rig.wake(now); wake.IsZero() {
						out.WriteString("nobody, until something happens\n")
					} else {
						fmt.Fprintf(&out, "nobody, for %v\n", wake.Sub(now).Round(time.Millisecond))
					}
					break
				}
				fmt.Fprintf(&out, "%s (%s)", numbers[d.address], d.kind)
				if from := rig.promised(d.address.NodeID); from != "" {
					fmt.Fprintf(&out, " in the place of %s", names[from])
				}
				out.WriteString("\n")
			}
			return out.String()
		case "failed":
			rig.dialFailed(addr(args[0]), now)
		case "cancelled":
			rig.notDialled(id(args[0]), time.Time{})
		case "refused":
			rig.notDialled(id(args[0]), now.Add(refusedPause))
		case "arrived":
			_, err := rig.dialled(addr(args[0]), session{kind: rig.dialing[id(args[0])].kind}, now)
			return answer(err)
		case "accept":
			_, err := rig.accepted(id(args[0]), session{}, now)
			return answer(err)
		case "ready", "gone":
			switch s := rig.connected[id(args[0])]; {
			case s == nil:
				return "not connected\n"
			case command == "ready":
				rig.ready(id(args[0]), s, nil)
			default:
				rig.disconnected(id(args[0]), s, now)
			}
		case "error":
			rig.markEvict(id(args[0]), errors.New("spoke nonsense"))
		case "evict":
			if who, s, ok := rig.evictNext(); ok {
				return names[who] + ": " + say(s.evict)
			}
			return "nobody\n"
		case "clock":
			clock.add(scriptDuration(args[0]))
		case "report":
			weight := scriptNumber(args[2], 1)
			if args[1] == "bad" {
				weight = -weight
			}
			return fmt.Sprintf("score %d\n", rig.book.Adjust(id(args[0]), weight).Add(-rig.book.Failures(id(args[0]))))
		case "ban":
			rig.book.SetBan(id(args[0]), scriptDuration(args[1]), "spoke nonsense")
			rig.markEvict(id(args[0]), rig.banned(id(args[0])))
		case "unban":
			rig.book.ClearBan(id(args[0]))
		case "inactivate":
			rig.book.Shun(id(args[0]), 0, "inactive")
		case "state":
			var lines []string
			for who, s := range rig.connected {
				line := fmt.Sprintf("%s is connected, %s, score %d", names[who], s.direction, rig.score(who))
				if s.ready {
					line += ", ready"
				}
				if s.evicting {
					line += ", being evicted"
				} else if s.evict != nil {
					line += ", to be evicted"
				}
				lines = append(lines, line)
			}
			for who, d := range rig.dialing {
				lines = append(lines, fmt.Sprintf("%s is dialled (%s)", names[who], d.kind))
			}
			slices.Sort(lines)
			return strings.Join(append(lines, fmt.Sprintf("%d outgoing", rig.outgoing)), "\n") + "\n"
		default:
			panic("unknown command " + command)
		}
		return ""
	}
	return func(command string, args []string) string {
		out := run(command, args)
		for _, up := range rig.updates {
			out += fmt.Sprintf("%s is %s\n", names[up.NodeID], up.Status)
		}
		if rig.wakeAll || rig.woke {
			out += "the dialler wakes\n"
		}
		if rig.evictOK {
			out += "the evictor wakes\n"
		}
		rig.updates, rig.wakeAll, rig.woke, rig.evictOK = nil, false, false, false
		if err := errors.Join(rig.check(), rig.checkHeld()); err != nil {
			out += "BROKEN: " + err.Error() + "\n"
		}
		return out
	}
}

func TestPeerManagerScripts(t *testing.T) {
	runScripts(t, "peermanager-*.txt", func() func(string, []string) string { return peerManagerScript(t) })
}

// check returns how the tables contradict each other or the options.
func (r *coreRig) check() error {
	c := r.managerCore
	outgoing, feelers := 0, 0
	for id, s := range c.connected {
		if s.direction == connmgr.Outbound {
			outgoing++
		}
		if id == c.self {
			return errors.New("connected to itself")
		}
		if s.evicting && s.evict == nil {
			return fmt.Errorf("%v is evicted without a cause", id)
		}
	}
	for id, d := range c.dialing {
		if d.kind == connmgr.KindFeeler {
			feelers++
		}
		if id == c.self || d.address.NodeID != id {
			return fmt.Errorf("dials %v as %v", d.address, id)
		}
	}
	if outgoing != c.outgoing || feelers != c.feelers {
		return fmt.Errorf("counts %d outgoing and %d feelers, has %d and %d", c.outgoing, c.feelers, outgoing, feelers)
	}
	most := int(c.o.MaxConnected) + int(c.o.MaxConnectedUpgrade)
	if c.o.MaxConnected > 0 && len(c.connected) > most {
		return fmt.Errorf("%d connected, at most %d may be", len(c.connected), most)
	}
	if staying := len(c.connected) - c.countLeaving(); c.o.MaxConnected > 0 && staying > int(c.o.MaxConnected) {
		return fmt.Errorf("%d connected to stay, at most %d may", staying, c.o.MaxConnected)
	}
	targets := map[NodeID]bool{}
	for from, to := range c.upgrading {
		if _, dialing := c.dialing[to]; c.connected[from] == nil || !dialing || targets[to] || from == to {
			return fmt.Errorf("promised %v to %v, which is not so", from, to)
		}
		targets[to] = true
	}
	return nil
}

// checkHeld returns whom the book holds, and should not, or the other way round.
func (r *coreRig) checkHeld() error {
	c := r.managerCore
	for _, id := range c.book.Peers() {
		p, _ := c.book.Peer(id)
		if free := c.free(id); p.Held == free {
			return fmt.Errorf("%v is held: %v, and free: %v", id, p.Held, free)
		}
	}
	for _, id := range slices.Concat(slices.Collect(maps.Keys(c.connected)), slices.Collect(maps.Keys(c.dialing))) {
		if p, ok := c.book.Peer(id); !ok || !p.Held {
			return fmt.Errorf("%v is connected or dialled, but not held", id)
		}
	}
	return nil
}

func (c *managerCore) countLeaving() (n int) {
	for _, s := range c.connected {
		if s.evict != nil {
			n++
		}
	}
	return n
}
