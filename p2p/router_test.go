package p2p_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// Messages go both ways, to one and to all, and the books balance.
func TestRouterCarriesMessages(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		hub, b, c := w.node(), w.node(), w.node()
		fromHub, toB, toC := openText(t, hub, 1), openText(t, b, 1), openText(t, c, 1)
		other := openText(t, hub, 2) // only hub has it
		w.start(hub, b, c)
		w.connect(hub, b, c)
		if n, err := fromHub.Broadcast(t.Context(), wrapperspb.String("all")); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		for _, ch := range []*textFace{toB, toC} {
			if in := next(t, ch); in.From != hub.id || in.Message.Value != "all" || in.IsRequest() || in.Context().Err() != nil {
				t.Errorf("%+v", in)
			}
		}
		if err := toB.Send(t.Context(), hub.id, wrapperspb.String("back")); err != nil {
			t.Fatal(err)
		}
		if in := next(t, fromHub); in.From != b.id || in.Message.Value != "back" {
			t.Errorf("%+v", in)
		}
		if err := other.TrySend(b.id, wrapperspb.String("?")); !errors.Is(err, p2p.ErrChannelUnsupported) {
			t.Error(err)
		}
		if n, err := other.Broadcast(t.Context(), wrapperspb.String("?")); n != 0 || err != nil {
			t.Error(n, err)
		}
		if err := toB.Send(t.Context(), c.id, wrapperspb.String("?")); !errors.Is(err, p2p.ErrPeerUnknown) {
			t.Error(err)
		}
		long := wrapperspb.String(strings.Repeat("x", p2p.DefaultMaxMessage))
		if err := fromHub.TrySend(b.id, long); !errors.Is(err, p2p.ErrMessageTooLarge) {
			t.Error(err)
		}
		stranger := testKey(99).Public().NodeID()
		if to, err := fromHub.SendMany([]p2p.NodeID{c.id, stranger, b.id}, wrapperspb.String("some")); !slices.Equal(to, []p2p.NodeID{c.id, b.id}) || !errors.Is(err, p2p.ErrPeerUnknown) || errors.Is(err, p2p.ErrChannelUnsupported) {
			t.Error(to, err)
		}
		for _, ch := range []*textFace{toB, toC} {
			if in := next(t, ch); in.Message.Value != "some" {
				t.Errorf("%+v", in)
			}
		}
		if to, err := other.SendMany([]p2p.NodeID{b.id}, wrapperspb.String("?")); to != nil || !errors.Is(err, p2p.ErrChannelUnsupported) {
			t.Error(to, err)
		}
		if to, err := fromHub.SendMany([]p2p.NodeID{b.id}, long); to != nil || !errors.Is(err, p2p.ErrMessageTooLarge) {
			t.Error(to, err)
		}
		if _, err := fromHub.Broadcast(t.Context(), nil); err != nil { // an empty message
			t.Error(err)
		}
		if _, err := fromHub.Request(t.Context(), b.id, wrapperspb.String("?")); !errors.Is(err, p2p.ErrRequestUnsupported) {
			t.Error(err)
		}
		st := hub.r.Stats()
		if len(st.Peers) != 2 || st.Peers[0].ID > st.Peers[1].ID || len(st.Channels) != 2 || st.Channels[0].ID != 1 {
			t.Errorf("%+v", st)
		}
		if s := other.Stats(); s.Send.Dropped[p2p.DropUnsupported] != 2 { // TrySend and SendMany
			t.Errorf("%+v", s)
		}
		if s := fromHub.Stats(); s.Unencodable != 2 {
			t.Errorf("%+v", s)
		}
		if s := toB.Stats(); s.NoPeer != 1 {
			t.Errorf("%+v", s)
		}
		for _, n := range []*testNode{hub, b, c} {
			n.r.Stop()
		}
		for _, ch := range []*textFace{fromHub, other, toB, toC} {
			balance(t, ch.Stats())
		}
		if s := fromHub.Stats(); s.Send.Accepted != 6 || s.Send.Queued != 0 {
			t.Errorf("%+v", s) // what was sent in sessions that are over still counts
		}
	})
}

// What is held against a peer: undecodable messages lower its score and do not
// arrive; so do errors that are not fatal; fatal ones end the connection.
func TestRouterHoldsFaultsAgainstPeers(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		bad := openBytes(t, a, 1, p2p.ChannelDescriptor{})
		good := openText(t, b, 1)
		w.start(a, b)
		w.connect(a, b)
		// Invalid UTF-8 in a string: a BytesValue has the same field.
		for _, m := range []string{"\xff", "fine"} {
			if err := bad.Send(t.Context(), b.id, wrapperspb.Bytes([]byte(m))); err != nil {
				t.Fatal(err)
			}
		}
		if in := next(t, good); in.Message.Value != "fine" {
			t.Errorf("%+v", in)
		}
		if s := good.Stats(); s.Undecodable != 1 || b.pm.Scores()[a.id] != -1 {
			t.Errorf("%+v, score %d", s, b.pm.Scores()[a.id])
		}
		good.Report(p2p.PeerError{NodeID: a.id})
		if s := b.pm.Scores()[a.id]; s != -2 || !up(b, a.id) {
			t.Error(s)
		}
		sub := b.pm.Subscribe()
		defer sub.Close()
		good.Report(p2p.PeerError{NodeID: a.id, Err: io.ErrUnexpectedEOF, Fatal: true})
		if u := <-sub.Updates(); u.Status != p2p.PeerStatusDown {
			t.Error(u)
		}
		if b.r.Stats().Evicted == 0 {
			t.Error("not counted")
		}
	})
}

// What goes into Channel.Error does the same while the channel is open.
func TestChannelErrorReachesThePeer(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		var heard *causes
		a, b := w.node(), w.node(func(o *p2p.RouterOptions) { heard = noteCauses(o) })
		openText(t, a, 1)
		adr, err := b.r.OpenChannel(1, new(text))
		if err != nil {
			t.Fatal(err)
		}
		w.start(a, b)
		w.connect(a, b)
		sub := b.pm.Subscribe()
		defer sub.Close()
		adr.Error <- p2p.PeerError{NodeID: a.id, Err: io.ErrNoProgress}
		w.until(func() bool { return b.pm.Scores()[a.id] == -1 })
		if s := b.r.Stats(); s.Evicted != 0 || !up(b, a.id) {
			t.Errorf("not fatal, but %+v", s)
		}
		adr.Error <- p2p.PeerError{NodeID: a.id, Err: io.ErrUnexpectedEOF, Fatal: true}
		for _, want := range []p2p.PeerStatus{p2p.PeerStatusDown, p2p.PeerStatusUp} { // it may come back
			if u := <-sub.Updates(); u.Status != want || u.NodeID != a.id {
				t.Errorf("%+v, not %v", u, want)
			}
		}
		if err := heard.wait(t); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the connection ended for %v", err)
		}
		if s := b.r.Stats(); s.Evicted != 1 || adr.Stats().Late != 0 {
			t.Errorf("%+v, %+v", s, adr.Stats())
		}
	})
}

// A message above the receiver's capacity ends the connection, and nothing else.
func TestRouterMessageAboveCapacity(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		from := openBytes(t, a, 1, p2p.ChannelDescriptor{})
		to := openBytes(t, b, 1, p2p.ChannelDescriptor{RecvMessageCapacity: 100})
		w.start(a, b)
		w.connect(a, b)
		sub := a.pm.Subscribe()
		defer sub.Close()
		_ = from.TrySend(b.id, wrapperspb.Bytes(make([]byte, 101)))
		if u := <-sub.Updates(); u.Status != p2p.PeerStatusDown {
			t.Error(u)
		}
		w.until(func() bool { return up(a, b.id) && up(b, a.id) }) // they come back
		if s := to.Stats(); s.Received.Received != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Who answers has to be who was dialled; ourselves, strangers, those that filters
// refuse and those of other networks do not come up.
func TestRouterRefusesConnections(t *testing.T) {
	place := netip.MustParseAddrPort("192.0.2.7:26656")
	for name, c := range map[string]struct {
		here, there func(*p2p.RouterOptions)
		as          int // who is said to be there
		fault       string
	}{
		"wrong peer": {as: 9, fault: "another node answered"},
		"self":       {as: 1, fault: ""},
		"ip filter here": {as: 2, here: func(o *p2p.RouterOptions) {
			o.FilterPeerByIP = func(_ context.Context, ip net.IP, port uint16) error {
				if ip.String() != "192.0.2.7" || port != 26656 {
					return nil
				}
				return errors.New("no such IPs")
			}
		}},
		"id filter here": {as: 2, here: func(o *p2p.RouterOptions) {
			o.FilterPeerByID = func(context.Context, p2p.NodeID) error { return errors.New("no such IDs") }
		}},
		"id filter there": {as: 2, there: func(o *p2p.RouterOptions) {
			o.FilterPeerByID = func(context.Context, p2p.NodeID) error { return errors.New("no such IDs") }
		}},
		"filter that hangs": {as: 2, here: func(o *p2p.RouterOptions) {
			o.FilterPeerByID = func(ctx context.Context, _ p2p.NodeID) error { <-ctx.Done(); return ctx.Err() }
		}},
		"other network": {as: 2, there: func(o *p2p.RouterOptions) { o.NodeInfo.Network = "other" }},
		"other blocks":  {as: 2, there: func(o *p2p.RouterOptions) { o.NodeInfo.ProtocolVersion.Block = 12 }},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
				onIP := func(id p2p.NodeID, at ...netip.AddrPort) func(*p2p.RouterOptions) {
					return func(o *p2p.RouterOptions) {
						o.Transports[0].Close()
						tr, err := w.net.Listen(id, at...)
						if err != nil {
							t.Fatal(err)
						}
						o.Transports = []p2p.Transport{tr}
					}
				}
				nothing := func(*p2p.RouterOptions) {}
				if c.here == nil {
					c.here = nothing
				}
				if c.there == nil {
					c.there = nothing
				}
				w.peers.DisconnectCooldownPeriod = 10 * time.Second
				w.peers.MinRetryTime, w.peers.MaxRetryTime = time.Second, 10*time.Second // tens of handshakes, not thousands
				a := w.node(onIP(testKey(1).Public().NodeID(), netip.MustParseAddrPort("192.0.2.6:26656")), c.here)
				w.peers.Protocols = []p2p.Protocol{"mconn"} // b dials nobody: it would be let in under its own name
				b := w.node(onIP(testKey(2).Public().NodeID(), place), c.there)
				openText(t, a, 1)
				openText(t, b, 1)
				w.start(a, b)
				who := testKey(c.as).Public().NodeID()
				at := p2p.NodeAddress{NodeID: who, Protocol: memory.ProtocolIP, Hostname: place.Addr().String(), Port: place.Port()}
				if _, err := a.pm.Add(at); err != nil {
					t.Fatal(err)
				}
				sub := a.pm.Subscribe()
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				st := a.r.Stats()
				if c.here != nil && len(st.Peers) != 0 && name != "id filter there" {
					t.Errorf("%+v", st.Peers)
				}
				if name != "self" && st.Engine.Counters.Dialled < 1 {
					t.Errorf("%+v", st.Engine.Counters)
				}
				switch name {
				case "other network":
					if len(a.pm.Addresses(who)) != 0 || st.Engine.Counters.Dialled != 1 {
						t.Errorf("%v after %d dials", a.pm.Addresses(who), st.Engine.Counters.Dialled)
					}
					if added, err := a.pm.AddFrom(at, p2p.Source{Kind: addrbook.PEX, Peer: a.id}); added {
						t.Error("learnt again", err)
					}
				case "wrong peer", "other blocks", "ip filter here":
					if st.Engine.Counters.Dialled < 5 {
						t.Errorf("given up after %d dials", st.Engine.Counters.Dialled)
					}
				}
				sub.Close()
			})
		})
	}
}

// A persistent peer of another network is not forgotten: it may come right.
func TestRouterKeepsPersistentPeerOfAnotherNetwork(t *testing.T) {
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		b := w.node(func(o *p2p.RouterOptions) { o.NodeInfo.Network = "other" })
		w.peers.PersistentPeers = []p2p.NodeID{b.id}
		w.peers.MinRetryTime, w.peers.MaxRetryTime = time.Second, 10*time.Second
		a := w.node()
		w.start(a, b)
		a.pm.Add(b.at)
		time.Sleep(10 * time.Minute)
		if n := a.r.Stats().Engine.Counters.Dialled; n < 5 || len(a.pm.Addresses(b.id)) != 1 {
			t.Error(n, a.pm.Addresses(b.id))
		}
	})
}

// Peers that say nothing in the handshake cost HandshakeTimeout, and nobody else.
func TestRouterHandshakeTimeout(t *testing.T) {
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		a, b, c := w.node(func(o *p2p.RouterOptions) { o.HandshakeTimeout = time.Second }), w.node(), w.node()
		w.start(a, b, c)
		w.net.Stall(b.id, a.id)
		a.pm.Add(b.at)
		synctest.Wait()
		if s := a.r.Stats().Engine; len(s.Handshakes) != 1 && len(s.Dials) != 1 {
			t.Errorf("%+v", s)
		}
		w.connect(a, c)
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		if n := a.r.Stats().Engine.Counters.DialsFailed; n != 0 {
			t.Error(n)
		}
		time.Sleep(time.Second)
		if n := a.r.Stats().Engine.Counters.DialsFailed; n != 1 {
			t.Error(n)
		}
		w.net.HealAll()
		w.until(func() bool { return up(a, b.id) })
	})
}

// RouterOptions: every fault is named, all at once.
func TestRouterOptionsValidate(t *testing.T) {
	err := p2p.RouterOptions{}.Validate()
	for _, want := range []string{"PrivKey", "PeerManager", "Transports"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in %v", want, err)
		}
	}
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		var good p2p.RouterOptions
		n := w.node(func(o *p2p.RouterOptions) { good = *o })
		stranger := w.node()
		_ = n
		var names []string
		all := good
		for name, spoil := range map[string]func(*p2p.RouterOptions){
			"NodeInfo":         func(o *p2p.RouterOptions) { o.NodeInfo.Moniker = "" },
			"not the ID":       func(o *p2p.RouterOptions) { o.NodeInfo.NodeID = stranger.id },
			"is that of":       func(o *p2p.RouterOptions) { o.PeerManager = stranger.pm },
			"is nil":           func(o *p2p.RouterOptions) { o.Transports = append(o.Transports, nil) },
			"two transports":   func(o *p2p.RouterOptions) { o.Transports = append(o.Transports, o.Transports[0]) },
			"ResolveTimeout":   func(o *p2p.RouterOptions) { o.ResolveTimeout = -1 },
			"DialTimeout":      func(o *p2p.RouterOptions) { o.DialTimeout = 1<<63 - 1 },
			"HandshakeTimeout": func(o *p2p.RouterOptions) { o.HandshakeTimeout = -1 },
			"less than":        func(o *p2p.RouterOptions) { o.SendQueueBytes = -1 },
			"Limits":           func(o *p2p.RouterOptions) { o.Limits = &connmgr.Limits{Total: -2} },
		} {
			o := good
			spoil(&o)
			if _, err := p2p.NewRouter(o); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
			if name != "is that of" && name != "not the ID" {
				spoil(&all)
				names = append(names, name)
			}
		}
		err := all.Validate()
		for _, name := range names {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s is missing in %v", name, err)
			}
		}
		if err := good.Validate(); err != nil {
			t.Error(err)
		}
	})
}

// Every method before Start, after Stop, and twice.
func TestRouterMethodsInEveryState(t *testing.T) {
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		for _, started := range []bool{false, true} {
			n := w.node()
			c := openText(t, n, 1)
			adr, err := n.r.OpenChannel(2, new(text))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.r.OpenChannel(2, new(text)); !errors.Is(err, p2p.ErrChannelOpen) {
				t.Error(err)
			}
			if err := c.TrySend(n.id, nil); !errors.Is(err, p2p.ErrPeerUnknown) {
				t.Error(err)
			}
			if info := n.r.NodeInfo(); fmt.Sprint(info.Channels) != "[1 2]" || info.NodeID != n.id {
				t.Errorf("%+v", info)
			}
			if started {
				w.start(n)
				if err := n.r.Start(); err == nil {
					t.Error("started twice")
				}
			}
			done := make(chan error, 2)
			for range 2 {
				go func() { done <- n.r.Stop() }()
			}
			if err := errors.Join(<-done, <-done); err != nil {
				t.Error(err)
			}
			if err := n.r.Start(); !errors.Is(err, p2p.ErrClosed) {
				t.Error(err)
			}
			if _, err := n.r.OpenChannel(3, new(text)); !errors.Is(err, p2p.ErrClosed) {
				t.Error(err)
			}
			if err := c.Send(t.Context(), n.id, nil); !errors.Is(err, p2p.ErrClosed) {
				t.Error(err)
			}
			if _, err := c.Broadcast(t.Context(), nil); !errors.Is(err, p2p.ErrClosed) {
				t.Error(err)
			}
			if _, err := c.Request(t.Context(), n.id, nil); !errors.Is(err, p2p.ErrClosed) {
				t.Error(err)
			}
			for _, err := range c.Receive(t.Context()) {
				if !errors.Is(err, p2p.ErrClosed) {
					t.Error(err)
				}
			}
			<-c.Done()
			<-adr.Done()
			if _, ok := <-adr.In; ok {
				t.Error("In is open")
			}
			for range 2 {
				if err := errors.Join(c.Close(), adr.Close()); err != nil {
					t.Error(err)
				}
			}
			if s := n.r.Stats(); len(s.Channels) != 0 || len(s.Peers) != 0 || c.Stats().NoPeer != 1 {
				t.Errorf("%+v", s)
			}
		}
	})
}
