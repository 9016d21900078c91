package rpc

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
)

// limitedHost has the resource limits that are given, and no others.
func limitedHost(t *testing.T, c rcmgr.PartialLimitConfig) corehost.Host {
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(c.Build(rcmgr.InfiniteLimits)))
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.ResourceManager(m), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// Who runs into a resource limit of his own host is told which one, and how high it
// is; of the peer's he learns that it is one.
func TestResourceLimitsAreNamed(t *testing.T) {
	plenty := rcmgr.PartialLimitConfig{}
	for _, tc := range []struct {
		name string
		ours rcmgr.PartialLimitConfig
		want []string
	}{
		{"streams to a protocol of a peer", rcmgr.PartialLimitConfig{ProtocolPeerDefault: rcmgr.ResourceLimits{StreamsOutbound: 3}},
			[]string{"a resource limit of this node", "outbound stream", string(Protocol), "the limit is 3"}},
		{"streams of a protocol", rcmgr.PartialLimitConfig{ProtocolDefault: rcmgr.ResourceLimits{StreamsOutbound: 5}},
			[]string{"a resource limit of this node", "outbound stream", "protocol:" + string(Protocol), "the limit is 5"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := limitedHost(t, tc.ours), limitedHost(t, plenty)
			know(a, b)
			s := newServer(t, b, nil)
			c := newClient(t, a, nil)
			startEcho(t, s)
			if _, err := c.Send(ctxOf(t), b.ID(), echoID, nil); err != nil {
				t.Fatal(err)
			}
			var open []*ClientStream
			defer func() {
				for _, st := range open {
					st.Close()
				}
			}()
			handleStream(t, s, "/kith-test/open", func(_ context.Context, st *ServerStream) error {
				_, err := st.Recv()
				return err
			})
			var err error
			for err == nil && len(open) < 10 {
				var st *ClientStream
				if st, err = c.Open(ctxOf(t), &Request{Peer: b.ID(), Method: "/kith-test/open"}); err == nil {
					open = append(open, st)
				}
			}
			e := wantCode(t, err, CodeResourceExhausted)
			if !errors.Is(err, network.ErrResourceLimitExceeded) || !e.Refused {
				t.Errorf("%+v", e)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in %q", want, err)
				}
			}
		})
	}
}
