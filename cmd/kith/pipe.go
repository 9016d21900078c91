package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// pipe connects standard input and output to a service, through a unix socket
// in the home that lives as long as the call. Half-close travels both ways: the
// end of standard input reaches the service while its answer is still read. A
// connection that was cut is an error that says why.
func (a *app) pipe(ctx context.Context, c *daemon.Client, req *controlv1.ConnectRequest) error {
	path := filepath.Join(c.Home(), "p-"+strings.ToLower(rand.Text()[:6])+".sock") // no longer than control.sock
	req.Listen = "unix:" + path
	req.Check = req.GetWait() == nil // nobody is there to try again later, unless it was asked for
	stop := a.working("connecting to %s", req.GetPeer())
	defer stop()
	res, err := c.Connect(ctx, req)
	if err != nil {
		return err
	}
	defer os.Remove(path) // should the node be gone before it could

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, err := range c.Hold(ctx, res.GetMount().GetId()) {
		if err != nil {
			return err
		}
		stop()
		// Leaving the sequence removes the mount, and with it the reason.
		id := res.GetMount().GetId()
		return a.whyCut(ctx, c, id, a.pump(ctx, path, func() bool { return ended(ctx, c, id) }))
	}
	return errClosedEarly
}

// errClosedEarly: someone closed the mount between its making and its use.
var errClosedEarly = errors.New("another command closed this connection before it was used; run it again")

// errNotRead: the service went away with part of standard input unread.
var errNotRead = errors.New("the service closed the connection before it had read all of standard input; look at the service's own log")

// pump copies standard input to the socket and the socket to standard output,
// each until its end, and closes the socket's write side after the former. On a
// terminal it does not wait for the input's end once the service has finished.
//
// gone says whether the connection is over although standard input is not: the
// service may read on after it has said all, so the end of its answer does not
// tell.
func (a *app) pump(ctx context.Context, path string, gone func() bool) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("cannot use the socket of this connection: %w; run it again", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	// A read of standard input cannot be interrupted: when the service ends
	// first, this goroutine ends with the process.
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, a.stdin)
		if hc, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = hc.CloseWrite()
		}
		sent <- err
	}()
	if _, err := io.Copy(a.stdout, conn); err != nil {
		return err
	}
	if isTerminal(a.stdin) {
		return nil
	}
	tick := time.NewTicker(goneInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-sent:
			if err != nil {
				return errNotRead
			}
			return nil
		case <-tick.C:
			if gone() {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// goneInterval is how often the node is asked while only standard input keeps
// a connection open.
const goneInterval = 200 * time.Millisecond

// ended reports whether the mount's one connection has come and gone.
func ended(ctx context.Context, c *daemon.Client, mount uint64) bool {
	list, err := c.ListMounts(ctx)
	if err != nil {
		return true
	}
	for _, m := range list.GetMounts() {
		if m.GetId() == mount {
			return m.GetConnections() == 0
		}
	}
	return true
}

// settleTime bounds how long a connection that has ended may count as open.
const settleTime = time.Second

// whyCut turns the end of a connection into the reason that the node knows for
// it, if it was cut. On a unix socket a cut looks like an end. The node closes
// the socket a moment before it has noted why, so it is asked until the
// connection no longer counts, and once more.
func (a *app) whyCut(ctx context.Context, c *daemon.Client, mount uint64, pumped error) error {
	for deadline, ended := time.Now().Add(settleTime), false; ctx.Err() == nil; {
		list, err := c.ListMounts(ctx)
		if err != nil {
			return errors.Join(pumped, err)
		}
		i := slices.IndexFunc(list.GetMounts(), func(m *controlv1.Mount) bool { return m.GetId() == mount })
		if i < 0 {
			return pumped
		}
		m := list.GetMounts()[i]
		if m.GetLastError() != "" {
			return fmt.Errorf("the connection was cut: %s", m.GetLastError())
		}
		if ended || time.Now().After(deadline) {
			return pumped
		}
		ended = m.GetConnections() == 0
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}
