package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// mute is a host whose peers never answer: connecting to them, or opening a
// stream when connected says that there is a connection, takes as long as it may.
type mute struct {
	host.Host
	connected bool
}

func (m mute) Network() network.Network { return muteNetwork{connected: m.connected} }

func (m mute) Connect(ctx context.Context, _ peer.AddrInfo) error {
	<-ctx.Done()
	return ctx.Err()
}

func (m mute) ID() peer.ID { return "us" }

type muteNetwork struct {
	network.Network
	connected bool
}

func (n muteNetwork) Connectedness(peer.ID) network.Connectedness {
	if n.connected {
		return network.Connected
	}
	return network.NotConnected
}

func (n muteNetwork) ConnsToPeer(peer.ID) []network.Conn { return nil }

func (n muteNetwork) NewStream(ctx context.Context, _ peer.ID) (network.Stream, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// How long a connection may take: 10 s for a peer that is redialled and 30 s in
// all, unless told otherwise.
func TestHowLongAConnectionWaits(t *testing.T) {
	if c, err := forwardConfig(nil); err != nil || c.Wait != 10*time.Second || c.Timeout != 30*time.Second {
		t.Errorf("by default it waits %v for the peer and %v in all (%v)", c.Wait, c.Timeout, err)
	}
	for _, tc := range []struct {
		name      string
		connected bool
		cfg       ForwardConfig
		took      time.Duration
		reason    Reason
	}{
		{"nobody is there", false, ForwardConfig{}, 10 * time.Second, ReasonUnreachable},
		{"nobody is there, one attempt", false, ForwardConfig{Wait: -1}, redialTimeout, ReasonUnreachable},
		{"nobody is there, and it may wait for ever", false, ForwardConfig{Wait: time.Hour}, 30 * time.Second, ReasonUnreachable},
		{"nobody is there, 5 s in all", false, ForwardConfig{Wait: time.Hour, Timeout: 5 * time.Second}, 5 * time.Second, ReasonUnreachable},
		{"nobody is there, 2 minutes in all", false, ForwardConfig{Wait: time.Hour, Timeout: 2 * time.Minute}, 2 * time.Minute, ReasonUnreachable},
		{"no stream", true, ForwardConfig{}, 30 * time.Second, ReasonTimeout},
		{"no stream, 5 s in all", true, ForwardConfig{Timeout: 5 * time.Second}, 5 * time.Second, ReasonTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				p := &P2P{
					id: "us", h: mute{connected: tc.connected}, log: slog.New(slog.DiscardHandler),
					busy: map[peer.ID]int{}, ctx: ctx, cancel: cancel,
				}
				p.dials.p = p
				cfg, err := forwardConfig([]DialOption{func(c *ForwardConfig) { *c = tc.cfg }})
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				_, err = (&opener{p: p, remote: "them", service: "x", cfg: cfg}).open(ctx)
				if took := time.Since(began); took != tc.took {
					t.Errorf("gave up after %v, want %v", took, tc.took)
				}
				if !errors.Is(err, &Error{Reason: tc.reason}) {
					t.Errorf("%v, want %v", err, tc.reason)
				}
				cancel()
				p.wg.Wait()
			})
		})
	}
}
