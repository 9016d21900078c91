package p2p_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/kith-p2p/kith/p2p"
)

// The user hears how each dial ended: of a peer that is there, and of one that
// is not, again and again.
func TestDialledIsToldOfEveryDial(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		outcomes := map[p2p.NodeID][]error{}
		told := func(id p2p.NodeID) []error {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(outcomes[id])
		}
		a, b := w.node(func(o *p2p.RouterOptions) {
			o.Dialled = func(at p2p.NodeAddress, err error) {
				mu.Lock()
				defer mu.Unlock()
				outcomes[at.NodeID] = append(outcomes[at.NodeID], err)
			}
		}), w.node()
		openText(t, a, 1)
		openText(t, b, 1)
		w.start(a, b)
		w.connect(a, b)
		nobody := testKey(99).Public().NodeID()
		away := p2p.NodeAddress{NodeID: nobody, Protocol: "mconn", Hostname: "127.0.0.1", Port: 1}
		if w.net != nil {
			away = p2p.NodeAddress{NodeID: nobody, Protocol: "memory"}
		}
		if _, err := a.pm.Add(away); err != nil {
			t.Fatal(err)
		}
		w.until(func() bool { return len(told(nobody)) >= 2 })
		if got := told(b.id); len(got) != 1 || got[0] != nil {
			t.Errorf("of the peer that is there: %v", got)
		}
		if slices.Contains(told(nobody), nil) {
			t.Errorf("of nobody: %v", told(nobody))
		}
	})
}
