package p2p

import (
	"errors"
	"net/netip"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
)

// The Router's way to the state machine: the same core as the exported
// methods, with what those cannot say. Sessions carry the engine's connection
// numbers, so that a late report about an old connection changes nothing.

// dialTarget is what the engine dials for the Router.
type dialTarget struct{ address NodeAddress }

// dialPolicy is a PeerManager as the engine's policy.
type dialPolicy struct{ m *PeerManager }

var _ connmgr.Policy[dialTarget] = dialPolicy{}

// Next is connmgr.Policy's.
func (p dialPolicy) Next(time.Time) (connmgr.Dial[dialTarget], time.Time, bool) {
	d, wake, ok, _ := p.m.dialNext(true)
	return connmgr.Dial[dialTarget]{Target: dialTarget{d.address}, Kind: d.kind, Tag: d.number}, wake, ok
}

// Ended is connmgr.Policy's: a dial that did not arrive. One that did was
// settled in admit, and its end comes with sessionDown. What we did ourselves is
// no failure of the peer: we stopped, cancelled the dial, or our own limits did
// not allow it.
func (p dialPolicy) Ended(d connmgr.Dial[dialTarget], o connmgr.Outcome) {
	p.m.do(func(c *managerCore, now time.Time) {
		a := d.Target.address
		if r, ok := c.dialing[a.NodeID]; !ok || r.number != d.Tag {
			return
		}
		switch {
		case errors.Is(o.Cause, connmgr.ErrRefused):
			c.notDialled(a.NodeID, now.Add(refusedPause))
		case ours(o.Cause):
			c.notDialled(a.NodeID, time.Time{})
		default:
			c.dialFailed(a, now)
		}
	})
}

// ours says that a dial ended because of us.
func ours(cause error) bool {
	return errors.Is(cause, connmgr.ErrStopped) || errors.Is(cause, connmgr.ErrDropped) || errors.Is(cause, connmgr.ErrRefused)
}

// Victim is connmgr.Policy's.
func (p dialPolicy) Victim(candidates []connmgr.Candidate) (id uint64, ok bool) {
	p.m.do(func(c *managerCore, now time.Time) { id, ok = c.victim(candidates, now) })
	return id, ok
}

// arrival is a connection whose handshake is done.
type arrival struct {
	id        NodeID
	number    uint64
	direction connmgr.Direction
	dialled   NodeAddress // zero if inbound
	kind      connmgr.Kind
	remote    Endpoint
	kith      bool
	replaces  uint64 // the session of the same peer that may go for it; 0: none
	unproven  bool   // the connection does not show that the peer is at dialled
}

// screen says whether anything speaks against an inbound connection whose
// handshake is done, but for a lack of places: the Router asks before anyone is
// evicted for it, so that a peer that will be refused costs nobody a place.
func (m *PeerManager) screen(a arrival) error {
	return m.ask(func(c *managerCore, _ time.Time) error {
		if err := c.banned(a.id); err != nil {
			return err
		}
		_, err := c.cross(a.id, a.session())
		return err
	})
}

// admit says whether a connection may stay, and which other has to go for it
// (0: none).
func (m *PeerManager) admit(a arrival) (superseded uint64, err error) {
	err = m.ask(func(c *managerCore, now time.Time) (err error) {
		if a.direction == connmgr.Outbound {
			superseded, err = c.dialled(a.dialled, a.session(), now)
		} else {
			superseded, err = c.accepted(a.id, a.session(), now)
		}
		return err
	})
	return superseded, err
}

func (a arrival) session() session {
	return session{number: a.number, direction: a.direction, kind: a.kind, remote: a.remote, kith: a.kith, replaces: a.replaces, unproven: a.unproven}
}

// sessionReady is Ready for one session. It says whether that is the current one.
func (m *PeerManager) sessionReady(id NodeID, number uint64, channels ChannelIDSet) (current bool) {
	m.do(func(c *managerCore, _ time.Time) {
		if s := c.connected[id]; s != nil && s.number == number {
			c.ready(id, s, channels)
			current = true
		}
	})
	return current
}

// sessionDown is Disconnected for one session, with why it ended.
func (m *PeerManager) sessionDown(id NodeID, number uint64, cause error) {
	m.do(func(c *managerCore, now time.Time) {
		if s := c.connected[id]; s != nil && s.number == number {
			c.lost(id, s, cause, now)
		}
	})
}

// otherNetwork forgets a peer that lives in another network, so that it is not
// dialled, advertised or learnt again for a day.
func (m *PeerManager) otherNetwork(id NodeID, why error) {
	m.mu.Lock()
	persistent := m.core.isPersistent[id]
	m.mu.Unlock()
	if persistent { // the user's word: the address may be right tomorrow
		return
	}
	m.book.Forget(id)
	m.book.Shun(id, shunNetwork, why.Error())
}

// saidAddress remembers where a peer says that it listens: unproven until
// somebody dials it.
func (m *PeerManager) saidAddress(a NodeAddress, from Endpoint) {
	_, _ = m.AddFrom(a, Source{Kind: addrbook.Inbound, Peer: a.NodeID, IP: ipOf(from), Protocol: a.Protocol})
}

// observedAt notes that a peer at from sees us at seen.
func (m *PeerManager) observedAt(from Endpoint, seen netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.self.vote(ipOf(from), seen)
}

// attach makes the PeerManager the policy of a Router that listens at listen.
func (m *PeerManager) attach(listen NodeAddress, wake func()) {
	m.routerWake.Store(&wake)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.self.listen = listen
	m.core.nextFeeler = m.core.o.Now().Add(feelerEvery)
}

func (m *PeerManager) detach() {
	m.routerWake.Store(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.core.nextFeeler = time.Time{}
}
