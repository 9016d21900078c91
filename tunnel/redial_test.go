package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Whoever waited two seconds for a peer that takes connections and says nothing
// waited until the attempt had ended.
func TestRegressionWaitIsABound(t *testing.T) {
	b := newNode(t)
	silent := service(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	nobody := newHost(t).ID()
	b.Remember(nobody, silent.Encapsulate(ma.StringCast("/p2p/"+nobody.String())))
	// A nanosecond: the wait may be over when it begins, such as after a link was lost.
	for _, wait := range []time.Duration{100 * time.Millisecond, 1} {
		begun := time.Now()
		_, err := b.Open(t.Context(), nobody, "echo", func(c *ForwardConfig) { c.Wait = wait })
		if took := time.Since(begun); took > 4*time.Second {
			t.Errorf("%v: it took %v", wait, took)
		}
		if !errors.Is(err, &Error{Reason: ReasonUnreachable}) || !strings.Contains(err.Error(), noAnswer) {
			t.Errorf("%v: %v", wait, err)
		}
	}
}

// lostHost is a host whose connections have all just been lost, and whose peers are
// gone.
type lostHost struct{ host.Host }

func (h lostHost) Network() network.Network { return lostNetwork{h.Host.Network()} }

func (h lostHost) Connect(ctx context.Context, _ peer.AddrInfo) error {
	<-ctx.Done()
	return ctx.Err()
}

type lostNetwork struct{ network.Network }

func (lostNetwork) Connectedness(peer.ID) network.Connectedness { return network.NotConnected }

// A QUIC connection that was lost while a stream was opened on it was taken for one
// that is full.
func TestRegressionALostLinkIsNoLimit(t *testing.T) {
	h, far := newHost(t), newHost(t, overQUIC)
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: far.ID(), Addrs: far.Addrs()}); err != nil {
		t.Fatal(err)
	}
	p := NewP2P(h.ID(), lostHost{h}, h.Peerstore())
	defer p.Close()
	_, _, err := p.openStream(t.Context(), far.ID(), "s", 5*time.Second, false)
	if !errors.Is(err, &Error{Reason: ReasonUnreachable}) {
		t.Error(err)
	}
}
