package kith

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kith-p2p/kith/access"
	"github.com/kith-p2p/kith/rpc"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Server answers the requests of peers. Serve a method with rpc.Handle or
// Server.StartHandler, and open it with Allow: a method that nobody was allowed
// to use does not exist for peers. Everybody may ask what every node answers:
// ping, info, stats, services.
func (n *Node) Server() *rpc.Server { return n.server }

// Client calls methods of peers: rpc.Call, Client.Send. Addresses of the peer
// are found by its ID, as for Dial.
func (n *Node) Client() *rpc.Client { return n.client }

// Allow opens a method of Server to peers, given in any spelling; "*" is
// everybody, nobody closes it. It replaces what was said of the method before.
// Errors: ErrUsage, ErrUnknownPeer.
func (n *Node) Allow(method string, peers ...string) error {
	var rule access.Rule
	var named []string
	for _, p := range peers {
		if p == "*" {
			rule.Any = true
		} else {
			named = append(named, p)
		}
	}
	var err error
	if rule.Peers, err = n.peers(n.ctx, named); err != nil {
		return err
	}
	if len(peers) == 0 {
		n.methods.Remove(method)
	} else {
		n.methods.Set(method, rule)
	}
	return nil
}

func (n *Node) newServices() (err error) {
	authorize := rpc.Allow(&n.methods)
	cfg := rpc.DefaultServerConfig()
	cfg.Authorize = func(c rpc.Caller) error {
		for _, own := range builtIn {
			if c.Method == string(own) {
				return nil
			}
		}
		return authorize(c)
	}
	cfg.DrainTimeout = drainTime
	cfg.Name, cfg.Version, cfg.Logger = n.cfg.Moniker, n.cfg.Version, n.log
	if n.server, err = rpc.NewServer(n.host, cfg); err != nil {
		return err
	}
	n.client, err = rpc.NewClient(n.host, nil)
	return err
}

// A program that was told to end has two seconds. Close takes at most the sum of
// these, and what the disk and the sockets take; the daemon some 300 ms more.
const (
	// drainTime is how long Close waits for calls that are being answered.
	drainTime = 500 * time.Millisecond
	// handlerTime is how long it waits for their handlers after that, when their
	// contexts have ended and their callers were told.
	handlerTime = 200 * time.Millisecond
	// goodbyeTime is how long it lets the Router say goodbye before it closes the
	// connections under it.
	goodbyeTime = 500 * time.Millisecond
)

// stopServer stops answering requests, in drainTime and handlerTime at most: a
// handler that never returns is left behind, since nothing can stop it, and the
// end of the node does not wait for it. The error is rpc.ErrHandlersRunning then.
func (n *Node) stopServer() error {
	stopped := make(chan error, 1)
	go func() { stopped <- n.server.Stop() }() // ends by itself, two seconds later at the latest
	left := time.NewTimer(drainTime + handlerTime)
	defer left.Stop()
	select {
	case err := <-stopped:
		return err
	case <-left.C:
		return fmt.Errorf("%w: %d of them are left behind; a handler has to return when its context ends", rpc.ErrHandlersRunning, n.server.Stats().Running)
	}
}

// builtIn are the methods that every node answers, by the short names under
// which people may call them.
var builtIn = map[string]protocol.ID{
	"ping": rpc.PingMethod, "info": rpc.InfoMethod, "stats": rpc.StatsMethod, "services": rpc.ServicesMethod,
}

// Call sends one request to a method of a peer and returns the answer. The peer
// is given in any spelling; ping, info, stats and services are short names of
// what every node answers. It blocks until the answer is there or ctx ends; 30 s
// without a deadline. Errors: ErrUsage, ErrUnknownPeer, *rpc.Error.
func (n *Node) Call(ctx context.Context, p, method string, request []byte) ([]byte, error) {
	if method == "" {
		return nil, usage("no method was given")
	}
	id, err := n.callee(ctx, p)
	if err != nil {
		return nil, err
	}
	name, short := builtIn[method]
	if !short {
		name = protocol.ID(method)
	}
	answer, err := n.client.Send(ctx, id, name, request)
	if err != nil {
		return nil, n.explainCall(err, p, method)
	}
	return answer, nil
}

// Services lists the methods of a peer that this node may call; those of the
// node itself if p is empty. Errors are those of Call.
func (n *Node) Services(ctx context.Context, p string) ([]rpc.Service, error) {
	if p == "" {
		return n.server.Services(n.host.ID()), nil
	}
	id, err := n.callee(ctx, p)
	if err != nil {
		return nil, err
	}
	list, err := n.client.Services(ctx, id)
	if err != nil {
		return nil, n.explainCall(err, p, "services")
	}
	return list, nil
}

func (n *Node) callee(ctx context.Context, p string) (peer.ID, error) {
	id, err := n.peer(ctx, p)
	if err != nil {
		return "", err
	}
	if id == n.host.ID() {
		return "", usage("%s is this node", id)
	}
	return id, n.reach(ctx, id)
}

// explainCall says what to do about a call that failed.
func (n *Node) explainCall(err error, p, method string) error {
	var next string
	switch rpc.CodeOf(err) {
	case rpc.CodeUnimplemented, rpc.CodePermissionDenied:
		if strings.Contains(method, "services") {
			next = "it speaks no request protocol of kith"
		} else {
			next = fmt.Sprintf("`kith services %s` lists what this node may call there", p)
		}
	case rpc.CodeUnavailable:
		next = "it may be offline, or have banned this node; `kith ping` tries the connection alone"
	case rpc.CodeDeadlineExceeded:
		next = "it may still have been done; give more time with --timeout"
	case rpc.CodeResourceExhausted:
		next = "try again later"
		if e, ok := errors.AsType[*rpc.Error](err); ok && e.RetryAfter > 0 {
			next = fmt.Sprintf("try again in %v", e.RetryAfter)
		}
	}
	if next == "" {
		return plain(err)
	}
	return &plainError{plainText(err.Error()) + "; " + next, err}
}
