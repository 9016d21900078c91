package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/kith-p2p/kith/internal/race"
	ma "github.com/multiformats/go-multiaddr"
)

// Dial connects to addr (see the package comment for those it takes). It blocks until it has a connection, ctx ends or
// Options.Timeout has passed, whichever is first, also when a resolver or the PeerNetwork does not return by then: what
// they still bring is closed. It waits for no lock.
//
// reset closes the breaker of addr before the dial, so that earlier failures do not hold it back.
//
// Errors: *AddressError for an address that it does not take; *OpenError while the breaker is open; otherwise what
// happened, with the address before it: an error that is context.Canceled or context.DeadlineExceeded when ctx ended,
// the latter also after Options.Timeout; one that is address.ErrNoAddresses when the name has no usable IP; ErrWrongPeer;
// *net.OpError, or what the PeerNetwork returned.
func (t *Multiaddr) Dial(ctx context.Context, addr ma.Multiaddr, reset bool) (Connection, error) {
	to, err := t.dialTarget(addr)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, dialError(addr, err)
	}
	b := t.panel.Lookup(addr)
	if reset {
		b.Reset()
	}
	done, err := b.Allow()
	if err != nil {
		return nil, err
	}
	c, err := t.dialWithin(ctx, to)
	if err == nil {
		done(nil)
		if to.peer.ID != "" {
			return newPeerConn(c, localPeer(c), to.peer.ID), nil
		}
		return newConn(c), nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		done(ctx.Err())
	} else {
		done(&failure{err})
	}
	return nil, dialError(addr, err)
}

func dialError(addr ma.Multiaddr, err error) error {
	return fmt.Errorf("transport: dial %s: %w", clip(addr.String()), err)
}

// failure is an error for a breaker to count even if it is context.Canceled: it was not the caller who cancelled.
type failure struct{ error }

// dialTarget takes addr apart and refuses what can be listened on only, or is not there on this machine.
func (t *Multiaddr) dialTarget(addr ma.Multiaddr) (target, error) {
	to, err := t.target(addr)
	if err == nil && to.port == 0 && to.path == "" && to.peer.ID == "" {
		return to, addressError(addr, errors.New("port 0 cannot be dialled"))
	}
	return to, err
}

// target is parse with what this transport and this machine have.
func (t *Multiaddr) target(addr ma.Multiaddr) (target, error) {
	to, err := parse(addr)
	if err != nil {
		return to, err
	}
	if to.peer.ID != "" && t.opts.Peers == nil {
		return to, addressError(addr, unsupported(&addr[len(addr)-1], "this transport has no PeerNetwork to reach a peer by its ID"))
	}
	if zone := to.ip.Zone(); zone != "" { // the net package takes an unknown zone for none
		if _, err := strconv.Atoi(zone); err != nil {
			if _, err := net.InterfaceByName(zone); err != nil {
				return to, addressError(addr, fmt.Errorf("zone %q: %w", clip(zone), err))
			}
		}
	}
	return to, nil
}

// dialWithin is dialTo, ended by ctx or Options.Timeout whether or not dialTo heeds them.
func (t *Multiaddr) dialWithin(ctx context.Context, to target) (net.Conn, error) {
	within, cancel := context.WithTimeout(ctx, t.opts.Timeout)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	go func() {
		c, err := t.dialTo(within, to)
		select {
		case results <- result{c, err}:
		case <-within.Done(): // nobody waits any more
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	var r result
	select {
	case r = <-results:
	case <-within.Done():
		r.err = within.Err()
	}
	switch {
	case r.err == nil:
		return r.conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case within.Err() != nil:
		return nil, &timeoutError{t.opts.Timeout}
	}
	return nil, r.err
}

// dialTo connects. If it fails, it returns no connection.
func (t *Multiaddr) dialTo(ctx context.Context, to target) (net.Conn, error) {
	switch {
	case to.peer.ID != "":
		return t.dialPeer(ctx, to)
	case to.path != "":
		return t.dialIP(ctx, "unix", systemPath(to.path))
	case to.ip.IsValid():
		return t.dialPort(ctx, netip.AddrPortFrom(to.ip, to.port))
	}
	ips, err := t.resolve(ctx, to)
	if err != nil {
		return nil, err
	}
	return t.race(ctx, ips, to.port)
}

func (t *Multiaddr) dialPeer(ctx context.Context, to target) (net.Conn, error) {
	c, err := t.opts.Peers.DialPeer(ctx, to.peer)
	if err != nil {
		if c != nil {
			_ = c.Close()
		}
		return nil, err
	}
	if c == nil {
		return nil, errors.New("the PeerNetwork returned neither connection nor error")
	}
	if id := remotePeer(c); id != "" && id != to.peer.ID {
		_ = c.Close()
		return nil, fmt.Errorf("%w: %s instead of %s", ErrWrongPeer, id, to.peer.ID)
	}
	return c, nil
}

func (t *Multiaddr) dialPort(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	return t.dialIP(ctx, networkOf(at.Addr()), at.String())
}

func networkOf(ip netip.Addr) string {
	if ip.Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// systemPath turns /c:/x into c:\x on Windows.
func systemPath(path string) string {
	if runtime.GOOS == "windows" {
		return filepath.FromSlash(strings.TrimLeft(path, "/"))
	}
	return path
}

// race connects to the first of ips that answers. It returns after all its attempts have.
func (t *Multiaddr) race(ctx context.Context, ips []netip.Addr, port uint16) (net.Conn, error) {
	conn, won, failed := race.First(ctx, ips, func(ctx context.Context, ip netip.Addr) (net.Conn, error) {
		return t.dialPort(ctx, netip.AddrPortFrom(ip, port))
	})
	if won {
		return conn, nil
	}
	errs := allFailed(slices.DeleteFunc(failed, func(err error) bool { return err == nil }))
	switch len(errs) {
	case 0:
		return nil, ctx.Err()
	case 1:
		return nil, errs[0]
	}
	return nil, errs
}
