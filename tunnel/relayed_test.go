package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
)

// behindRelay is a host that others reach at one address only.
type behindRelay struct {
	host.Host
	at ma.Multiaddr
}

func (h behindRelay) Addrs() []ma.Multiaddr { return []ma.Multiaddr{h.at} }

// newHidden returns a node that can be reached only over a relay of these limits.
func newHidden(t testing.TB, opts ...circuit.Option) node {
	t.Helper()
	n, r := newNode(t), newHost(t, overTCP)
	service, err := circuit.New(r, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Close() })
	at := peer.AddrInfo{ID: r.ID()}
	for _, addr := range r.Network().ListenAddresses() { // /p2p-circuit is one of them
		if _, err := addr.ValueForProtocol(ma.P_TCP); err == nil {
			at.Addrs = append(at.Addrs, addr)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := n.h.Connect(ctx, at); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Reserve(ctx, n.h, at); err != nil {
		t.Fatal(err)
	}
	n.h = behindRelay{n.h, ma.StringCast(fmt.Sprintf("%s/p2p/%s/p2p-circuit", at.Addrs[0], r.ID()))}
	return n
}

// A relay with limits would cut a tunnel in the middle without a word, so none is
// made over it: the opener is told why, and the listing and the counters say so.
func TestRelayedOnlyIsAReason(t *testing.T) {
	a, b := newHidden(t), newNode(t) // a relay's limits are 128 KiB and two minutes
	expose(t, a, "echo", service(t, echo), AllowAny())
	b.Remember(a.id, a.addr())

	_, err := b.Open(t.Context(), a.id, "echo")
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Reason != ReasonRelayedOnly || e.Remote || e.Peer != a.id || e.Service != "echo" {
		t.Fatalf("Open: %v", err)
	}
	for _, says := range []string{"relayed only: ", "only over a relay with limits", "give a direct address"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("no %q in %q", says, err)
		}
	}
	if n := b.h.Network().Connectedness(a.id); n != network.Limited {
		t.Fatalf("the connection is %v: this shows nothing", n)
	}
	if err := b.Probe(t.Context(), a.id, "echo"); !errors.Is(err, &Error{Reason: ReasonRelayedOnly}) {
		t.Errorf("Probe: %v", err)
	}
	for i, name := range []string{"echo", "/x/echo"} {
		wantRefused(t, forwardTo(t, b, a, name))
		eventually(t, "the reason is listed", func() bool {
			l := b.Listeners.List()[i]
			return l.Protocol == name && l.Refused == 1 && l.Accepted == 0 && l.LastError != nil && l.LastError.Reason == ReasonRelayedOnly
		})
	}
	if r := b.Stats().Refused; r[ReasonRelayedOnly] != 3 || len(r) != 1 {
		t.Errorf("counted %v, want three of %v", r, ReasonRelayedOnly)
	}
	if s := a.Stats(); s.Served != 0 || len(s.Refused) != 0 || a.Streams.Len() != 0 {
		t.Errorf("the other side was asked: %+v", s)
	}
}

// The proof that it is the limits: without them, the same way carries tunnels.
func TestOverARelayWithoutLimits(t *testing.T) {
	a, b := newHidden(t, circuit.WithInfiniteLimits()), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	c := dial(t, forwardTo(t, b, a, "echo"))
	roundTrip(t, c, "hello")
	if s := b.Streams.List(); len(s) != 1 || !s[0].Relayed || !strings.Contains(s[0].Path.String(), "/p2p-circuit") {
		t.Errorf("%+v", s)
	}
}
