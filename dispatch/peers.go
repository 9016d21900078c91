package dispatch

import (
	"cmp"
	"crypto/rand"
	"math"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kith-p2p/kith/p2p"
)

// Peer is a peer that is up and speaks dispatch, as a PeerFilter sees it.
type Peer struct {
	ID p2p.NodeID
	// Channels are those it announced, not to be changed: its capabilities.
	Channels p2p.ChannelIDSet
}

// PeerFilter chooses among peers. The slice is its own; peers that it returns
// beside those that it got are left out.
type PeerFilter func([]Peer) []Peer

// AllPeers chooses all.
func AllPeers(peers []Peer) []Peer { return peers }

// RandomPeer chooses one, at random.
func RandomPeer(peers []Peer) []Peer { return RandomPeers(1)(peers) }

// SqrtPeers chooses as many as the square root of their number, rounded up, at
// random.
func SqrtPeers(peers []Peer) []Peer {
	return RandomPeers(int(math.Ceil(math.Sqrt(float64(len(peers))))))(peers)
}

// RandomPeers chooses n, at random; all when there are fewer.
func RandomPeers(n int) PeerFilter {
	return func(peers []Peer) []Peer {
		mrand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
		return peers[:min(max(n, 0), len(peers))]
	}
}

// WithChannels chooses the peers that announced all of these channels.
func WithChannels(ids ...p2p.ChannelID) PeerFilter {
	return func(peers []Peer) []Peer {
		return slices.DeleteFunc(peers, func(p Peer) bool {
			return slices.ContainsFunc(ids, func(id p2p.ChannelID) bool { return !p.Channels.Contains(id) })
		})
	}
}

// OnlyPeers chooses these.
func OnlyPeers(ids ...p2p.NodeID) PeerFilter {
	return func(peers []Peer) []Peer {
		return slices.DeleteFunc(peers, func(p Peer) bool { return !slices.Contains(ids, p.ID) })
	}
}

// Filters applies filters one after another: Filters(WithChannels(0x20), RandomPeer).
func Filters(filters ...PeerFilter) PeerFilter {
	return func(peers []Peer) []Peer {
		for _, f := range filters {
			peers = f(peers)
		}
		return peers
	}
}

// peerTable is who is up, what each of them is known to have, and what it asked
// us to hold back. All methods are safe for concurrent use.
type peerTable struct {
	relayRate int

	mu    sync.Mutex // guards the fields below
	peers map[p2p.NodeID]*peerState
	have  *seen // digests mixed with the salts of the peers that have them
}

type peerState struct {
	Peer
	salt  digest               // secret, so that no peer can make a digest look known to another
	holds map[string]time.Time // types that it asked us to hold back, and until when
	relay *rate.Limiter
}

// What a peer can make us remember, and for how long a hold lasts that is not
// repeated.
const (
	maxHolds = 64
	holdFor  = 5 * time.Second
)

func newPeerTable(most int, age time.Duration, relayRate int) *peerTable {
	return &peerTable{relayRate: relayRate, peers: make(map[p2p.NodeID]*peerState), have: newSeen(most, age)}
}

func (t *peerTable) up(id p2p.NodeID, channels p2p.ChannelIDSet) {
	p := &peerState{Peer: Peer{id, channels}, relay: rate.NewLimiter(rate.Limit(t.relayRate), 2*t.relayRate)}
	rand.Read(p.salt[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peers[id] = p
}

func (t *peerTable) down(id p2p.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.peers, id)
}

func (t *peerTable) has(id p2p.NodeID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers[id] != nil
}

// known is the peer, or "" for one that is not up.
func (t *peerTable) known(id p2p.NodeID) p2p.NodeID {
	if !t.has(id) {
		return ""
	}
	return id
}

// list is who is up and not known to have a message (nil: any), by ID.
func (t *peerTable) list(without *digest, now time.Time) []Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	peers := make([]Peer, 0, len(t.peers))
	for _, p := range t.peers {
		if without == nil || !t.have.has(p.mix(*without), now) {
			peers = append(peers, p.Peer)
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	return peers
}

func (p *peerState) mix(d digest) digest {
	for i := range d {
		d[i] ^= p.salt[i]
	}
	return d
}

// note notes that peers have a message.
func (t *peerTable) note(d digest, now time.Time, ids ...p2p.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		if p := t.peers[id]; p != nil {
			t.have.add(p.mix(d), now)
		}
	}
}

// mayRelay says whether one more message of so many bytes may be passed on for a
// peer.
func (t *peerTable) mayRelay(id p2p.NodeID, size int, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	return p != nil && p.relay.AllowN(now, min(1+size>>12, 2*t.relayRate))
}

// hold notes that a peer wants no messages of a type for a while.
func (t *peerTable) hold(id p2p.NodeID, name string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil {
		return false
	}
	for n, until := range p.holds {
		if !until.After(now) {
			delete(p.holds, n)
		}
	}
	if _, again := p.holds[name]; !again && len(p.holds) >= maxHolds {
		return false
	}
	if p.holds == nil {
		p.holds = make(map[string]time.Time)
	}
	p.holds[name] = now.Add(holdFor)
	return true
}

// release ends a hold, and says whether there was one.
func (t *peerTable) release(id p2p.NodeID, name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil {
		return false
	}
	_, was := p.holds[name]
	delete(p.holds, name)
	return was
}

// holding says whether a peer wants no messages of a type now.
func (t *peerTable) holding(id p2p.NodeID, name string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	return p != nil && p.holds[name].After(now)
}
