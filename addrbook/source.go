package addrbook

import (
	"net/netip"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// Kind is the way in which an address came to us. Others than these are
// allowed, of at most 32 bytes, and are treated like PEX.
type Kind string

// The kinds.
const (
	// Manual is a person's word: names are allowed, nothing limits it, what
	// others teach never displaces it, and it does not expire. Adding it again
	// makes the address due at once.
	Manual Kind = "manual"
	// Inbound is the address of a peer that is connected to us: its IP with the
	// port that it says it listens on.
	Inbound Kind = "inbound"
	// PEX is what a peer tells of others.
	PEX Kind = "pex"
	// Bootstrap is a list that came with the configuration: names are allowed
	// and nothing limits it, but it may be displaced.
	Bootstrap Kind = "bootstrap"
	// DNS is a DNS seed; Name is its name.
	DNS Kind = "dns"
	// MDNS is the local network.
	MDNS Kind = "mdns"
	// DHT is the distributed hash table.
	DHT Kind = "dht"
)

func (k Kind) trusted() bool { return k == Manual || k == Bootstrap }

// limited reports whether the token bucket applies: to whoever can teach many
// addresses of others.
func (k Kind) limited() bool { return !k.trusted() && k != Inbound }

// Source is who taught an address. It is comparable.
type Source struct {
	Kind     Kind
	Peer     identity.NodeID  // the peer that told it; empty if it was none
	IP       netip.Addr       // where that peer, or seed, is; the zero Addr if it has no IP
	Protocol address.Protocol // how that peer is connected; says who may teach addresses without an IP
	Name     string           // of a seed or list; at most 253 bytes are kept
}

// Group returns the group that the source counts for: an attacker has as much
// room in the book as it has groups of sources. Manual addresses are sources
// of their own, so theirs is empty.
func (s Source) Group() string {
	switch {
	case s.Kind == Manual:
		return ""
	case s.IP.IsValid():
		return Group(s.IP)
	case s.Peer != "":
		return "peer " + string(s.Peer)
	}
	return string(s.Kind) + " " + s.Name
}

// String says who it is, for people.
func (s Source) String() string {
	t := string(s.Kind)
	if s.Name != "" {
		t += " " + s.Name
	}
	if s.Peer != "" {
		t += " " + string(s.Peer)
	}
	if s.IP.IsValid() {
		t += " at " + s.IP.String()
	}
	return t
}

// key names the source's token bucket.
func (s Source) key() string {
	if s.Peer != "" {
		return string(s.Peer)
	}
	return string(s.Kind) + " " + s.Name + " " + s.Group()
}

func (s Source) normal() Source {
	s.IP = s.IP.Unmap().WithZone("")
	s.Kind = s.Kind[:min(len(s.Kind), 32)]
	s.Name = s.Name[:min(len(s.Name), 253)]
	return s
}

// tokens limits how many addresses each source may teach: a bucket of burst
// tokens that fills with rate tokens a second (Bitcoin Core, PR 22387).
type tokens struct {
	rate    float64
	burst   float64
	sources map[string]*allowance
}

type allowance struct {
	left float64
	at   stamp
}

// maxAllowances is how many sources are remembered. Forgetting one gives it a
// new burst, which a new identity has anyway.
const maxAllowances = 2048

func (t *tokens) take(s Source, now stamp) bool {
	if t.rate < 0 || !s.Kind.limited() {
		return true
	}
	key := s.key()
	a := t.sources[key]
	if a == nil {
		if len(t.sources) >= maxAllowances {
			t.forget(now)
		}
		a = &allowance{left: t.burst, at: now}
		t.sources[key] = a
	}
	a.left, a.at = t.at(a, now), now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

func (t *tokens) at(a *allowance, now stamp) float64 {
	return min(t.burst, a.left+t.rate*max(0, float64(now-a.at)/1e9))
}

// forget drops the sources whose bucket is full again, and half of the others
// when that is not enough: a sweep for every maxAllowances/2 new sources at
// most.
func (t *tokens) forget(now stamp) {
	for key, a := range t.sources {
		if t.at(a, now) >= t.burst {
			delete(t.sources, key)
		}
	}
	for key := range t.sources {
		if len(t.sources) <= maxAllowances/2 {
			return
		}
		delete(t.sources, key)
	}
}
