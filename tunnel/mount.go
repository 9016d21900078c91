package tunnel

import "sync/atomic"

// mount is a Mount of a P2P: what its services and forwards have in common.
type mount struct {
	info ListenerInfo // constant
	name string
	shut func() error // called once

	listed   atomic.Pointer[listing] // nil before list
	live     atomic.Int64
	waiting  atomic.Int64
	accepted atomic.Uint64
	refusals atomic.Uint64
	in, out  atomic.Uint64 // of ended connections
	last     atomic.Pointer[Error]
}

var _ Mount = (*mount)(nil)

// list puts the mount on the list.
func (m *mount) list(r *ListenerRegistry) { m.listed.Store(r.register(m)) }

// remove takes a mount that is listed off the list and closes it.
func (m *mount) remove() error { return m.listed.Load().Close() }

// number is the mount's in the list, or 0.
func (m *mount) number() uint64 {
	if m == nil || m.listed.Load() == nil {
		return 0
	}
	return m.listed.Load().id
}

// snapshot is the mount as its registry lists it.
func (m *mount) snapshot() ListenerInfo { return m.listed.Load().info() }

// Info implements Mount.
func (m *mount) Info() ListenerInfo {
	i := m.info
	i.Connections, i.Waiting = int(m.live.Load()), int(m.waiting.Load())
	i.Accepted, i.Refused = m.accepted.Load(), m.refusals.Load()
	i.BytesIn, i.BytesOut = m.in.Load(), m.out.Load()
	i.LastError = m.last.Load()
	return i
}

// Close implements Mount.
func (m *mount) Close() error { return m.shut() }

func (m *mount) refuse(e *Error) {
	m.refusals.Add(1)
	m.last.Store(e)
}

// begun counts a connection in, and ended out, with what it has carried.
func (m *mount) begun() {
	m.live.Add(1)
	m.accepted.Add(1)
}

func (m *mount) ended(in, out uint64) {
	m.live.Add(-1)
	m.in.Add(in)
	m.out.Add(out)
}
