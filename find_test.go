package kith

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/routing"
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

// Who looked for a peer in vain was told twice that there is no DHT, or in the
// words of a library.
func TestRegressionFindSaidDHTTwice(t *testing.T) {
	const nobody = "12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"
	one := startWith(t, Config{DHT: DHTLAN, NoPEX: true, Network: "find"})
	two := startWith(t, Config{DHT: DHTLAN, NoPEX: true, Network: "find", Bootstrap: one.Addrs()[:1]})
	eventually(t, "two knows one", func() bool { wan, lan := two.dht.Nodes(); return wan+lan > 0 })
	for says, n := range map[string]*Node{
		"takes part in no DHT":   startWith(t, Config{}),
		"`kith bootstrap add`":   startWith(t, Config{DHT: DHTLAN, NoPEX: true, Network: "alone"}),
		"give a full address of": two,
	} {
		_, _, err := n.Find(t.Context(), nobody)
		errs := []error{err}
		if n.dht != nil {
			_, err := n.Connect(t.Context(), nobody)
			errs = append(errs, err)
		}
		for _, err := range errs {
			if !errors.Is(err, ErrUnknownPeer) || !errors.Is(err, routing.ErrNotFound) || !strings.Contains(err.Error(), says) ||
				strings.Count(err.Error(), "DHT") != 1 || strings.Contains(err.Error(), "routing") || strings.Contains(err.Error(), "discovery") {
				t.Errorf("%q: %v", says, err)
			}
		}
	}
}
