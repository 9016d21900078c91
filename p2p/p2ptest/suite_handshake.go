package p2ptest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// What Handshake has to do.
var handshakeTests = []test{
	{"HandshakeIdentity", testHandshakeIdentity},
	{"HandshakeWrongID", testHandshakeWrongID},
	{"HandshakeOtherKey", testHandshakeOtherKey},
	{"HandshakeContext", testHandshakeContext},
	{"HandshakePeerCloses", testHandshakePeerCloses},
	{"HandshakeOnce", testHandshakeOnce},
}

// Both sides learn who the other is and what it says of itself.
func testHandshakeIdentity(b *bench) {
	x, y := b.connect()
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	infoA, infoB := b.info(b.KeyA, "a"), b.info(b.KeyB, "b")
	infoB.Channels = infoB.Channels[1:]
	infoB.Network = "another network: that is not the transport's business"
	infoB.ProtocolVersion.Block = 12
	one, theirs := b.shake(ctx, x, infoA, b.KeyA)
	two, ours := b.shake(ctx, y, infoB, b.KeyB)
	one.must()
	two.must()
	for _, c := range []struct {
		got  *peer
		want p2p.NodeInfo
		key  p2p.PubKey
	}{{theirs, infoB, b.KeyB.Public()}, {ours, infoA, b.KeyA.Public()}} {
		if c.got.key != c.key || c.got.info.NodeID != c.key.NodeID() {
			b.Errorf("node %s with key %v, want %s with key %v", c.got.info.NodeID, c.got.key, c.key.NodeID(), c.key)
		}
		got := c.got.info
		if got.ProtocolVersion != c.want.ProtocolVersion || got.ListenAddr != c.want.ListenAddr || got.Network != c.want.Network || got.Version != c.want.Version ||
			got.Moniker != c.want.Moniker || got.Other != c.want.Other || !slices.Equal(got.Channels, c.want.Channels) {
			b.Errorf("node info %+v, want %+v", got, c.want)
		}
	}
}

// A node that claims a NodeID without having its key is refused, by both sides of
// the connection, and the connection is closed.
func testHandshakeWrongID(b *bench) {
	for _, dialler := range []bool{true, false} {
		x, y := b.connect()
		liar, honest := x, y
		liarKey, honestKey := b.KeyA, b.KeyB
		if !dialler {
			liar, honest, liarKey, honestKey = y, x, b.KeyB, b.KeyA
		}
		lie := b.info(b.newKey(), "liar")
		ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
		one, _ := b.shake(ctx, liar, lie, liarKey)
		two, believed := b.shake(ctx, honest, b.info(honestKey, "honest"), honestKey)
		if err := two.wait(); err == nil {
			b.Errorf("somebody with the key of %s is believed to be %s", liarKey.Public().NodeID(), believed.info.NodeID)
		}
		_ = one.wait() // whether it hears of it is its own business
		cancel()
		closed := b.start("ReceiveMessage after a refused handshake", func() error {
			_, _, err := honest.ReceiveMessage()
			return err
		})
		if err := closed.wait(); err == nil {
			b.Error("a connection lives on after a refused handshake")
		}
	}
}

// A node that uses another key than the listener's is that other node, or nobody.
func testHandshakeOtherKey(b *bench) {
	x, y := b.connect()
	other := b.newKey()
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	one, theirs := b.shake(ctx, x, b.info(b.KeyA, "a"), b.KeyA)
	two, _ := b.shake(ctx, y, b.info(other, "other"), other)
	if err := two.wait(); err != nil {
		_ = y.Close() // a transport with a key of its own; the dialler must fail, too
	}
	if err := one.wait(); err == nil && (theirs.key != other.Public() || theirs.info.NodeID != other.Public().NodeID()) {
		b.Errorf("the peer with the key of %s is taken for %s with key %v", other.Public().NodeID(), theirs.info.NodeID, theirs.key)
	}
}

// When the context of a handshake ends, it fails with the context's error and
// closes the connection, though the other side says nothing.
func testHandshakeContext(b *bench) {
	for _, deadline := range []bool{false, true} {
		for _, dialler := range []bool{true, false} {
			x, y := b.connect()
			waiting, silent := x, y
			key := b.KeyA
			if !dialler {
				waiting, silent, key = y, x, b.KeyB
			}
			ctx, cancel := context.WithCancel(context.Background())
			want := context.Canceled
			if deadline {
				ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
				want = context.DeadlineExceeded
			}
			t, _ := b.shake(ctx, waiting, b.info(key, "waiting"), key)
			if !deadline {
				cancel()
			}
			if err := t.wait(); !errors.Is(err, want) {
				b.Errorf("a handshake whose context ended returns %v, want %v", err, want)
			}
			cancel()
			closed := b.start("a handshake with a side that gave up", func() error {
				live, cancel := context.WithTimeout(context.Background(), b.timeout/2)
				defer cancel()
				_, _, err := silent.Handshake(live, b.info(b.KeyB, "late"), b.KeyB)
				if err == nil {
					_, _, err = silent.ReceiveMessage()
				}
				if errors.Is(err, context.DeadlineExceeded) {
					return errors.New("it ran into its own deadline")
				}
				return nil
			})
			if err := closed.wait(); err != nil {
				b.Errorf("the connection of a handshake that was given up is open: %v", err)
			}
		}
	}
}

// A side that closes instead of shaking hands ends the other's handshake.
func testHandshakePeerCloses(b *bench) {
	x, y := b.connect()
	ctx, cancel := context.WithTimeout(context.Background(), 2*b.timeout)
	defer cancel()
	t, _ := b.shake(ctx, x, b.info(b.KeyA, "a"), b.KeyA)
	b.do("Close", y.Close)
	if err := t.wait(); err == nil {
		b.Error("a handshake succeeded with a side that closed")
	}
}

// A second handshake is an error, and does not hang.
func testHandshakeOnce(b *bench) {
	x, _ := b.pair()
	ctx, cancel := context.WithTimeout(context.Background(), 2*b.timeout)
	defer cancel()
	t, _ := b.shake(ctx, x, b.info(b.KeyA, "a"), b.KeyA)
	if err := t.wait(); err == nil {
		b.Error("a second handshake succeeded")
	}
}
