package kith

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/discovery"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// What people write to name a peer, and what they are told to write instead.
// Package address says what is wrong with a text; here it is known what for it was
// given.

// anID stands for a peer ID in examples, and anAddress for an address.
const (
	anID      = "12D3KooW..."
	anAddress = "/ip4/192.0.2.7/tcp/4001/p2p/" + anID
)

// ParseAddress reads the address of a peer that a person wrote, for what dials by
// addresses: Remember, AddBootstrap. The error says what to write instead; it is
// ErrUsage, also for an address that none of the node's transports can dial.
func (n *Node) ParseAddress(s string) (address.NodeAddress, error) {
	a, err := address.Parse(s)
	if err != nil {
		return a, badAddress(strings.TrimSpace(s), err)
	}
	if ps := n.protocols(); !slices.Contains(ps, a.Protocol) {
		if a.Protocol == address.MConn {
			return a, usage("%q is an address for %s, which only a program can give a node; for libp2p write one like %s", s, a.Protocol, anAddress)
		}
		return a, usage("%q is an address for %s, which this node does not speak; write one like %s", s, a.Protocol, anAddress)
	}
	return a, nil
}

// badAddress says what is wrong with what was given for an address that can be
// dialled.
func badAddress(s string, err error) error {
	w, say := written(s), func(format string, args ...any) error { return saying(err, format, args...) }
	switch _, isNodeID := identity.ParseNodeID(s); {
	case s == "":
		return say("no address was given; write one like %s", anAddress)
	case isPeerID(s) && !strings.HasPrefix(s, "12D3KooW"):
		return say("%s has no Ed25519 key, and so no place in the address book; connect to it with `kith dial` and its address", w)
	case isNodeID == nil, isPeerID(s):
		return say("%s says who, and not where: write an address that ends in it, such as %s", w, strings.Replace(anAddress, anID, s, 1))
	case strings.HasPrefix(s, "/dnsaddr/") && !names(s):
		return say("%q may stand for any peers: add /p2p/ and the ID of the one that is meant (`kith bootstrap add` takes the name alone)", w)
	case isWeb(s), !strings.HasPrefix(s, "/") && !names(s) && placeOf(s) == "":
		return say("%q is no address of a peer; write one like %s", w, anAddress)
	case placeOf(s) != "":
		return say("%q says where, and not who: it has to end in the peer's ID, such as %s (`kith status` prints it there)", w, placeOf(s)+"/p2p/"+anID)
	}
	return say("%s; write an address like %s", fault(err), anAddress)
}

// badLine says what is wrong with a line of the bootstrap list.
func badLine(s string, err error) error {
	s = strings.TrimSpace(s)
	if isName(s) {
		return saying(err, "%q is no name that the DNS could know; write one like /dnsaddr/nodes.example.org", written(s))
	}
	if e, ok := errors.AsType[*discovery.LineError](err); ok {
		err = e.Err
	}
	return badAddress(s, err)
}

// badPeer says what is wrong with what was given to name a peer.
func badPeer(s string, err error) error {
	w, say := written(s), func(format string, args ...any) error { return saying(err, format, args...) }
	switch before, _, at := strings.Cut(s[strings.Index(s, "//")+1:], "@"); {
	case s == "", strings.Contains(s, ","):
		return say("%s", fault(err))
	case isWeb(s):
		return say("%q: a web address names no peer; %s", w, aPeer)
	case strings.Trim(s, "/") == "":
		return say("%q names no peer; %s", w, aPeer)
	case placeOf(s) != "":
		return say("%q says where, and not who: write an address that ends in the peer's ID, such as %s, or the ID alone (`kith id` prints it there)",
			w, placeOf(s)+"/p2p/"+anID)
	case at && errors.Is(err, address.ErrPeerIDRequired):
		if id := strings.TrimPrefix(before, "/"); isPeerID(id) {
			_, host, _ := strings.Cut(s, "@")
			return say("%q is an address for mconn; for libp2p write libp2p://%s@%s", w, id, host)
		}
		return say("%q has only a node ID, a hash that does not tell the peer's key: write the peer ID (%s; `kith id` prints it there)", w, anID)
	case strings.HasPrefix(s, "12D3KooW") && len(s) != peerIDLength && !strings.ContainsAny(s, ":/@"):
		return say("%q is not a peer ID: it has %d characters, a whole one has %d", w, len(s), peerIDLength)
	case !strings.ContainsAny(s, ":/@"):
		return say("%q is not a peer ID, such as %s (`kith id` prints it there), nor an address that ends in one", w, anID)
	}
	return say("%s (a peer is written like %s or %s, as `kith id` and `kith status` print it there)", fault(err), anID, anAddress)
}

// aPeer says how a peer is written.
const aPeer = "write its peer ID, such as " + anID + " (`kith id` prints it there), or an address that ends in one, such as " + anAddress

// badSocket says what is wrong with what was given for a local socket.
func badSocket(err error) error {
	return saying(err, "%s (a local socket is written like 3000, 127.0.0.1:3000 or unix:/run/web.sock)", fault(err))
}

// badMultiaddr says so of a text that has to be the multiaddr of a local socket or a
// peer, as mounts are listed by.
func badMultiaddr(s string, err error) error {
	return saying(err, "%q is not a multiaddr; write one like /ip4/127.0.0.1/tcp/3000, as `kith p2p ls` prints them", written(s))
}

// peerIDLength is how many characters the peer ID of an Ed25519 key has.
const peerIDLength = 52

func isWeb(s string) bool {
	scheme, _, _ := strings.Cut(strings.ToLower(s), "://")
	return scheme == "http" || scheme == "https"
}

func isPeerID(s string) bool {
	_, err := peer.Decode(s)
	return err == nil
}

// names says that a text looks as if it said who.
func names(s string) bool {
	return strings.Contains(s, "@") || strings.Contains(s, "/p2p/") || strings.Contains(s, "/ipfs/")
}

// placeOf is the multiaddr of a place that was given without saying who is there;
// "" if it is nothing of the kind.
func placeOf(s string) string {
	if names(s) || s == "" || len(s) > 255 {
		return ""
	}
	if strings.HasPrefix(s, "/") {
		m, err := ma.NewMultiaddr(s)
		if err != nil || len(m) < 2 || !slices.Contains([]int{ma.P_IP4, ma.P_IP6, ma.P_DNS, ma.P_DNS4, ma.P_DNS6}, m[0].Code()) {
			return ""
		}
		return m.String()
	}
	_, after, isURL := strings.Cut(s, "://")
	if !isURL {
		after = s
	}
	host, port, noPort := net.SplitHostPort(after)
	if noPort != nil {
		host, port = strings.Trim(after, "[]"), "4001"
	}
	kind := "dns"
	switch ip, err := netip.ParseAddr(host); {
	case err == nil && ip.Is4():
		kind = "ip4"
	case err == nil:
		kind = "ip6"
	case noPort != nil && !isURL:
		return "" // a word
	}
	m, err := ma.NewMultiaddr("/" + kind + "/" + host + "/tcp/" + port)
	if err != nil {
		return ""
	}
	return m.String()
}

// fault is an error of package address for a person: what was read, and what is
// wrong with it.
func fault(err error) string {
	if e, ok := errors.AsType[*address.ParseError](err); ok {
		return fmt.Sprintf("%q: %s", e.Input, strings.TrimPrefix(plainText(e.Err.Error()), "multiaddr: "))
	}
	return plainText(err.Error())
}

// saying is an ErrUsage with words of its own; what was written is cut to 120 bytes
// in them.
func saying(err error, format string, args ...any) error {
	for i, a := range args {
		if s, ok := a.(written); ok {
			args[i] = string(s[:min(len(s), 120)])
		}
	}
	return &usageError{&plainError{fmt.Sprintf(format, args...), err}}
}

// written is what a person wrote, of any length.
type written string
