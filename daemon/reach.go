package daemon

import (
	"net/netip"
	"strings"
)

// Reach says from where an address can be dialled.
type Reach int

const (
	// ReachAnywhere: a public address, a name or a relay.
	ReachAnywhere Reach = iota
	// ReachLAN: a private or link-local address.
	ReachLAN
	// ReachMachine: a loopback address.
	ReachMachine
)

// String returns "anywhere", "the local network" or "this machine".
func (r Reach) String() string {
	return [...]string{"anywhere", "the local network", "this machine"}[r]
}

// ReachOf tells from where the node behind a full multiaddr can be dialled,
// judged by its first component; text that it cannot judge is ReachAnywhere.
func ReachOf(addr string) Reach {
	ip, ok := firstIP(addr)
	switch {
	case !ok:
		return ReachAnywhere
	case ip.IsLoopback():
		return ReachMachine
	case ip.IsPrivate(), ip.IsLinkLocalUnicast():
		return ReachLAN
	}
	return ReachAnywhere
}

// firstIP returns the IP address that a multiaddr begins with.
func firstIP(addr string) (netip.Addr, bool) {
	parts := strings.SplitN(addr, "/", 4)
	if len(parts) < 3 || parts[0] != "" || parts[1] != "ip4" && parts[1] != "ip6" {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(parts[2])
	return ip.Unmap(), err == nil
}

// connectCommands returns the command that reaches service at each useful
// address of a node: one an IP address, the most useful transport first, and
// each address that is not an IP address. They are for the other side, so none of
// them names this node's home.
func connectCommands(addrs []string, service string) []string {
	commands := make([]string, 0, len(addrs))
	seen := make(map[netip.Addr]bool)
	for _, addr := range addrs {
		if ip, ok := firstIP(addr); ok && !strings.Contains(addr, "/p2p-circuit") {
			if seen[ip] {
				continue
			}
			seen[ip] = true
		}
		commands = append(commands, "kith connect "+ShellQuote(addr+"/"+service))
	}
	return commands
}
