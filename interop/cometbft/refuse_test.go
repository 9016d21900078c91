package cometbft

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// refusals are what makes a node and us no peers: how, what a connection says
// that the node may have had against us, and what our Router has against it.
func refusals(n *node) map[string]refusal {
	return map[string]refusal{
		"wrong network": {
			func(i *p2p.NodeInfo) { i.Network = "elsewhere" }, fmt.Sprintf(`its network is %q, ours "elsewhere"`, n.network),
			p2p.MismatchNetwork, fmt.Sprintf(`the network differs: ours is "elsewhere", theirs %q`, n.network),
		},
		"wrong block version": {
			func(i *p2p.NodeInfo) { i.ProtocolVersion.Block = 10 }, "its block version is 11, ours 10",
			p2p.MismatchBlock, "the block version differs: ours is 10, theirs 11",
		},
		"no common channel": {
			func(i *p2p.NodeInfo) { i.Channels = []p2p.ChannelID{0x77} }, "no common channel: it has",
			p2p.MismatchChannels, "no channel in common: ours are 0x77, theirs 0x",
		},
	}
}

type refusal struct {
	change   func(*p2p.NodeInfo)
	reason   string
	mismatch p2p.Mismatch
	text     string
}

// checkRouters looks at why a Router took no peer.
func (c refusal) checkRouters(t *testing.T, err error, n *node) {
	t.Helper()
	e, ok := errors.AsType[*p2p.IncompatibleError](err)
	if !ok || e.Mismatch != c.mismatch || !errors.Is(err, p2p.ErrIncompatible) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), string(n.id)) {
		t.Errorf("got %v, want %q", err, c.text)
	}
}

// What a node refuses, and what we can say of it. A connection sees a close and
// says what the node infos tell; a Router refuses the node itself, and says why.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, r, setup{})
			for name, c := range refusals(n) {
				key := newKey(t)
				info := ourInfo(n, key, blockChannel)
				c.change(&info)
				t.Run(name+", connection", func(t *testing.T) {
					s, err := dialConnection(t.Context(), n, info, key)
					if err != nil {
						t.Fatal(err)
					}
					defer s.Close()
					watchdog := time.AfterFunc(patience, s.Close)
					defer watchdog.Stop()
					_, _, err = s.Receive()
					refused, ok := errors.AsType[*mconn.RefusedError](err)
					if !ok || !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), c.reason) || refused.Peer.NodeID != n.id {
						t.Errorf("got %v, want the reason %q", err, c.reason)
					}
				})
				t.Run(name+", router", func(t *testing.T) {
					s, err := dialRouter(t.Context(), n, info, key)
					if err == nil {
						s.Close()
					}
					c.checkRouters(t, err, n)
				})
			}
			n.waitLog(t, "incompatible")
			// What only the node knows: it has a peer with our ID already.
			t.Run("known already", func(t *testing.T) {
				key := newKey(t)
				first, err := dialConnection(t.Context(), n, ourInfo(n, key, blockChannel), key)
				if err != nil {
					t.Fatal(err)
				}
				defer first.Close()
				next(t, first, blockChannel, func([]byte) bool { return true })
				refused := func(err error) bool {
					e, ok := errors.AsType[*mconn.RefusedError](err)
					return ok && e.Peer.NodeID == n.id && slices.Equal(e.Reasons(), []string{"the node infos agree, so it may be full, know us already, or ban us"})
				}
				second, err := dialConnection(t.Context(), n, ourInfo(n, key, blockChannel), key)
				if err != nil {
					t.Fatal(err)
				}
				defer second.Close()
				watchdog := time.AfterFunc(patience, second.Close)
				defer watchdog.Stop()
				if _, _, err = second.Receive(); !refused(err) {
					t.Error(err)
				}
				// To a Router this is a peer that came up and went down again.
				third, err := dialRouter(t.Context(), n, ourInfo(n, key, blockChannel), key)
				if err != nil {
					t.Fatal(err)
				}
				defer third.Close()
				select {
				case err := <-third.(*routed).faults.down:
					if !refused(err) || !errors.Is(err, p2p.ErrPeerClosed) {
						t.Error(err)
					}
				case <-time.After(patience):
					t.Error("the node kept a second peer with one ID")
				}
			})
			t.Run("a channel it does not have", func(t *testing.T) {
				key := newKey(t)
				s, err := dialConnection(t.Context(), n, ourInfo(n, key, blockChannel, 0x77), key)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if err := s.Send(0x77, []byte("hello")); err != nil {
					t.Fatal(err)
				}
				watchdog := time.AfterFunc(patience, s.Close)
				defer watchdog.Stop()
				for err == nil {
					_, _, err = s.Receive()
				}
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				n.waitLog(t, "unknown channel 77")
				// A Router does not even try.
				key = newKey(t)
				s, err = dialRouter(t.Context(), n, ourInfo(n, key, blockChannel, 0x77), key)
				if err == nil {
					defer s.Close()
					err = s.Send(0x77, []byte("hello"))
				}
				if !errors.Is(err, p2p.ErrChannelUnsupported) {
					t.Error(err)
				}
			})
		})
	}
}
