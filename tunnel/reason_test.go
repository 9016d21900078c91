package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
)

// Of a peer that did not answer was said just that.
func TestRegressionAnUnreachablePeerHadNoNextStep(t *testing.T) {
	who, at := newHost(t).ID(), ma.StringCast("/ip4/192.0.2.1/tcp/1")
	for _, err := range []error{
		context.DeadlineExceeded,
		fmt.Errorf("a layer: %w", context.DeadlineExceeded),
		&swarm.DialError{Peer: who, DialErrors: []swarm.TransportError{{Address: at, Cause: context.DeadlineExceeded}}},
		&swarm.DialError{Peer: who, DialErrors: []swarm.TransportError{{Address: at, Cause: errors.New("connection refused")}}},
	} {
		if e := unreachable(who, err); e.Reason != ReasonUnreachable || !strings.HasSuffix(e.Error(), "; "+lookThere) {
			t.Errorf("%v: %v", err, e)
		}
	}
}

// A connection that the peer closed for a limit of its own was "lost".
func TestRegressionAPeersConnectionLimitWasALoss(t *testing.T) {
	for code, detail := range map[network.ConnErrorCode]string{network.ConnResourceLimitExceeded: tooManyConns, network.ConnRateLimited: tooFast} {
		e := reasonOf(fmt.Errorf("a layer: %w", &network.ConnError{Remote: true, ErrorCode: code}))
		if e.Reason != ReasonLimit || !e.Remote || e.Detail != detail {
			t.Errorf("%#x: %v", code, e)
		}
	}
}
