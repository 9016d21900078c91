package tunnel

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
)

// limited is a resource manager that allows all but what is given.
func limited(t *testing.T, c rcmgr.PartialLimitConfig) network.ResourceManager {
	t.Helper()
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(c.Build(rcmgr.InfiniteLimits)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// limitedNode is a node with such a resource manager.
func limitedNode(t *testing.T, c rcmgr.PartialLimitConfig) node {
	t.Helper()
	h, err := libp2p.New(libp2p.ResourceManager(limited(t, c)), libp2p.ListenAddrStrings(overTCP))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return nodeOver(t, h)
}

// A limit of libp2p's was "a resource limit": not which, nor how high it is.
func TestRegressionAResourceLimitHadNoName(t *testing.T) {
	who, at := newHost(t).ID(), ma.StringCast("/ip4/192.0.2.1/tcp/1")
	stream := func(m network.ResourceManager) (network.StreamManagementScope, error) {
		return m.OpenStream(who, network.DirOutbound)
	}
	open := func(m network.ResourceManager) error { _, err := stream(m); return err }
	speak := func(m network.ResourceManager) error {
		s, err := stream(m)
		if err != nil {
			return err
		}
		return s.SetProtocol("/a")
	}
	connect := func(m network.ResourceManager) error {
		_, err := m.OpenConnection(network.DirOutbound, true, at)
		return err
	}
	fill := func(m network.ResourceManager) error {
		s, err := stream(m)
		for err == nil {
			err = s.ReserveMemory(1<<19, network.ReservationPriorityAlways)
		}
		return err
	}
	for _, tc := range []struct {
		name   string
		limits rcmgr.PartialLimitConfig
		use    func(network.ResourceManager) error
		want   string
	}{
		{"streams in all", rcmgr.PartialLimitConfig{System: rcmgr.ResourceLimits{StreamsOutbound: 1}}, open,
			"this node cannot reserve outbound stream: its limit in all is 1; "},
		{"streams with a peer", rcmgr.PartialLimitConfig{Peer: map[peer.ID]rcmgr.ResourceLimits{who: {StreamsOutbound: 2}}}, open,
			"this node cannot reserve outbound stream: its limit with peer " + who.String() + " is 2; "},
		{"streams of a protocol", rcmgr.PartialLimitConfig{Protocol: map[protocol.ID]rcmgr.ResourceLimits{"/a": {Streams: 3}}}, speak,
			"this node cannot reserve stream: its limit for /a is 3; "},
		{"streams of a protocol with a peer", rcmgr.PartialLimitConfig{ProtocolPeer: map[protocol.ID]rcmgr.ResourceLimits{"/a": {Streams: 3}}}, speak,
			"this node cannot reserve stream: its limit for /a with peer " + who.String() + " is 3; "},
		{"connections being set up", rcmgr.PartialLimitConfig{Transient: rcmgr.ResourceLimits{ConnsOutbound: 4}}, connect,
			"this node cannot reserve outbound connection: its limit for what is still being set up is 4; "},
		{"files", rcmgr.PartialLimitConfig{System: rcmgr.ResourceLimits{FD: 2}}, connect,
			"this node cannot reserve file descriptor: its limit in all is 2; "},
		{"memory", rcmgr.PartialLimitConfig{Stream: rcmgr.ResourceLimits{Memory: 1 << 20}}, fill,
			"this node cannot reserve memory: its limit for one stream is 1048576 bytes; "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := limited(t, tc.limits)
			err := tc.use(m)
			for range 4 {
				if err == nil {
					err = tc.use(m)
				}
			}
			e := reasonOf(fmt.Errorf("a layer above: %w", err))
			if e == nil || e.Reason != ReasonLimit || e.Remote || !errors.Is(e, network.ErrResourceLimitExceeded) {
				t.Fatalf("%v is %+v", err, e)
			}
			if got := e.Error(); !strings.HasPrefix(got, "limit reached: "+tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
			if got := e.told(); got != tooManyStreams {
				t.Errorf("a peer is told %q", got)
			}
			dial := &swarm.DialError{Peer: who, DialErrors: []swarm.TransportError{{Address: at, Cause: err}}}
			if e := unreachable(who, dial); e.Reason != ReasonLimit || !strings.HasPrefix(e.Detail, tc.want) {
				t.Errorf("a dial that it stopped: %v", e)
			}
			dial.DialErrors = append(dial.DialErrors, swarm.TransportError{Address: at, Cause: errors.New("refused")})
			if e := unreachable(who, dial); e.Reason != ReasonUnreachable || !strings.Contains(e.Detail, tc.want) || !strings.Contains(e.Detail, "refused") {
				t.Errorf("a dial that it stopped in part: %v", e)
			}
		})
	}
}

// Who is refused learns which limit of ours it was, and of the peer's what kind.
func TestRegressionAResourceLimitOfATunnelHadNoName(t *testing.T) {
	own := map[protocol.ID]rcmgr.ResourceLimits{Protocol: {StreamsOutbound: 1}}
	a, b := newNode(t, overTCP), limitedNode(t, rcmgr.PartialLimitConfig{ProtocolPeer: own})
	expose(t, a, "echo", service(t, echo), AllowAny())
	b.Remember(a.id, a.addr())
	c, err := b.Open(t.Context(), a.id, "echo")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = b.Open(t.Context(), a.id, "echo")
	want := fmt.Sprintf("limit reached: this node cannot reserve outbound stream: its limit for %s with peer %s is 1; ", Protocol, a.id)
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}

	theirs := map[protocol.ID]rcmgr.ResourceLimits{Protocol: {StreamsInbound: 1}}
	a, b = limitedNode(t, rcmgr.PartialLimitConfig{ProtocolPeer: theirs}), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	b.Remember(a.id, a.addr())
	if c, err = b.Open(t.Context(), a.id, "echo"); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = b.Open(t.Context(), a.id, "echo")
	if !errors.Is(err, &Error{Reason: ReasonLimit}) || err.Error() != "limit reached: "+tooManyStreams+" (said by the peer)" {
		t.Errorf("the peer's limit: %v", err)
	}
}
