package gossip_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/dispatch/gossip"
)

// Fifty hosts on simulated links of 20 Mbit/s and 25 ms each way, in virtual time,
// so that the machine does not count: 99.9 % of the deliveries take less than 500 ms.
func TestGossip50HostsLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, messages = 50, 20
		speed := simnet.LinkSettings{BitsPerSecond: 20 * simlibp2p.OneMbps}
		network, meta, err := simlibp2p.SimpleLibp2pNetwork([]simlibp2p.NodeLinkSettingsAndCount{
			{LinkSettings: simnet.NodeBiDiLinkSettings{Downlink: speed, Uplink: speed}, Count: n},
		}, simnet.StaticLatency(25*time.Millisecond), simlibp2p.NetworkSettings{})
		if err != nil {
			t.Fatal(err)
		}
		network.Start()
		defer network.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		var times []time.Duration
		var services []*dispatch.Service
		for _, h := range meta.Nodes {
			defer h.Close()
			b, err := gossip.New(h, gossip.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			s, err := dispatch.NewService(nil, dispatch.Options{Backend: b})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			defer s.Stop()
			services = append(services, s)
			sub, err := dispatch.Subscribe[*timestamppb.Timestamp](s, "t", dispatch.Policy{})
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for m, err := range sub.Messages(ctx) {
					if err != nil {
						return
					}
					mu.Lock()
					times = append(times, time.Since(m.Message.AsTime()))
					mu.Unlock()
				}
			}()
		}
		random := rand.New(rand.NewPCG(1, 2))
		for i, h := range meta.Nodes {
			for _, j := range []int{(i + 1) % n, random.IntN(n), random.IntN(n), random.IntN(n)} {
				if to := meta.Nodes[j]; j != i {
					if err := h.Connect(ctx, peer.AddrInfo{ID: to.ID(), Addrs: to.Addrs()}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		time.Sleep(5 * time.Second) // heartbeats, in which the mesh comes to be
		for i := range messages {
			if err := services[i*7%n].Publish(ctx, "t", timestamppb.Now()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		mu.Lock()
		slices.Sort(times)
		within, _ := slices.BinarySearch(times, 500*time.Millisecond)
		t.Logf("%d deliveries of %d, %d within 500 ms; median %v, last %v", len(times), n*messages, within, times[len(times)/2], times[len(times)-1])
		if len(times) != n*messages || within < n*messages*999/1000 {
			t.Errorf("too few")
		}
		mu.Unlock()
	})
}
