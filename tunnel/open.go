package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/kith-p2p/kith/internal/pb/tunnelv1"
	"github.com/kith-p2p/kith/internal/wire"
	"github.com/kith-p2p/kith/stream"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"google.golang.org/protobuf/proto"
)

// Sizes and times of the opening frames; see spec.md.
const (
	maxOpen     = 4 << 10
	maxReply    = 4 << 10
	openTimeout = 10 * time.Second
)

// openStream opens a stream to a service of a peer that is already connected,
// and says which service. It does not wait for the answer, which is owed when
// rich is true. It blocks as long as opening a stream does.
func (p *P2P) openStream(ctx context.Context, remote peer.ID, service string, timeout time.Duration, probe bool) (_ *stream.Conn, rich bool, err error) {
	raw, err := checkName(service, true)
	if err != nil {
		return nil, false, err
	}
	// A raw name works either way; a plain one needs a kith node, and whether
	// the peer is one is for its answer to say: what identify knows of a node
	// that has just started may be older than its tunnels.
	tag, rich := Protocol, !raw || p.speaksKith(ctx, remote)
	if !rich {
		tag = protocol.ID(service)
	}
	var opts []stream.DialOption
	if rich {
		opts = append(opts, stream.WithLazy()) // the open frame below carries the hello
	}
	nc, err := p.dialStream(ctx, remote, tag, opts...)
	if err != nil {
		e := reasonOf(err)
		if e.Reason == ReasonLost || e.Reason == ReasonReset && !e.Remote {
			e = unreachable(remote, err) // whoever is at its address reset us; no program has
		}
		if e.Reason == ReasonNoService && e.Detail == "" {
			e.Detail = fmt.Sprintf("%s has no service %q", remote, service)
		}
		e.Peer, e.Service = remote, service
		return nil, false, e
	}
	c := nc.(*stream.Conn)
	if !rich {
		return c, false, nil
	}
	body, err := proto.Marshal(&tunnelv1.Open{Service: service, Probe: probe})
	if err == nil {
		var frame []byte
		if frame, err = wire.AppendFrame(nil, body, maxOpen); err == nil {
			c.SetWriteDeadline(time.Now().Add(timeout))
			stop := context.AfterFunc(ctx, func() { c.ResetWithCode(ReasonTimeout.code()) })
			_, err = c.Write(frame)
			stop()
			c.SetWriteDeadline(time.Time{})
		}
	}
	if err != nil {
		e := reasonOf(err)
		c.ResetWithCode(e.Reason.code())
		return nil, false, e
	}
	return c, true, nil
}

// speaksKith says whether the peer is known to speak Protocol. It waits for
// identify on a connection that is new.
func (p *P2P) speaksKith(ctx context.Context, remote peer.ID) bool {
	if remote == p.id {
		return true
	}
	if ids, ok := p.h.(interface{ IDService() identify.IDService }); ok {
		for _, c := range p.h.Network().ConnsToPeer(remote) {
			select {
			case <-ids.IDService().IdentifyWait(c):
			case <-ctx.Done():
				return false
			}
		}
	}
	known, err := p.ps.SupportsProtocols(remote, Protocol)
	return err == nil && len(known) > 0
}

// quicPatience is how long opening a stream over QUIC may take. It is a matter of
// this machine, unless as many are open as the peer allows: then it waits for one
// to end.
const quicPatience = time.Second

// dialStream opens a stream to a peer that is connected.
func (p *P2P) dialStream(ctx context.Context, remote peer.ID, tag protocol.ID, opts ...stream.DialOption) (net.Conn, error) {
	if !p.overQUIC(remote) {
		return stream.Dial(ctx, p.h, remote, tag, opts...)
	}
	patient, cancel := context.WithTimeout(ctx, quicPatience)
	defer cancel()
	c, err := stream.Dial(patient, p.h, remote, tag, opts...)
	if err == nil || patient.Err() == nil || ctx.Err() != nil {
		return c, err
	}
	if ours := p.streamsTo(remote); ours > 0 && p.overQUIC(remote) {
		return nil, &Error{Reason: ReasonLimit, Err: err, Detail: fmt.Sprintf(
			"%s allows no further stream on its QUIC connection, where %d of ours are open; close some (TCP has no such cap)", remote, ours)}
	}
	return nil, unreachable(remote, err) // the connection went meanwhile
}

// overQUIC says whether the peer is connected over QUIC alone.
func (p *P2P) overQUIC(remote peer.ID) bool {
	conns := p.h.Network().ConnsToPeer(remote)
	return len(conns) > 0 && !slices.ContainsFunc(conns, func(c network.Conn) bool { return c.ConnState().Transport != "quic-v1" })
}

func (p *P2P) streamsTo(remote peer.ID) (ours int) {
	for _, c := range p.h.Network().ConnsToPeer(remote) {
		for _, s := range c.GetStreams() {
			if s.Stat().Direction == network.DirOutbound {
				ours++
			}
		}
	}
	return ours
}

// readOpen reads what a peer wants from a new stream.
func readOpen(c *stream.Conn) (*tunnelv1.Open, *Error) {
	c.SetReadDeadline(time.Now().Add(openTimeout))
	body, err := wire.ReadFrame(c, maxOpen)
	if err != nil {
		if r := reasonOf(err); r != nil && r.Reason == ReasonTimeout {
			return nil, refuse(ReasonTimeout, "no open frame within %v", openTimeout)
		}
		return nil, &Error{Reason: ReasonProtocol, Detail: "bad open frame: " + oneLine(err.Error()), Err: err}
	}
	c.SetReadDeadline(time.Time{})
	open := new(tunnelv1.Open)
	if err := proto.Unmarshal(body, open); err != nil {
		return nil, &Error{Reason: ReasonProtocol, Detail: "bad open frame", Err: err}
	}
	return open, nil
}

// writeReply answers an open frame. It waits at most openTimeout for a peer
// that does not read.
func writeReply(c *stream.Conn, e *Error) error {
	reply := &tunnelv1.OpenReply{}
	if e != nil {
		reply.Code = uint32(e.Reason)
		reply.Message = e.told()
		if len(reply.Message) > maxReply/2 {
			reply.Message = reply.Message[:maxReply/2]
		}
	}
	body, err := proto.Marshal(reply)
	if err != nil {
		return err
	}
	frame, err := wire.AppendFrame(nil, body, maxReply)
	if err != nil {
		return err
	}
	c.SetWriteDeadline(time.Now().Add(openTimeout))
	defer c.SetWriteDeadline(time.Time{})
	_, err = c.Write(frame)
	return err
}

// printable keeps a peer's text from playing tricks on a terminal: control
// characters, bidirectional overrides and other invisible ones become spaces.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// Open opens one connection to a service of a peer, for a program that wants
// it as a net.Conn instead of a local port. It connects to the peer first,
// waiting as a forward does (DialOption), and returns once the service has
// answered: a refusal is an *Error. A peer that is no kith node gives no
// answer; there a refusal is the error of the first Read. When ctx is
// cancelled its error is returned; ctx has no say after that. The connection is
// listed in Streams until it is closed.
func (p *P2P) Open(ctx context.Context, remote peer.ID, service string, opts ...DialOption) (net.Conn, error) {
	cfg, err := forwardConfig(opts)
	if err != nil {
		return nil, err
	}
	if !p.begin(remote) {
		return nil, ErrClosed
	}
	defer p.end(remote)
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	o := &opener{p: p, remote: remote, service: service, cfg: cfg}
	end, err := o.open(ctx)
	if err != nil {
		p.refused(nil, remote, reasonOf(err))
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { end.abort(ReasonClosed) })
	err = end.answer()
	if !stop() {
		err = ctx.Err() // whatever the read said: it was cut short
		if errors.Is(err, context.Canceled) && p.ctx.Err() == nil {
			return nil, err // the caller's own wish
		}
	}
	if err != nil {
		e := reasonOf(err)
		end.abort(e.Reason)
		p.refused(nil, remote, e)
		return nil, e
	}
	p.stats.opened.Add(1)
	return p.track(end.current(), nil, KindForward, service, nil, nil), nil
}

// Probe asks a peer whether it would serve a service to us, without touching
// the target. It connects first, but does not wait for a peer that cannot be
// reached. nil means yes, or that the peer does not speak kith tunnels and can
// only be tried. Otherwise the error is an *Error.
func (p *P2P) Probe(ctx context.Context, remote peer.ID, service string) error {
	if !p.begin(remote) {
		return ErrClosed
	}
	defer p.end(remote)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	if err := p.dials.connect(ctx, remote, 0); err != nil {
		return err
	}
	if strings.HasPrefix(service, "/") && !p.speaksKith(ctx, remote) {
		return nil
	}
	c, rich, err := p.openStream(ctx, remote, service, openTimeout, true)
	if err != nil {
		return err
	}
	end := &openedEnd{opener: &opener{p: p, remote: remote, service: service, cfg: ForwardConfig{Timeout: openTimeout}}, conn: c, used: true}
	end.pending.Store(rich)
	defer end.Close()
	defer context.AfterFunc(ctx, func() { end.abort(ReasonClosed) })()
	if err := end.answer(); err != nil {
		return err // not a nil *Error
	}
	return nil
}

// pathOf returns how the peer at the other end of c is reached.
func pathOf(c *stream.Conn) (network.Conn, bool) {
	if s := c.Stream(); s != nil {
		return s.Conn(), true
	}
	return nil, false
}
