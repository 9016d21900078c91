package p2p

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// What a NodeInfo may hold. CometBFT's wire allows 10,240 bytes in all.
const (
	// MaxNodeInfoChannels is the most channels a node announces. A CometBFT node
	// takes at most 16; the mconn transport picks those.
	MaxNodeInfoChannels = 256
	// MaxNodeInfoString is the most bytes of each text in a NodeInfo.
	MaxNodeInfoString = 1024
	// MaxNodeInfoAddresses is the most listen addresses beside ListenAddr.
	MaxNodeInfoAddresses = 32
)

// ErrNodeInfo is matched by every error of NodeInfo.Validate.
var ErrNodeInfo = errors.New("p2p: invalid node info")

// A NodeInfoError says which field of a NodeInfo is wrong, and how. It matches
// ErrNodeInfo and what caused it.
type NodeInfoError struct {
	Field string // as in NodeInfo, "Other.TxIndex" for example
	Err   error
}

// Error names field and fault.
func (e *NodeInfoError) Error() string { return fmt.Sprintf("p2p: node info: %s: %v", e.Field, e.Err) }

// Unwrap returns ErrNodeInfo and the fault.
func (e *NodeInfoError) Unwrap() []error { return []error{ErrNodeInfo, e.Err} }

// Validate checks what a node says of itself, our own or a peer's, by CometBFT's
// rules but one: the host of the listen address is not looked up, so it does not
// block. Lengths and counts come first: nothing is compared or repeated before it
// is known to be short. It does not say whether the NodeID belongs to the key;
// the handshake proves that. Errors are *NodeInfoError.
//
//	NodeID       40 lowercase hex characters
//	ListenAddr   host:port, with an optional tcp://; 0.0.0.0:0 when there is none
//	Network      may be empty
//	Version      empty or printable ASCII
//	Moniker      printable ASCII, and not only spaces
//	Channels     at most MaxNodeInfoChannels, none twice
//	Other        TxIndex "", "on" or "off"; RPCAddress empty or printable ASCII
//	Extensions   RequestChannels as Channels; addresses and IPs short and printable
func (n NodeInfo) Validate() error {
	if field, err := n.checkLengths(); err != nil {
		return &NodeInfoError{field, err}
	}
	for _, check := range []struct {
		field string
		err   error
	}{
		{"NodeID", n.NodeID.Validate()},
		{"ListenAddr", checkListenAddr(n.ListenAddr)},
		{"Version", checkText(n.Version, true)},
		{"Moniker", checkText(n.Moniker, false)},
		{"Channels", checkDuplicates(n.Channels)},
		{"Other.TxIndex", checkTxIndex(n.Other.TxIndex)},
		{"Other.RPCAddress", checkText(n.Other.RPCAddress, true)},
		{"Extensions.RequestChannels", checkDuplicates(n.Extensions.RequestChannels)},
		{"Extensions.Observed", checkObserved(n.Extensions.Observed)},
	} {
		if check.err != nil {
			return &NodeInfoError{check.field, check.err}
		}
	}
	for _, a := range n.Extensions.ListenAddrs {
		if err := checkText(a, false); err != nil {
			return &NodeInfoError{"Extensions.ListenAddrs", err}
		}
	}
	return nil
}

func (n NodeInfo) checkLengths() (field string, err error) {
	for _, count := range []struct {
		field   string
		n, most int
	}{
		{"Channels", len(n.Channels), MaxNodeInfoChannels},
		{"Extensions.RequestChannels", len(n.Extensions.RequestChannels), MaxNodeInfoChannels},
		{"Extensions.ListenAddrs", len(n.Extensions.ListenAddrs), MaxNodeInfoAddresses},
	} {
		if count.n > count.most {
			return count.field, fmt.Errorf("%d of them, at most %d are allowed", count.n, count.most)
		}
	}
	texts := []struct{ field, text string }{
		{"NodeID", string(n.NodeID)}, {"ListenAddr", n.ListenAddr}, {"Network", n.Network}, {"Version", n.Version},
		{"Moniker", n.Moniker}, {"Other.TxIndex", n.Other.TxIndex}, {"Other.RPCAddress", n.Other.RPCAddress},
		{"Extensions.Observed", n.Extensions.Observed},
	}
	for _, a := range n.Extensions.ListenAddrs {
		texts = append(texts, struct{ field, text string }{"Extensions.ListenAddrs", a})
	}
	for _, t := range texts {
		if len(t.text) > MaxNodeInfoString {
			return t.field, fmt.Errorf("%d bytes, at most %d are allowed", len(t.text), MaxNodeInfoString)
		}
	}
	return "", nil
}

func checkListenAddr(addr string) error {
	const want = `want host:port, or "0.0.0.0:0" for a node that does not listen`
	if addr == "" {
		return errors.New("empty; " + want)
	}
	if _, rest, ok := strings.Cut(addr, "://"); ok {
		addr = rest
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q: %s", clipText(addr), want)
	}
	if err := checkText(host, false); err != nil || strings.ContainsAny(host, " /@") {
		return fmt.Errorf("host %q: %s", clipText(host), want)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is not a number from 0 to 65535", clipText(port))
	}
	return nil
}

// checkText wants printable ASCII that is more than spaces, or nothing at all.
func checkText(s string, mayBeEmpty bool) error {
	if s == "" && mayBeEmpty {
		return nil
	}
	if strings.Trim(s, " ") == "" {
		return errors.New("empty")
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return fmt.Errorf("byte %#02x at position %d is not printable ASCII", s[i], i+1)
		}
	}
	return nil
}

func checkTxIndex(s string) error {
	if s != "" && s != "on" && s != "off" {
		return fmt.Errorf("%q, want nothing, \"on\" or \"off\"", clipText(s))
	}
	return nil
}

func checkObserved(s string) error {
	if s == "" {
		return nil
	}
	if _, err := netip.ParseAddr(s); err != nil {
		return fmt.Errorf("%q is not an IP address", clipText(s))
	}
	return nil
}

func checkDuplicates(ids []ChannelID) error {
	seen := make(ChannelIDSet, len(ids))
	for _, id := range ids {
		if seen.Contains(id) {
			return fmt.Errorf("%#02x is there twice", uint16(id))
		}
		seen[id] = struct{}{}
	}
	return nil
}

// clipText bounds what an error repeats of a peer's words.
func clipText(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// ErrIncompatible is matched by every error of NodeInfo.CompatibleWith.
var ErrIncompatible = errors.New("p2p: incompatible peer")

// Mismatch says in what two nodes differ.
type Mismatch uint8

// The mismatches, in the order they are looked for.
const (
	// MismatchBlock: the versions of their blocks differ. It may pass: one of the
	// two may be upgraded.
	MismatchBlock Mismatch = iota
	// MismatchNetwork: they are of different networks. It does not pass.
	MismatchNetwork
	// MismatchChannels: they have no channel in common.
	MismatchChannels
)

// String names what differs.
func (m Mismatch) String() string {
	switch m {
	case MismatchBlock:
		return "block version"
	case MismatchNetwork:
		return "network"
	case MismatchChannels:
		return "channels"
	}
	return fmt.Sprintf("mismatch-%d", uint8(m))
}

// An IncompatibleError says why two nodes cannot be peers. It matches
// ErrIncompatible.
type IncompatibleError struct {
	Mismatch     Mismatch
	Ours, Theirs string // printable and short
}

// Error says what differs, and what each side has.
func (e *IncompatibleError) Error() string {
	if e.Mismatch == MismatchChannels {
		return fmt.Sprintf("p2p: no channel in common: ours are %s, theirs %s", e.Ours, e.Theirs)
	}
	return fmt.Sprintf("p2p: the %s differs: ours is %s, theirs %s", e.Mismatch, e.Ours, e.Theirs)
}

// Is matches ErrIncompatible.
func (e *IncompatibleError) Is(target error) bool { return target == ErrIncompatible }

// CompatibleWith says whether a node, n, can be a peer of another: the block
// versions and the networks are equal, and there is a channel in common, unless n
// announces none. Errors are *IncompatibleError. Both should be valid.
func (n NodeInfo) CompatibleWith(other NodeInfo) error {
	if ours, theirs := n.ProtocolVersion.Block, other.ProtocolVersion.Block; ours != theirs {
		return &IncompatibleError{MismatchBlock, strconv.FormatUint(ours, 10), strconv.FormatUint(theirs, 10)}
	}
	if n.Network != other.Network {
		return &IncompatibleError{MismatchNetwork, strconv.QuoteToASCII(clipText(n.Network)), strconv.QuoteToASCII(clipText(other.Network))}
	}
	common := func(id ChannelID) bool { return slices.Contains(other.Channels, id) }
	if len(n.Channels) > 0 && !slices.ContainsFunc(n.Channels, common) {
		return &IncompatibleError{MismatchChannels, listChannels(n.Channels), listChannels(other.Channels)}
	}
	return nil
}

// listChannels is a short list for people.
func listChannels(ids []ChannelID) string {
	const most = 16
	if len(ids) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, id := range ids {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(ids)-most)
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%#02x", uint16(id))
	}
	return b.String()
}
