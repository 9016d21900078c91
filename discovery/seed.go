package discovery

import (
	"context"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	mss "github.com/multiformats/go-multistream"
)

// What one answer of a seed may make us do.
const (
	seedRead     = 256 // addresses looked at
	seedAsks     = 64  // of these, places that are asked who they are
	seedAtOnce   = 8
	seedPerGroup = 4 // of one network, see addrbook.Group
	askTimeout   = 10 * time.Second
)

// SeedOptions are those of NewDNSSeed.
type SeedOptions struct {
	DNSOptions
	// Port is that of the nodes: an address record has none. Required.
	Port uint16
	// Services, when the seed can filter (HasFiltering), says what nodes are
	// asked for: see connmgr.SeedFromDNS.
	HasFiltering bool
	Services     uint64
	// Identify asks the node at a place who it is. DNS does not say, and the
	// book keeps no address of nobody. It must honour its context; 8 run at
	// once, for 10 s each. nil: IdentifyTCP.
	Identify func(ctx context.Context, at netip.AddrPort) (address.NodeAddress, error)
	// Allow is asked before each place is. Give it the gate, so that nobody is
	// dialled here who may not connect. nil: all are allowed.
	Allow func(netip.Addr) bool
}

// NewDNSSeed returns the source "seed HOST": a name whose address records are
// nodes, as btcd has them (connmgr.SeedFromDNS, which takes 256 from an answer).
// At its start and then every DNSOptions.Every it asks the DNS, then 64 of these
// places, chosen at random, at most 4 of one network, who they are, and
// teaches those that say it; with DNSOptions.AnyScope also places that are not of
// the internet. Its Run fails when the DNS has no answer, or with ErrNobody; when
// nobody at these places said who it is, that is a RetryError as well: nobody is
// asked more often than DNSOptions.Every. Errors match ErrOptions.
func NewDNSSeed(host string, o SeedOptions) (Source, error) {
	if host == "" || len(host) > 253 || o.Port == 0 || o.Every < 0 {
		return nil, fmt.Errorf("%w: a DNS seed needs a name and the port of its nodes", ErrOptions)
	}
	o.DNSOptions = o.DNSOptions.defaults()
	if o.Identify == nil {
		o.Identify = IdentifyTCP
	}
	return &dnsSeed{host: host, o: o}, nil
}

type dnsSeed struct {
	host string
	o    SeedOptions
	tally
}

func (s *dnsSeed) Name() string { return "seed " + s.host }

func (s *dnsSeed) Run(ctx context.Context, learn func([]Found)) error {
	return s.o.repeat(ctx, func() error {
		places, err := s.places(ctx)
		if err != nil {
			return err
		}
		return s.ask(ctx, places, learn)
	})
}

// places are those to ask, in random order.
func (s *dnsSeed) places(ctx context.Context) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	var answer []connmgr.SeedAddress
	err := connmgr.SeedFromDNSContext(ctx, &connmgr.SeedConfig{
		Seeds:       []connmgr.DNSSeed{{Host: s.host, HasFiltering: s.o.HasFiltering}},
		DefaultPort: s.o.Port,
	}, s.o.Services, s.lookup, func(as []connmgr.SeedAddress) { answer = append(answer, as...) })
	if err != nil && len(answer) == 0 {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	mrand.Shuffle(len(answer), func(i, j int) { answer[i], answer[j] = answer[j], answer[i] })
	groups := map[string]int{}
	var places []netip.AddrPort
	for _, a := range answer {
		ip, _ := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		group := addrbook.Group(ip)
		switch scope := addrbook.ScopeOf(ip); {
		case scope == addrbook.ScopeNone, scope != addrbook.ScopeGlobal && !s.o.AnyScope:
			s.add(addrbook.RefusedScope, 1)
		case groups[group] == seedPerGroup:
			s.add(RefusedCrowd, 1)
		case len(places) == seedAsks:
			s.add(RefusedCut, 1)
		case s.o.Allow != nil && !s.o.Allow(ip):
			s.add(addrbook.RefusedBanned, 1)
		default:
			groups[group]++
			places = append(places, netip.AddrPortFrom(ip, a.Port))
		}
	}
	if len(places) == 0 {
		return nil, fmt.Errorf("%w: %s: none of the %d addresses it names may be asked", ErrNobody, s.host, len(answer))
	}
	return places, nil
}

func (s *dnsSeed) lookup(ctx context.Context, host string) ([]net.IP, error) {
	got, err := s.o.Resolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	s.add(RefusedCut, len(got)-seedRead)
	got = got[:min(len(got), seedRead)]
	ips := make([]net.IP, len(got))
	for i, a := range got {
		ips[i] = a.IP
	}
	return ips, nil
}

// ask asks places who they are. It fails when none says.
func (s *dnsSeed) ask(ctx context.Context, places []netip.AddrPort, learn func([]Found)) error {
	var all sync.WaitGroup
	var mu sync.Mutex // guards said, last and next
	var last error
	said, next := 0, 0
	for range min(seedAtOnce, len(places)) {
		all.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(places) {
					return
				}
				a, err := s.identify(ctx, places[i])
				if err == nil {
					learn([]Found{{a, s.o.source(s.host, places[i].Addr())}})
				} else if ctx.Err() == nil {
					s.add(RefusedNobody, 1)
				}
				mu.Lock()
				if err == nil {
					said++
				} else {
					last = err
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if said == 0 && last != nil {
		return &RetryError{s.o.Every, fmt.Errorf("%w: %s: of the %d places asked none said who it is: %w", ErrNobody, s.host, len(places), last)}
	}
	return nil
}

// identify asks one place. A panic of Identify is its error: it runs on a
// goroutine of ours.
func (s *dnsSeed) identify(ctx context.Context, at netip.AddrPort) (a address.NodeAddress, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v}
		}
	}()
	if a, err = s.o.Identify(ctx, at); err != nil {
		return a, err
	}
	if hostIP(a) != at.Addr() {
		return a, fmt.Errorf("discovery: %s said that it is elsewhere, at %s", at, a)
	}
	return a, a.Validate()
}

// IdentifyTCP connects to a place by TCP, makes libp2p's handshake (TLS or
// Noise) far enough to have the ID of who is there proven, and hangs up. It
// shows a key made for this one handshake, not the node's. It blocks until ctx
// ends at most. Errors are those of the network and the handshake, and
// of address.FromMultiaddr for a key that is not Ed25519.
func IdentifyTCP(ctx context.Context, at netip.AddrPort) (address.NodeAddress, error) {
	id, err := handshake(ctx, at)
	if err != nil {
		return address.NodeAddress{}, fmt.Errorf("discovery: who is at %s: %w", at, err)
	}
	family := "ip6"
	if at.Addr().Unmap().Is4() {
		family = "ip4"
	}
	return address.Parse(fmt.Sprintf("/%s/%s/tcp/%d/p2p/%s", family, at.Addr().Unmap().WithZone(""), at.Port(), id))
}

func handshake(ctx context.Context, at netip.AddrPort) (peer.ID, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return "", err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	how, err := mss.SelectOneOf([]string{libp2ptls.ID, noise.ID}, c)
	if err != nil {
		return "", err
	}
	if how == libp2ptls.ID {
		t, err := libp2ptls.New(libp2ptls.ID, key, nil)
		if err != nil {
			return "", err
		}
		s, err := t.SecureOutbound(ctx, c, "")
		if err != nil {
			return "", err
		}
		return s.RemotePeer(), nil
	}
	t, err := noise.New(noise.ID, key, nil)
	if err != nil {
		return "", err
	}
	anybody, err := t.WithSessionOptions(noise.DisablePeerIDCheck())
	if err != nil {
		return "", err
	}
	s, err := anybody.SecureOutbound(ctx, c, "")
	if err != nil {
		return "", err
	}
	return s.RemotePeer(), nil
}
