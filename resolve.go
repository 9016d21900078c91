package kith

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
)

const (
	dnsTimeout  = 10 * time.Second
	dnsDepth    = 8
	dnsMaxAddrs = 32
)

// resolver looks names up at one server, or as the system does.
func resolver(server string) (network.MultiaddrDNSResolver, madns.BasicResolver, error) {
	dns := net.DefaultResolver
	if server != "" {
		if _, _, err := net.SplitHostPort(server); err != nil {
			return nil, nil, usage("DNS server %q: %v; write it like 192.168.1.1:53", server, err)
		}
		var d net.Dialer
		dns = &net.Resolver{
			PreferGo: true,
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return d.DialContext(ctx, network, server)
			},
		}
	}
	r, err := madns.NewResolver(madns.WithDefaultResolver(dns))
	if err != nil {
		return nil, nil, err
	}
	return swarm.ResolverFromMaDNS{Resolver: r}, dns, nil
}

// peer turns any spelling of a peer into its ID, remembering the addresses
// that came with it.
func (n *Node) peer(ctx context.Context, s string) (peer.ID, error) {
	id, addrs, err := n.parsePeer(ctx, s)
	if err != nil {
		return "", err
	}
	n.remember(id, addrs)
	return id, nil
}

func (n *Node) parsePeer(ctx context.Context, s string) (peer.ID, []ma.Multiaddr, error) {
	if id, err := identity.ParseNodeID(s); err == nil {
		return n.byNodeID(id)
	}
	if isName(s) {
		return n.resolveDNSAddr(ctx, s)
	}
	id, addrs, err := address.ParsePeer(s)
	if err != nil {
		return "", nil, badPeer(strings.TrimSpace(s), err)
	}
	return id, addrs, nil
}

// isName says that a text is a name alone: the DNS says who it is and where.
func isName(s string) bool { return strings.HasPrefix(s, "/dnsaddr/") && !strings.Contains(s, "/p2p/") }

// byNodeID looks a NodeID up among the peers that are known: it is a hash, so
// it cannot be dialled by itself.
func (n *Node) byNodeID(id identity.NodeID) (peer.ID, []ma.Multiaddr, error) {
	if p, ok := n.libp2pID(id); ok {
		return p, nil, nil
	}
	for _, p := range n.host.Peerstore().Peers() {
		if got, err := identity.NodeIDFromPeerID(p); err == nil && got == id {
			return p, nil, nil
		}
	}
	return "", nil, fmt.Errorf("%w: no peer with the node ID %s has been met; give its peer ID (12D3KooW...) or a full address", ErrUnknownPeer, id)
}

// libp2pID is the libp2p ID that the book knows a peer by.
func (n *Node) libp2pID(id identity.NodeID) (peer.ID, bool) {
	if p, ok := n.Book().PeerID(id); ok {
		return p, true
	}
	for _, a := range n.Book().Addresses(id) {
		if p, ok := a.PeerID(); ok {
			return p, true
		}
	}
	return "", false
}

// resolveDNSAddr asks DNS which peer a bare /dnsaddr name stands for.
func (n *Node) resolveDNSAddr(ctx context.Context, s string) (peer.ID, []ma.Multiaddr, error) {
	a, err := ma.NewMultiaddr(s)
	if err != nil {
		return "", nil, usage("%q is not an address: %v", s, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	found, err := n.names.ResolveDNSAddr(ctx, "", a, dnsDepth, dnsMaxAddrs)
	if err != nil {
		return "", nil, fmt.Errorf("cannot look up %s: %w", s, err)
	}
	infos, err := peer.AddrInfosFromP2pAddrs(slices.DeleteFunc(found, func(a ma.Multiaddr) bool {
		_, id := peer.SplitAddr(a)
		return id == ""
	})...)
	switch {
	case err != nil:
		return "", nil, fmt.Errorf("cannot look up %s: %w", s, err)
	case len(infos) == 0:
		return "", nil, fmt.Errorf("%w: %s names no peer; its TXT records must read dnsaddr=/ip4/.../p2p/ID", ErrUnknownPeer, s)
	case len(infos) > 1:
		return "", nil, usage("%s names %d peers; add /p2p/ID to say which one", s, len(infos))
	}
	return infos[0].ID, infos[0].Addrs, nil
}

// resolve looks up the names in an address of a peer.
func (n *Node) resolve(ctx context.Context, id peer.ID, a ma.Multiaddr) ([]ma.Multiaddr, error) {
	if len(a) > 0 && a[0].Code() == ma.P_DNSADDR {
		return n.names.ResolveDNSAddr(ctx, id, a, dnsDepth, dnsMaxAddrs)
	}
	return n.names.ResolveDNSComponent(ctx, a, dnsMaxAddrs)
}

// usageError is an error that is the caller's, as errors.Is(err, ErrUsage).
type usageError struct{ err error }

func (e *usageError) Error() string        { return plainText(e.err.Error()) }
func (e *usageError) Unwrap() error        { return e.err }
func (e *usageError) Is(target error) bool { return target == ErrUsage }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// plain keeps an error's identity and takes the package name off its text,
// which is for a person.
func plain(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return err
	}
	if t := plainText(err.Error()); t != err.Error() {
		return &plainError{t, err}
	}
	return err
}

type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

func plainText(s string) string {
	for {
		i := strings.Index(s, ": ")
		if i < 0 || !slices.Contains([]string{"kith", "tunnel", "address", "identity", "state", "stream", "host", "access", "discovery", "p2p", "libp2p", "addrbook", "rpc", "dispatch", "gossip", "routing"}, s[:i]) {
			return s
		}
		s = s[i+2:]
	}
}
