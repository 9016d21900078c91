package libp2p

import "github.com/kith-p2p/kith/p2p"

// protectTag is under which the connections of wanted peers are protected. Other
// parts protect under tags of their own; libp2p keeps what any of them wants.
const protectTag = "kith/p2p"

// Protect keeps the libp2p connections of a peer from being trimmed by the host's
// connection manager, until Unprotect. The peer must have a session, which tells
// its libp2p ID; otherwise nothing happens.
func (t *Transport) Protect(id p2p.NodeID) {
	t.mu.Lock()
	k, known := t.known[id]
	_, already := t.protected[id]
	if known && !already {
		t.protected[id] = struct{}{}
		k.holders++
		t.known[id] = k
	}
	t.mu.Unlock()
	if known {
		t.h.ConnManager().Protect(k.id, protectTag)
	}
}

// Unprotect ends Protect. It works after the peer's last session has ended, too.
func (t *Transport) Unprotect(id p2p.NodeID) {
	t.mu.Lock()
	k, known := t.known[id]
	_, protected := t.protected[id]
	if protected {
		delete(t.protected, id)
		t.release(id)
	}
	t.mu.Unlock()
	if known && protected {
		t.h.ConnManager().Unprotect(k.id, protectTag)
	}
}
