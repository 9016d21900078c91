package mconn

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
)

// seeded is the key whose seed is 32 times b.
func seeded(t testing.TB, b byte) p2p.PrivKey {
	t.Helper()
	var seed [identity.SeedSize]byte
	for i := range seed {
		seed[i] = b
	}
	key, err := identity.PrivKeyFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// infoOf is a node info that CometBFT would take.
func infoOf(key p2p.PrivKey, channels ...p2p.ChannelID) p2p.NodeInfo {
	if len(channels) == 0 {
		channels = []p2p.ChannelID{0, 1, 2, 0x40}
	}
	return p2p.NodeInfo{
		ProtocolVersion: p2p.ProtocolVersion{P2P: 9, Block: 11, App: 1},
		NodeID:          key.Public().NodeID(), ListenAddr: "tcp://127.0.0.1:0", Network: "test",
		Version: "1.0.1", Moniker: "kith", Channels: channels,
		Other: p2p.NodeInfoOther{TxIndex: "on", RPCAddress: "tcp://127.0.0.1:26657"},
	}
}

// both runs one function for each end and waits for both.
func both(a, b func() error) error {
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, f := range []func() error{a, b} {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("end %d: %w", i, err)
		}
	}
	return nil
}

// pairOver shakes hands over two ends; the keys are seeded 3 and 4.
func pairOver(t testing.TB, x, y net.Conn, opts Options) (*Connection, *Connection) {
	t.Helper()
	return pairOf(t, x, y, opts, opts)
}

// pairOf is pairOver of two ends that differ.
func pairOf(t testing.TB, x, y net.Conn, ofX, ofY Options) (*Connection, *Connection) {
	t.Helper()
	var ends [2]*Connection
	for i, nc := range []net.Conn{x, y} {
		c, err := NewConnection(nc, []Options{ofX, ofY}[i])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ends[i] = c
	}
	shake := func(i int) func() error {
		return func() error {
			key := seeded(t, byte(3+i))
			_, _, err := ends[i].Handshake(context.Background(), infoOf(key), key)
			return err
		}
	}
	if err := both(shake(0), shake(1)); err != nil {
		t.Fatal(err)
	}
	return ends[0], ends[1]
}

// tcpPair is a pair over loopback.
func tcpPair(t testing.TB, opts Options) (*Connection, *Connection) {
	t.Helper()
	x, y := rawPair(t)
	return pairOver(t, x, y, opts)
}
