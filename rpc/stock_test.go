package rpc

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// What the documentation of each field says is what the field becomes.
func TestDefaults(t *testing.T) {
	server := ServerConfig{
		ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, ConnectTimeout: 10 * time.Second,
		IdleTimeout: 10 * time.Minute, MaxIdleTime: 30 * time.Minute, CleanupInterval: 5 * time.Minute, DrainTimeout: 5 * time.Second,
		MaxBlockSize: 32 << 20, MaxConcurrentConns: 1000, MaxConnsPerPeer: 125, MaxRequestsPerConn: 0,
		MaxMemoryUsage: 1 << 30, BufferPoolSize: 4 << 10, EnableCompression: true, CompressMinSize: 4 << 10,
		MethodLimits: Limits{Concurrent: 1000}.withDefaults(1000), PeerLimits: Limits{Concurrent: 256}.withDefaults(256),
		Name: "kith",
	}
	got := *DefaultServerConfig()
	if got.Logger == nil {
		t.Error("no logger")
	}
	got.Logger = nil
	if !reflect.DeepEqual(got, server) {
		t.Errorf("%+v\nwant %+v", got, server)
	}
	client := ClientConfig{
		ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, ConnectTimeout: 5 * time.Second,
		MaxRetries: 3, RetryInterval: time.Second, RetryBudget: 0.1, MaxBlockSize: 32 << 20, MaxConnsPerPeer: 60,
		MaxIdleConns: 100, IdleConnTimeout: 5 * time.Minute, EnableCompression: true, CompressMinSize: 4 << 10,
	}
	if got := *DefaultClientConfig(); !reflect.DeepEqual(got, client) {
		t.Errorf("%+v\nwant %+v", got, client)
	}
	// What is not set is the same, but for compression, which is a choice.
	server.EnableCompression, client.EnableCompression = false, false
	got = (&ServerConfig{}).withDefaults()
	got.Logger = nil
	if !reflect.DeepEqual(got, server) {
		t.Errorf("%+v\nwant %+v", got, server)
	}
	if got := (&ClientConfig{}).withDefaults(); !reflect.DeepEqual(got, client) {
		t.Errorf("%+v\nwant %+v", got, client)
	}
	for _, l := range []Limits{server.MethodLimits, server.PeerLimits} {
		if l.Rate != 0 {
			t.Errorf("%+v: there is a rate", l)
		}
	}
	for conns, most := range map[int]int{1: 64, 512: 64, 1000: 125, 8000: 1000} {
		if got := (&ServerConfig{MaxConcurrentConns: conns}).withDefaults().MaxConnsPerPeer; got != most {
			t.Errorf("%d streams: %d for one peer, want %d", conns, got, most)
		}
	}
}

// stockHost is a host as libp2p makes it by itself.
func stockHost(t *testing.T) corehost.Host {
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// 200 calls at once, each way on pooled streams, between two hosts of libp2p.New, with
// its own limits on streams and connections and the defaults of this package: all
// succeed, no handler runs twice, and as many are under way as there are streams.
func TestManyCallsWithinStockLimits(t *testing.T) {
	const calls = 200
	for _, wire := range []string{"framed", "plain"} {
		t.Run(wire, func(t *testing.T) {
			a, b := stockHost(t), stockHost(t)
			know(a, b)
			know(b, a)
			if err := a.Connect(t.Context(), peer.AddrInfo{ID: b.ID()}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
			defer cancel()
			var all sync.WaitGroup
			errs := make(chan error, 3*calls)
			ways := [][2]corehost.Host{{a, b}, {b, a}}
			if wire == "plain" {
				ways = ways[:1]
			}
			for _, way := range ways {
				// The limits are the defaults; the times are not what is tested.
				client, server := DefaultClientConfig(), DefaultServerConfig()
				client.ConnectTimeout, server.ConnectTimeout, server.ReadTimeout = time.Hour, time.Hour, time.Hour
				if wire == "plain" {
					// A stream for each call: one that has just ended may count at the other
					// end for a moment, and what is turned away for that is made again.
					client.MaxRetries, client.RetryInterval, client.RetryBudget = 100, 20*time.Millisecond, 1
				}
				c, s := newClient(t, way[0], client), newServer(t, way[1], server)
				var running, served atomic.Int64
				full := make(chan struct{})
				if err := s.Start(echoID, func(b []byte) ([]byte, error) {
					served.Add(1)
					if running.Add(1) == int64(DefaultClientConfig().MaxConnsPerPeer) {
						close(full) // so many are here at one time
					}
					<-full
					return b, nil
				}); err != nil {
					t.Fatal(err)
				}
				if wire == "plain" {
					way[1].RemoveStreamHandler(Protocol) // as if it were PointSub
				}
				var these sync.WaitGroup
				for i := range calls {
					these.Go(func() {
						body := fmt.Sprint("call ", i)
						if got, err := c.Send(ctx, way[1].ID(), echoID, []byte(body)); err != nil || string(got) != body {
							errs <- fmt.Errorf("%s: %q, %w", body, got, err)
						}
					})
				}
				all.Go(func() {
					these.Wait()
					if st := c.Stats(); st.Failed != 0 || wire == "framed" && (st.Retries != 0 || st.Faults != (Faults{}) || st.Dials > 60) {
						errs <- fmt.Errorf("%+v", st)
					}
					if st := s.Stats(); served.Load() != calls || st.Refused != 0 || st.ConnsRefused != 0 {
						errs <- fmt.Errorf("served %d: %+v", served.Load(), st)
					}
				})
			}
			all.Wait()
			close(errs)
			for err := range errs {
				t.Error(err)
			}
		})
	}
}

// A server of the plain wire that never ends its half of a stream costs a wait once,
// not for each call.
func TestPlainServerThatNeverEndsItsHalf(t *testing.T) {
	a, b := tcpHosts(t)
	leave := make(chan struct{})
	var served atomic.Int64
	b.SetStreamHandler(echoID, func(s network.Stream) {
		var head [4]byte
		io.ReadFull(s, head[:])
		served.Add(1)
		s.Write([]byte{0, 0, 0, 0})
		<-leave
		s.Reset()
	})
	defer close(leave)
	c := newClient(t, a, &ClientConfig{MaxConnsPerPeer: 2})
	for range 10 {
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if _, err := c.Send(ctxOf(t), b.ID(), echoID, nil); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
	}
	if st := c.Stats(); served.Load() != 20 || st.Failed != 0 {
		t.Errorf("%d served: %+v", served.Load(), st)
	}
}
