package p2p_test

import (
	"context"
	"testing"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/p2p"
)

// elsewhere is a transport whose connections lead to the peer, but not to the
// endpoint that was dialled.
type elsewhere struct{ p2p.Transport }

type foundElsewhere struct{ p2p.Connection }

func (foundElsewhere) Proven(p2p.Endpoint) bool { return false }

func (t elsewhere) Dial(ctx context.Context, e p2p.Endpoint) (p2p.Connection, error) {
	c, err := t.Transport.Dial(ctx, e)
	if err != nil {
		return nil, err
	}
	return foundElsewhere{c}, nil
}

// A peer that is connected anyway had any address believed that it named: the
// dialled one was noted as one at which it was met.
func TestRegressionDialledAddressThatWasNotReached(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		a := w.node(func(o *p2p.RouterOptions) { o.Transports[0] = elsewhere{o.Transports[0]} })
		b, c := w.node(), w.node()
		for _, n := range []*testNode{a, b, c} {
			openText(t, n, 1)
		}
		w.start(a, b, c)
		w.connect(a, b)
		w.connect(c, b)
		if e, ok := a.pm.Book().Entry(b.at); !ok || e.Verified || e.Table == addrbook.Tried {
			t.Errorf("found elsewhere: %v %+v", ok, e)
		}
		if e, ok := c.pm.Book().Entry(b.at); !ok || !e.Verified {
			t.Errorf("reached: %v %+v", ok, e)
		}
	})
}
