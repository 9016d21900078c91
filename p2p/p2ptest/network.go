package p2ptest

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// NetworkOptions are those of a simulated network. The zero value of each field is
// its default.
type NetworkOptions struct {
	// Nodes is how many nodes there are, at least 2 and at most 10,000. Default 20.
	Nodes int
	// Seed decides the keys, the addresses, who knows whom at first, and the
	// traffic.
	Seed uint64
	// Target is how many peers each node dials (MaxOutgoingConnections); it holds
	// up to three times as many. Default 4, at most Nodes - 1.
	Target int
	// Peers are the options of each node's PeerManager, with defaults of their own:
	// MaxOutgoingConnections Target, MaxConnected three times that and then 2
	// upgrades, retries after 1 s to 1 min with a jitter of 1 s, a
	// DisconnectCooldownPeriod of 5 s. Nodes refuse those for whom they have no
	// place, so MaxConnected should be at least twice MaxOutgoingConnections.
	Peers p2p.PeerManagerOptions
	// Link is how links are without a fault. Default 20 ms with 10 ms of jitter.
	Link memory.Link
	// BreakAfter is how long a connection lives across a partition; a transport on
	// real networks learns of one by its pings. Default 30 s.
	BreakAfter time.Duration
	// Traffic is the average time between two messages that a node sends. Default
	// 8 s; negative: none.
	Traffic time.Duration
	// Reactor is called for every Router before it starts, each time a node does:
	// it opens the channels of what is to be tested. What it returns, if anything,
	// is called after the Router has stopped. Channels 0x00 and 0x20 to 0x22 are
	// taken.
	Reactor func(*Node) (stop func())
	// Check is an invariant of the user's own. It is asked about every node, at
	// moments at which nothing but time goes on, and must not block.
	Check func(*Node) error
}

func (o NetworkOptions) withDefaults() NetworkOptions {
	o.Nodes = cmp.Or(o.Nodes, 20)
	o.Target = min(cmp.Or(o.Target, 4), o.Nodes-1)
	o.BreakAfter = cmp.Or(o.BreakAfter, 30*time.Second)
	o.Traffic = cmp.Or(o.Traffic, 8*time.Second)
	if o.Link == (memory.Link{}) {
		o.Link = memory.Link{Latency: 20 * time.Millisecond, Jitter: 10 * time.Millisecond}
	}
	p := &o.Peers
	p.MaxOutgoingConnections = cmp.Or(p.MaxOutgoingConnections, uint16(o.Target))
	if p.MaxConnected == 0 {
		p.MaxConnected, p.MaxConnectedUpgrade = 3*p.MaxOutgoingConnections, cmp.Or(p.MaxConnectedUpgrade, 2)
	}
	p.MinRetryTime = cmp.Or(p.MinRetryTime, time.Second)
	p.MaxRetryTime = cmp.Or(p.MaxRetryTime, time.Minute)
	p.RetryTimeJitter = cmp.Or(p.RetryTimeJitter, time.Second)
	p.DisconnectCooldownPeriod = cmp.Or(p.DisconnectCooldownPeriod, 5*time.Second)
	return o
}

// Network is a simulated network: nodes with all that a node has (Router,
// PeerManager, address book, peer exchange) over a memory network, that send each
// other numbered messages while a Plan goes wrong, and a checker that looks at
// them after every event. It lives in a bubble of testing/synctest, in whose
// virtual time an hour takes about a second; see Simulate.
//
// Run and Close are for one goroutine, and nobody else in the bubble may call
// synctest.Wait.
type Network struct {
	tb      testing.TB
	o       NetworkOptions
	mem     *memory.Network
	nodes   []*Node
	checker *checker
	stirred chan struct{} // one token: a peer came or went somewhere
	began   time.Time
	undo    []undoing // owned by Run's goroutine, the earliest first
	effects []*effect // likewise: faults that have not shown one yet
	looked  time.Time // when it looked at every node
	weather *weather
	hostile sync.WaitGroup  // steps of hostile peers under way
	war     context.Context // ends when those should
	peace   context.CancelFunc
	moves   int // addresses given out
	closed  bool

	sabotage func(*life) // of tests of this package: breaks something on purpose
}

// NewNetwork makes a network and starts its nodes; it is closed when the test
// ends. It must be called in a bubble of testing/synctest.
func NewNetwork(tb testing.TB, o NetworkOptions) *Network {
	tb.Helper()
	n := newNetwork(tb, o)
	tb.Cleanup(n.Close)
	n.start()
	return n
}

func newNetwork(tb testing.TB, o NetworkOptions) *Network {
	tb.Helper()
	if o = o.withDefaults(); o.Nodes < 2 || o.Nodes > 10_000 {
		tb.Fatalf("p2ptest: a network of %d nodes", o.Nodes)
	}
	n := &Network{
		tb: tb, o: o, began: time.Now(), stirred: make(chan struct{}, 1),
		mem: memory.NewNetwork(memory.Options{Seed: o.Seed, Link: o.Link, BreakAfter: o.BreakAfter, Window: linkWindow}),
	}
	n.war, n.peace = context.WithCancel(context.Background())
	n.checker = newChecker(n.began)
	n.weather = newWeather(n.mem, o.Link)
	for i := range o.Nodes {
		key := n.key(i)
		node := &Node{net: n, index: i, key: key, id: key.Public().NodeID(), store: NewFaultyStore(), bans: make(map[p2p.NodeID]time.Time)}
		node.place = n.newPlace()
		n.nodes = append(n.nodes, node)
	}
	for i := 0; i < len(n.nodes); i += 4 {
		n.nodes[i].persistent = n.nodes[n.opposite(i)].id
	}
	return n
}

// key makes the key of a number: nodes have theirs from 0, hostile peers from
// 1<<32 on.
func (n *Network) key(number int) p2p.PrivKey {
	seed := make([]byte, 32)
	binary.BigEndian.PutUint64(seed, n.o.Seed)
	binary.BigEndian.PutUint64(seed[8:], uint64(number))
	key, err := identity.PrivKeyFromSeed(seed)
	if err != nil {
		n.tb.Fatal(err)
	}
	return key
}

// newPlace is an address that nobody had before, in a group of its own as far as
// there are any.
func (n *Network) newPlace() netip.AddrPort {
	i := n.moves
	n.moves++
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(60 + i/256%60), byte(i), byte(i / 15_360), 1}), 26656)
}

// opposite is the number of the persistent peer of every fourth node.
func (n *Network) opposite(i int) int { return (i + len(n.nodes)/2) % len(n.nodes) }

// linkWindow is how many bytes are on their way on a connection before what is sent
// waits in the Router: little, so that it does.
const linkWindow = 8 << 10

// random is a source that the seed decides, one for each purpose.
func (n *Network) random(purpose, number uint64) *rand.Rand {
	return rand.New(rand.NewPCG(n.o.Seed^purpose<<48, number))
}

// start starts every node, each with a few addresses of others.
func (n *Network) start() {
	n.tb.Helper()
	rng := n.random(1, 0)
	for i, node := range n.nodes {
		for _, other := range []int{(i + 1) % len(n.nodes), rng.IntN(len(n.nodes)), rng.IntN(len(n.nodes)), n.opposite(i)} {
			if other != i {
				node.first = append(node.first, n.nodes[other].Address())
			}
		}
	}
	for _, node := range n.nodes {
		if err := node.start(); err != nil {
			n.tb.Fatalf("p2ptest: node %d: %v", node.index, err)
		}
	}
}

// Nodes are the nodes, by number.
func (n *Network) Nodes() []*Node { return n.nodes }

// Memory is the network under the nodes, for faults that a test brings about
// itself.
func (n *Network) Memory() *memory.Network { return n.mem }

// Since is how long the network has been there.
func (n *Network) Since() time.Duration { return time.Since(n.began) }

// Close stops every node. The checker looks at the sums once more: what was sent
// and what became of it. A second call does nothing.
func (n *Network) Close() {
	if n.closed {
		return
	}
	n.closed = true
	n.stop()
	if err := n.checker.unreported(); err != nil {
		n.tb.Helper()
		n.tb.Errorf("p2ptest: seed %d: %v", n.o.Seed, err)
	}
}

// stop stops what runs and adds up the books.
func (n *Network) stop() {
	n.peace()
	n.hostile.Wait()
	for _, node := range n.nodes {
		node.stop()
	}
	n.checker.note(n.checkBooks())
}

// stir says that something happened.
func (n *Network) stir() {
	select {
	case n.stirred <- struct{}{}:
	default:
	}
}

// checkBooks compares what all Routers counted, in all their lives, with what the
// network counted. Nothing may run.
func (n *Network) checkBooks() error {
	for id, c := range n.mem.Stats().Channels {
		d, ok := trafficChannels[id]
		if !ok {
			continue
		}
		var sum p2p.ChannelStats
		for _, node := range n.nodes {
			addChannelStats(&sum, node.former[id])
		}
		hostile, read := n.checker.hostileSent(id), sum.Received.Received+n.checker.hostileReceived(id)
		switch {
		case c.InFlight.Messages != 0:
			return fmt.Errorf("%d messages of channel %s are on their way when all has ended", c.InFlight.Messages, d.Name)
		case sum.Send.Written+hostile != c.Sent.Messages:
			return fmt.Errorf("channel %s: the nodes wrote %d messages and hostile peers %d, the network took %d", d.Name, sum.Send.Written, hostile, c.Sent.Messages)
		case read > c.Delivered.Messages || read < c.Delivered.Messages && !d.Requests: // replies come into no queue
			return fmt.Errorf("channel %s: the network delivered %d messages, the nodes and hostile peers received %d", d.Name, c.Delivered.Messages, read)
		}
		if err := checkBalance(sum); err != nil {
			return err
		}
		if sum.Send.Queued != 0 || sum.Received.Queued != 0 {
			return fmt.Errorf("channel %s: %d messages wait to be sent and %d to be received when all has ended", d.Name, sum.Send.Queued, sum.Received.Queued)
		}
	}
	if open := n.mem.Stats().Open; open != 0 {
		return fmt.Errorf("%d connections are open when all has ended", open)
	}
	return nil
}
