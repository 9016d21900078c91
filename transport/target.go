package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// target is an address taken apart: a place of an IP or name with a port, a unix socket, or a peer.
type target struct {
	ip     netip.Addr // with its zone; or
	name   string     // a hostname, of which IPs of
	family string     // "dns4" and "dns6" want one family, "dns" any
	port   uint16

	path string // of a unix socket

	peer peer.AddrInfo // ID is "" if it is no peer
}

// errEmpty is the fault of an address without components.
var errEmpty = errors.New("the address is empty")

// parse takes addr apart and refuses whatever would not be honoured. Errors are *AddressError.
func parse(addr ma.Multiaddr) (target, error) {
	if err := checkSize(addr); err != nil {
		return target{}, &AddressError{Err: err}
	}
	t, err := parseTarget(addr)
	if err != nil {
		return target{}, addressError(addr, err)
	}
	return t, nil
}

// maxValue is the most bytes that a component may have: a hostname's 254, rounded up.
const maxValue = 255

// checkSize bounds all later work, even printing: base58 takes quadratic time.
func checkSize(addr ma.Multiaddr) error {
	total := 0
	for i := range addr {
		n := len(addr[i].RawValue())
		if n > maxValue {
			return fmt.Errorf("component %d of the address, /%s, has %d bytes, at most %d are allowed", i+1, addr[i].Protocol().Name, n, maxValue)
		}
		if total += n + 1; total > address.MaxLength {
			return fmt.Errorf("the address has more than %d bytes", address.MaxLength)
		}
	}
	return nil
}

func addressError(addr ma.Multiaddr, err error) error {
	return &AddressError{Addr: clip(addr.String()), Err: err}
}

func unsupported(c *ma.Component, reason string) error {
	return &address.UnsupportedError{Component: c.Protocol().Name, Reason: reason}
}

func parseTarget(addr ma.Multiaddr) (t target, err error) {
	if len(addr) == 0 {
		return t, errEmpty
	}
	for i := range addr {
		if addr[i].Code() == 0 {
			return t, fmt.Errorf("component %d is empty", i+1)
		}
	}
	switch last := &addr[len(addr)-1]; {
	case addr[0].Code() == ma.P_UNIX:
		t.path, err = parseUnix(addr)
	case last.Code() == ma.P_P2P:
		t.peer, err = parsePeer(addr)
	default:
		err = t.parsePlace(addr)
	}
	return t, err
}

// maxUnixPath is the longest path of a unix socket on Linux; where it is shorter the system says so.
const maxUnixPath = 107

func parseUnix(addr ma.Multiaddr) (string, error) {
	path := addr[0].Value()
	switch {
	case len(addr) > 1:
		return "", unsupported(&addr[1], "nothing can follow the path of a unix socket")
	case strings.Contains(path, "\x00"):
		return "", errors.New("the path of the unix socket has a NUL byte")
	case len(path) > maxUnixPath:
		return "", fmt.Errorf("the path of the unix socket has %d bytes, at most %d are allowed", len(path), maxUnixPath)
	}
	return path, nil
}

// parsePeer reads what package address knows libp2p hosts to dial.
func parsePeer(addr ma.Multiaddr) (peer.AddrInfo, error) {
	text := addr.String()
	if len(text) > address.MaxLength {
		return peer.AddrInfo{}, fmt.Errorf("%d bytes long, at most %d are allowed", len(text), address.MaxLength)
	}
	if again, err := ma.NewMultiaddr(text); err != nil || !again.Equal(addr) {
		return peer.AddrInfo{}, errors.New("it does not mean what its text says")
	}
	id, at, err := address.ParsePeer(text)
	if err != nil {
		if pe, ok := errors.AsType[*address.ParseError](err); ok {
			err = pe.Err // ours names the address already
		}
		return peer.AddrInfo{}, err
	}
	return peer.AddrInfo{ID: id, Addrs: at}, nil
}

// parsePlace reads [/ip6zone/Z] /ip4|ip6|dns|dns4|dns6/... /tcp/PORT and nothing more.
func (t *target) parsePlace(addr ma.Multiaddr) error {
	var zone *ma.Component
	if addr[0].Code() == ma.P_IP6ZONE {
		zone, addr = &addr[0], addr[1:]
		if len(addr) == 0 || addr[0].Code() != ma.P_IP6 {
			return unsupported(zone, "it stands before /ip6 only")
		}
	}
	head := &addr[0]
	switch head.Code() {
	case ma.P_IP4, ma.P_IP6:
		ip, ok := netip.AddrFromSlice(head.RawValue())
		if !ok {
			return fmt.Errorf("/%s is no IP address", head.Protocol().Name)
		}
		if zone != nil {
			if !ip.IsLinkLocalUnicast() || ip.Is4In6() {
				return unsupported(zone, "only link-local addresses have a zone (fe80::...)")
			}
			ip = ip.WithZone(zone.Value())
		}
		t.ip = ip.Unmap()
	case ma.P_DNS, ma.P_DNS4, ma.P_DNS6:
		t.name, t.family = head.Value(), head.Protocol().Name
		if t.name == "" || len(t.name) > 254 { // with the final dot
			return fmt.Errorf("the name has %d characters, 1 to 254 are allowed", len(t.name))
		}
		if i := strings.IndexFunc(t.name, notInName); i >= 0 {
			return fmt.Errorf("the name has %q in it; names hold a-z, 0-9, '-', '_' and '.' (others are written xn--...)", t.name[i])
		}
	default:
		return unsupported(head, "a byte stream goes to /ip4, /ip6, /dns, /dns4, /dns6 with /tcp, to /unix, or to what ends in /p2p/ID")
	}
	if len(addr) < 2 {
		return unsupported(head, "it lacks a port: add /tcp/PORT")
	}
	switch c := &addr[1]; {
	case c.Code() == ma.P_UDP && len(addr) == 2:
		return unsupported(c, "alone it carries packets, no byte stream")
	case c.Code() == ma.P_UDP: // the fault is seen best in what was meant to go over it
		return unsupported(&addr[2], "over udp only a libp2p host dials: add /p2p/ID, and use quic-v1")
	case c.Code() != ma.P_TCP:
		return unsupported(c, "after the host comes /tcp/PORT")
	}
	if len(addr) > 2 {
		return unsupported(&addr[2], "it would not be honoured: plain TCP has nothing after the port; a libp2p host dials it with /p2p/ID at the end")
	}
	port, err := strconv.ParseUint(addr[1].Value(), 10, 16)
	if err != nil {
		return fmt.Errorf("the port is not between 0 and 65535: %w", err)
	}
	t.port = uint16(port)
	return nil
}

func notInName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
}

// HostPort returns the place of a TCP address as net.Dial writes it: 1.2.3.4:4001, [::1]:4001, [fe80::1%eth0]:4001,
// example.com:4001. It looks nothing up. Any other address is an *AddressError: there is no host and port that would
// mean the same.
func HostPort(addr ma.Multiaddr) (string, error) {
	t, err := parse(addr)
	if err != nil {
		return "", err
	}
	host := t.name
	switch {
	case t.ip.IsValid():
		host = t.ip.String()
	case host == "":
		return "", addressError(addr, unsupported(&addr[len(addr)-1], "only a TCP address has a host and port"))
	}
	return net.JoinHostPort(host, strconv.Itoa(int(t.port))), nil
}
