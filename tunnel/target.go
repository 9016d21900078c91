package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// checkSocket says whether a is a local socket that can be listened on or
// dialled: /ip4|ip6|dns|dns4|dns6/.../tcp/PORT or /unix/PATH, and nothing more.
func checkSocket(a ma.Multiaddr) error {
	if len(a) == 0 {
		return fmt.Errorf("%w: it is empty", ErrAddress)
	}
	var codes []int
	for _, c := range a {
		codes = append(codes, c.Protocol().Code)
	}
	if len(codes) > 1 && codes[0] == ma.P_IP6ZONE {
		codes = codes[1:]
	}
	switch {
	case len(codes) == 1 && codes[0] == ma.P_UNIX:
		return nil
	case len(codes) >= 2 && isHostCode(codes[0]) && codes[1] == ma.P_UDP:
		return fmt.Errorf("%w: %s: UDP cannot be carried yet; give a TCP or unix socket", ErrAddress, a)
	case len(codes) < 2 || !isHostCode(codes[0]) || codes[1] != ma.P_TCP:
		return fmt.Errorf("%w: %s is neither a TCP nor a unix socket, such as /ip4/127.0.0.1/tcp/3000 or /unix/run/web.sock", ErrAddress, a)
	case len(codes) > 2:
		return fmt.Errorf("%w: %s: %q cannot be carried; end the address after the port", ErrAddress, a, ma.Join(a[2:]).String())
	}
	return nil
}

func isHostCode(c int) bool {
	return c == ma.P_IP4 || c == ma.P_IP6 || c == ma.P_DNS || c == ma.P_DNS4 || c == ma.P_DNS6
}

func port(a ma.Multiaddr) string {
	p, _ := a.ValueForProtocol(ma.P_TCP)
	return p
}

// targetDialer connects to a service's local target. It may be used
// concurrently.
type targetDialer struct {
	dialer        net.Dialer
	network, addr string
	limits        *limiter
	err           error // the target cannot be dialled
}

func newTargetDialer(target ma.Multiaddr, lim *limiter) *targetDialer {
	d := &targetDialer{limits: lim, dialer: net.Dialer{KeepAlive: keepAlive(target)}}
	d.network, d.addr, d.err = manet.DialArgs(target)
	if ip, err := netip.ParseAddrPort(d.addr); err == nil && strings.HasPrefix(d.network, "tcp") {
		d.dialer.Control = earlyConnect(ip)
	}
	return d
}

// dial connects. The error's Detail is what the peer may know; its Err is for
// our own log.
func (d *targetDialer) dial(ctx context.Context) (net.Conn, *Error) {
	ctx, cancel := context.WithTimeout(ctx, d.limits.ConnectTimeout)
	defer cancel()
	err := d.err
	var c net.Conn
	if err == nil {
		c, err = d.dialer.DialContext(ctx, d.network, d.addr)
	}
	if err == nil {
		return c, nil
	}
	e := &Error{Reason: ReasonTarget, Err: err}
	_, noName := errors.AsType[*net.DNSError](err)
	switch {
	case d.err != nil:
		e.Detail = "the service is misconfigured; expose it again with a target that can be dialled"
	case noName:
		e.Detail = targetUnreachable
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Detail = "the service's target is not running (connection refused); " + startTarget
	case errors.Is(err, os.ErrNotExist):
		e.Detail = "the service's target is not running (its socket does not exist); " + startTarget
	case errors.Is(err, context.DeadlineExceeded), os.IsTimeout(err):
		e.Detail = fmt.Sprintf("the service's target did not accept within %v; see on the machine that exposes the service whether it hangs", d.limits.ConnectTimeout)
	default:
		e.Detail = targetUnreachable
	}
	return nil, e
}

// What a peer may know of a target is also what it can tell its owner.
const (
	startTarget       = "start it on the machine that exposes the service (`kith ls` there says where it leads)"
	targetUnreachable = "the service's target cannot be reached; `kith ls` on the machine that exposes the service says why"
)

// OwnerText is e.Error() for the owner of a service, who may also know why its
// target cannot be reached. No peer should see it.
func OwnerText(e *Error) string {
	if e.Reason != ReasonTarget || e.Remote || e.Err == nil || e.Detail != targetUnreachable {
		return e.Error()
	}
	why := rootCause(e.Err)
	if dns, ok := errors.AsType[*net.DNSError](e.Err); ok {
		why = dns.Name + ": " + oneLine(dns.Err)
	}
	return e.Reason.String() + ": the service's target cannot be reached: " + why + "; correct the target, or what is in its way"
}

// keepAlive says how TCP looks after a socket that leads to a: as the system
// has it, but not at all within this machine, where nothing is lost in silence
// and setting it up is a good part of what a short connection costs.
func keepAlive(a ma.Multiaddr) time.Duration {
	if manet.IsIPLoopback(a) {
		return -1
	}
	return 0
}

func peerAddr(p peer.ID) ma.Multiaddr {
	c, err := ma.NewComponent("p2p", p.String())
	if err != nil {
		return nil
	}
	return c.Multiaddr()
}

// socketAddr is the multiaddr of a local socket's address. An unnamed unix
// socket, as a client has, gives the fallback.
func socketAddr(a net.Addr, fallback ma.Multiaddr) ma.Multiaddr {
	if u, ok := a.(*net.UnixAddr); ok && (u.Name == "" || u.Name == "@") {
		return fallback
	}
	m, err := manet.FromNetAddr(a)
	if err != nil {
		return fallback
	}
	return m
}

// addrPort is the IP address and port in a, if it has them.
func addrPort(a ma.Multiaddr) (netip.AddrPort, bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.AddrPort{}, false
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.AddrPort{}, false
	}
	var n uint16
	for _, code := range []int{ma.P_TCP, ma.P_UDP} {
		if s, err := a.ValueForProtocol(code); err == nil {
			fmt.Sscan(s, &n)
		}
	}
	return netip.AddrPortFrom(addr.Unmap(), n), true
}
