package address

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	ma "github.com/multiformats/go-multiaddr"
)

// maxUnixPath is the longest path of a unix socket on Linux; where it is shorter, the system says so when binding.
const maxUnixPath = 107

// TargetMultiaddr reads what a person gives to name a socket on or near this machine, to bind or to connect to:
//
//	3000, :3000           TCP on 127.0.0.1 (to listen on all interfaces say 0.0.0.0:3000)
//	host:3000, [::1]:3000 TCP; a name becomes /dns/name
//	tcp:..., udp:...      any of the above, for TCP or UDP
//	unix:/path            a unix socket; the path must be absolute, since who binds it may be another process
//	/ip4/.../tcp/3000     a multiaddr: ip4, ip6, dns, dns4 or dns6 with tcp or udp, or /unix/path, and nothing more
//
// The result has two components, or the one of /unix. Port 0 is allowed (to bind any port); whether it makes sense is
// for the caller to say. Errors are *ParseError, with *UnsupportedError for a multiaddr of another shape.
func TargetMultiaddr(s string) (ma.Multiaddr, error) {
	s = strings.TrimSpace(s)
	m, err := parseTarget(s)
	if err != nil {
		return nil, parseError(s, err)
	}
	return m, nil
}

func parseTarget(s string) (ma.Multiaddr, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		// As a URL: unix:///run/x is fine, in unix://run/x "run" would be a host.
		return unixTarget(strings.TrimPrefix(path, "//"))
	}
	if path, ok := strings.CutPrefix(s, "/unix"); ok && (path == "" || path[0] == '/') {
		return unixTarget(path)
	}
	if err := checkText(s); err != nil {
		return nil, err
	}
	if s[0] == '/' {
		m, err := parseMultiaddr(s)
		if err != nil {
			return nil, err
		}
		return socketTarget(m)
	}
	network, rest := "tcp", s
	if i := strings.IndexByte(s, ':'); i > 0 {
		switch scheme := strings.ToLower(s[:i]); scheme {
		case "tcp", "udp":
			network, rest = scheme, strings.TrimPrefix(s[i+1:], "//")
		case "http", "https":
			if strings.HasPrefix(s[i:], "://") {
				return nil, errors.New("a web address is no socket; write its host and port only, such as 127.0.0.1:3000")
			}
		}
	}
	if rest == "" {
		return nil, fmt.Errorf("host and port are missing; write %s:host:port", network)
	}
	if isNumber(rest) {
		rest = ":" + rest
	}
	host, port, hasPort, err := splitHostPort(rest)
	if err != nil {
		return nil, err
	}
	if !hasPort {
		return nil, errors.New("port is missing; write 3000, host:3000 or unix:/path")
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return hostTarget("dns", host, network, port)
}

// unixTarget makes /unix/path. A path may hold any byte but NUL, which no system can open.
func unixTarget(path string) (ma.Multiaddr, error) {
	switch {
	case path == "":
		return nil, errors.New("path is missing; write unix:/path/to/socket")
	case path[0] != '/':
		return nil, fmt.Errorf("path %q is relative; write the absolute path: unix:/path/to/socket", clip(path))
	case strings.HasSuffix(path, "/"):
		return nil, errors.New("path ends in /, a socket is no folder")
	case strings.Contains(path, "\x00"):
		return nil, errors.New("path has a NUL byte")
	}
	path = "/" + strings.TrimLeft(path, "/") // so that HumanAddr never prints what looks like a URL
	switch {
	case path == "/":
		return nil, errors.New("path ends in /, a socket is no folder")
	case len(path) > maxUnixPath:
		return nil, fmt.Errorf("path has %d bytes, a unix socket's has at most %d", len(path), maxUnixPath)
	}
	c, err := ma.NewComponent("unix", path)
	if err != nil {
		return nil, err
	}
	return c.Multiaddr(), nil
}

// socketTarget accepts a host and a port of a multiaddr, and nothing after them.
func socketTarget(m ma.Multiaddr) (ma.Multiaddr, error) {
	name := m[0].Protocol().Name
	switch m[0].Code() {
	case ma.P_IP4, ma.P_IP6, ma.P_DNS, ma.P_DNS4, ma.P_DNS6:
	default:
		return nil, &UnsupportedError{Component: name, Reason: "a local socket begins with ip4, ip6, dns, dns4, dns6 or unix"}
	}
	if len(m) < 2 {
		return nil, errors.New("port is missing; add /tcp/PORT or /udp/PORT")
	}
	network := m[1].Protocol().Name
	if network != "tcp" && network != "udp" {
		return nil, &UnsupportedError{Component: network, Reason: "after the host comes /tcp/PORT or /udp/PORT"}
	}
	if len(m) > 2 {
		return nil, &UnsupportedError{Component: m[2].Protocol().Name, Reason: "a local socket is plain TCP or UDP, nothing follows the port"}
	}
	return hostTarget(name, m[0].Value(), network, m[1].Value())
}

// hostTarget makes the canonical multiaddr; kind is that of a name.
func hostTarget(kind, host, network, port string) (ma.Multiaddr, error) {
	host, isIP, err := parseHost(host)
	if err != nil {
		return nil, err
	}
	n, err := parsePort(port)
	if err != nil {
		return nil, err
	}
	switch {
	case isIP && (kind == "dns4" || kind == "dns6"):
		return nil, fmt.Errorf("/%s is for names, %s is an IP address", kind, host)
	case isIP && strings.Contains(host, ":"):
		kind = "ip6"
	case isIP:
		kind = "ip4"
	}
	return parseMultiaddr("/" + kind + "/" + host + "/" + network + "/" + strconv.Itoa(int(n)))
}

// HumanAddr prints the address of a socket in the short spelling that TargetMultiaddr reads back: 127.0.0.1:3000,
// [::1]:3000, localhost:3000, udp:127.0.0.1:53, unix:/path. Whatever has none, /dns4 among them, stays a multiaddr.
func HumanAddr(m ma.Multiaddr) string {
	if len(m) == 1 && m[0].Code() == ma.P_UNIX {
		return "unix:" + m[0].Value()
	}
	if len(m) != 2 {
		return m.String()
	}
	prefix := ""
	switch m[1].Code() {
	case ma.P_TCP:
	case ma.P_UDP:
		prefix = "udp:"
	default:
		return m.String()
	}
	host := m[0].Value()
	switch m[0].Code() {
	case ma.P_IP4, ma.P_IP6:
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return m.String()
		}
		if host = ip.Unmap().String(); strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
	case ma.P_DNS:
		if canonical, isIP, err := parseHost(host); err != nil || isIP || canonical != host {
			return m.String()
		}
	default:
		return m.String()
	}
	return prefix + host + ":" + m[1].Value()
}
