package kith

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A node finds another, and uses a service of it, by its ID alone: all they have
// in common is one node of the DHT.
func TestFindByIDAlone(t *testing.T) {
	cfg := Config{DHT: DHTLAN, NoPEX: true, Network: "find"}
	one := startWith(t, cfg)
	cfg.Bootstrap = one.Addrs()[:1]
	var nodes []*Node
	for range 4 {
		nodes = append(nodes, startWith(t, cfg))
	}
	a, b := nodes[0], nodes[3]
	if _, err := b.Listen("echo", "*"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a finds b", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, places, err := a.Find(ctx, b.ID().String())
		return err == nil && len(places) > 0
	})
	if _, err := a.Connect(t.Context(), b.ID().String()); err != nil {
		t.Error(err)
	}
	c, err := a.Dial(t.Context(), b.ID().String(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()

	// Nobody has heard of this one, and a node without a DHT asks nobody.
	const nobody = "12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, n := range []*Node{a, startWith(t, Config{})} {
		if _, _, err := n.Find(ctx, nobody); !errors.Is(err, ErrUnknownPeer) {
			t.Error(err)
		}
	}
	if _, err := New(Config{Home: t.TempDir(), LocalOnly: true, DHT: "some"}); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
}
