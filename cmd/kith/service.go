package main

import "strings"

// aService is an example of PEER/NAME.
const aService = "12D3KooW.../web, which is what `kith expose` prints there"

// splitService splits PEER/NAME. PEER ends
//
//   - for a multiaddr: after its last /p2p/ID, or after the host of a bare
//     /dnsaddr/HOST
//   - for a libp2p URL: after the /p2p/ID in its path, or, when the path has
//     none, after the transport that the path begins with, if any
//   - for anything else (a peer ID): at the first slash
//
// Everything behind the slash that follows is the name. It may hold slashes and
// begin with one: PEER//x/name.
func splitService(arg string) (peer, name string, err error) {
	end := -1
	scheme, _, isURL := strings.Cut(arg, "://")
	switch {
	case isURL && strings.ToLower(scheme) != "libp2p" && !strings.ContainsAny(scheme, "/@"):
		return "", "", usagef("%q names no service of a peer: %s:// is not how a peer is written; write PEER/NAME, such as %s", arg, scheme, aService)
	case strings.HasPrefix(arg, "/"):
		end = multiaddrEnd(arg)
	case strings.HasPrefix(arg, "libp2p:"):
		rest := strings.TrimPrefix(strings.TrimPrefix(arg, "libp2p:"), "//")
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			end = pathEnd(arg, len(arg)-len(rest)+i)
		}
	default:
		end = strings.IndexByte(arg, '/')
	}
	if end <= 0 {
		return "", "", usagef("%q names no service: it must be PEER/NAME, where PEER is a peer ID or an address that ends in /p2p/ID, such as %s", arg, aService)
	}
	peer = arg[:end]
	if name = strings.TrimPrefix(arg[end:], "/"); name == "" {
		return "", "", usagef("%q has no service name after the peer; add a slash and the name that `kith expose` printed", arg)
	}
	return peer, name, nil
}

// component returns what stands between the slash at i and the next one, and
// where it ends; -1 when there is no slash at i.
func component(arg string, i int) (string, int) {
	if i >= len(arg) || arg[i] != '/' {
		return "", -1
	}
	if n := strings.IndexByte(arg[i+1:], '/'); n >= 0 {
		return arg[i+1 : i+1+n], i + 1 + n
	}
	return arg[i+1:], len(arg)
}

func namesPeer(protocol string) bool { return protocol == "p2p" || protocol == "ipfs" }

// peerEnd returns where the peer ID in arg ends whose /p2p is at i and ends at
// at, following a relayed address to its second peer; -1 when no ID follows.
func peerEnd(arg string, at int) int {
	for {
		id, end := component(arg, at)
		if end < 0 || id == "" {
			return -1
		}
		circuit, after := component(arg, end)
		if after < 0 || circuit != "p2p-circuit" {
			return end
		}
		protocol, next := component(arg, after)
		if next < 0 || !namesPeer(protocol) {
			return end
		}
		at = next
	}
}

// multiaddrEnd returns where the peer's multiaddr at the head of arg ends, -1
// when it names no peer.
func multiaddrEnd(arg string) int {
	for i := 0; ; {
		protocol, at := component(arg, i)
		switch {
		case at < 0:
			return -1
		case namesPeer(protocol):
			return peerEnd(arg, at)
		case i == 0 && protocol == "dnsaddr":
			host, end := component(arg, at)
			if end < 0 || host == "" {
				return -1
			}
			if next, after := component(arg, end); after >= 0 && namesPeer(next) {
				return peerEnd(arg, after)
			}
			return end
		}
		i = at
	}
}

// transportWords are the components that a libp2p URL's path may have before
// the peer, and how many components each takes.
var transportWords = map[string]int{
	"tcp": 1, "udp": 1, "quic-v1": 1, "ws": 1, "wss": 1, "tls": 1, "webtransport": 1,
	"sni": 2, "certhash": 2, "dns4": 1, "dns6": 1, "dnsaddr": 1,
}

// pathEnd returns where the address part of a libp2p URL's path, which begins
// at start, ends. Something is left for the name if at all possible.
func pathEnd(arg string, start int) int {
	end := start
	for i := start; ; {
		protocol, at := component(arg, i)
		if at < 0 {
			return end
		}
		if namesPeer(protocol) {
			if at = peerEnd(arg, at); at < 0 {
				return end
			}
			return at
		}
		takes, ok := transportWords[protocol]
		if ok && takes == 2 {
			_, at = component(arg, at)
		}
		if !ok || at < 0 || at == len(arg) {
			return end
		}
		i, end = at, at
	}
}
