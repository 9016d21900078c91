package p2p

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestPEXAsksInTurn(t *testing.T) {
	c, now := newPEXCore(), newTestClock()
	up := []NodeID{nodeID("a"), nodeID("b")}
	ask := func(want string, pause time.Duration) {
		t.Helper()
		id, got := c.next(up, now.now())
		if want != "" && id != nodeID(want) || want == "" && id != "" || got != pause {
			t.Fatalf("%q after %v, want %q after %v", id, got, want, pause)
		}
	}
	if id, pause := c.next(nil, now.now()); id != "" || pause != pexFast {
		t.Fatal(id, pause)
	}
	ask("a", pexFast) // fast while all is new
	ask("", pexFast)  // somebody was just asked
	now.add(pexFast)
	ask("b", pexFast)
	now.add(pexFast)
	ask("", pexFast) // both owe a reply
	if !c.replied(nodeID("a")) || c.replied(nodeID("a")) {
		t.Fatal("a reply was asked for once")
	}
	now.add(pexAskEvery - 2*pexFast - 1)
	ask("", pexFast) // CometBFT bans who asks more often
	now.add(1)
	ask("a", pexFast)
	now.add(pexReplyWait)
	ask("b", pexFast) // its reply never came: it is asked again, and may still reply twice
	for i, want := range []bool{true, true, false} {
		if got := c.replied(nodeID("b")); got != want {
			t.Fatalf("late reply %d: asked for: %v", i, got)
		}
	}
}

// The pause between questions grows as less that comes is new.
func TestPEXIntervalByShareOfNew(t *testing.T) {
	pause := func(added, n, times int) time.Duration {
		c := newPEXCore()
		for range times {
			c.learnt(added, n)
		}
		_, p := c.next([]NodeID{nodeID("a")}, newTestClock().now())
		return p
	}
	if p := pause(100, 100, 5); p != pexFast {
		t.Errorf("all new: %v", p)
	}
	last := time.Duration(0)
	for _, added := range []int{100, 75, 50, 25, 0} {
		p := pause(added, 100, 50)
		if p < last {
			t.Errorf("%d%% new: %v, but with more new %v", added, p, last)
		}
		last = p
	}
	if last < pexSlow-time.Second || last > pexSlow || pause(0, 0, 50) != last {
		t.Errorf("nothing new: %v", last)
	}
}

func TestPEXMayAsk(t *testing.T) {
	c, now := newPEXCore(), newTestClock()
	ask := func() bool { return c.mayAsk(nodeID("a"), now.now()) }
	for i := range pexBurst {
		if !ask() {
			t.Fatalf("question %d is refused", i+1)
		}
	}
	if ask() {
		t.Fatal("no limit")
	}
	now.add(pexRefill)
	if !ask() || ask() {
		t.Fatal("one more after the refill")
	}
	now.add(time.Hour)
	for range pexBurst {
		if !ask() {
			t.Fatal("no burst after a pause")
		}
	}
	if ask() || !c.mayAsk(nodeID("b"), now.now()) {
		t.Fatal("the limit is each peer's own, and has a cap")
	}
}

// In Tendermint v0.35 two PEX versions with different limits disconnected each
// other: nothing that one side may do is a fault for the other.
func TestRegressionPEXLimitsAgree(t *testing.T) {
	if pexSend > pexAccept {
		t.Errorf("sends %d addresses, takes %d", pexSend, pexAccept)
	}
	// CometBFT's numbers: 250 addresses in 64,000 B, a question every 10 s.
	if pexAccept < 250 || pexMaxBytes < 64_000 || pexAskEvery < 10*time.Second {
		t.Error("stricter than CometBFT, or faster")
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	asker, answerer, now := newPEXCore(), newPEXCore(), newTestClock()
	var last time.Time
	for range 10_000 { // what we ask, we answer, however eager the one that asks is
		if id, _ := asker.next([]NodeID{nodeID("a")}, now.now()); id != "" {
			if !last.IsZero() && now.now().Sub(last) < 10*time.Second {
				t.Fatalf("seed %d: asks again after %v", seed, now.now().Sub(last))
			}
			last = now.now()
			if !answerer.mayAsk(nodeID("b"), now.now()) || !asker.replied(id) {
				t.Fatalf("seed %d: a question of ours is refused, or its reply", seed)
			}
			asker.learnt(r.IntN(100), 100)
		}
		now.add(time.Duration(r.IntN(5000)) * time.Millisecond)
	}
}

func TestPEXForgetsWhoIsGone(t *testing.T) {
	c, now := newPEXCore(), newTestClock()
	for i := range 100 {
		c.mayAsk(numberedID(i), now.now())
	}
	c.keep(map[NodeID]*remote{numberedID(3): {}})
	if len(c.peers) != 1 || c.peers[numberedID(3)] == nil {
		t.Fatal(len(c.peers))
	}
}
