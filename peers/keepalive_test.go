package peers

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// For an hour of virtual time a book pings a server at the highest rate that it may: with no call, with a silent
// stream, and with calls in between. The server must never object. The canary shows that a server without
// ServerOptions does, within a minute, so the test can fail.
func TestKeepAliveIsNeverPunished(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts []grpc.ServerOption
		live bool
	}{
		{"a kith server", ServerOptions(), true},
		{"canary: a server of gRPC's defaults", nil, false},
	} {
		for _, use := range []string{"no call", "a silent stream", "calls"} {
			if !tc.live && use == "calls" {
				continue // data resets what the server counts
			}
			t.Run(tc.name+", "+use, func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					f := newFabric()
					l, err := f.Listen(addr1)
					if err != nil {
						t.Fatal(err)
					}
					s := grpc.NewServer(tc.opts...)
					healthpb.RegisterHealthServer(s, health.NewServer())
					go s.Serve(manet.NetListener(l))
					t.Cleanup(s.Stop)
					b := newTestBook(t, f, func(p *Params) { p.KeepAlive, p.Idle = MinKeepAlive, 24*time.Hour })
					cc := mustChannel(t, b, addr1)
					ended := make(chan struct{})
					if use == "a silent stream" {
						w, err := healthpb.NewHealthClient(cc).Watch(t.Context(), &healthpb.HealthCheckRequest{})
						if err != nil {
							t.Fatal(err)
						}
						if _, err := w.Recv(); err != nil {
							t.Fatal(err)
						}
						go func() { w.Recv(); close(ended) }()
						defer func() { b.Shutdown(); <-ended }()
					}
					lost := false
					for start := time.Now(); time.Since(start) < time.Hour && !lost; {
						if use == "calls" {
							if err := check(t.Context(), cc); err != nil {
								t.Fatal(err)
							}
						}
						ctx, cancel := context.WithTimeout(t.Context(), 47*time.Second)
						lost = cc.WaitForStateChange(ctx, connectivity.Ready)
						cancel()
					}
					if lost == tc.live {
						t.Errorf("the connection was cut: %v", lost)
					}
				})
			})
		}
	}
}

// ServerOptions take pings of every KeepAlive that Params take.
func TestServerOptionsFitEveryKeepAlive(t *testing.T) {
	virtual(t, func(t *testing.T) {
		for _, every := range []time.Duration{MinKeepAlive, MinKeepAlive + time.Millisecond, 17 * time.Second, DefaultKeepAlive, time.Hour} {
			f := newFabric()
			_, stop := serve(t, f, addr1)
			b := newTestBook(t, f, func(p *Params) { p.KeepAlive, p.Idle = every, 1000*time.Hour })
			cc := mustChannel(t, b, addr1)
			ctx, cancel := context.WithTimeout(t.Context(), 20*every)
			if cc.WaitForStateChange(ctx, connectivity.Ready) {
				t.Errorf("KeepAlive %v: the connection was cut", every)
			}
			cancel()
			b.Shutdown()
			stop()
		}
	})
}

// stalling is a connection through which at some moment no byte passes any more, as when a cable is cut: writes vanish.
type stalling struct {
	net.Conn
	cut *atomic.Bool
}

func (s stalling) Write(p []byte) (int, error) {
	if s.cut.Load() {
		return len(p), nil
	}
	return s.Conn.Write(p)
}

// cable is a listener whose accepted connections can be cut.
type cable struct {
	net.Listener
	cut atomic.Bool
}

func (c *cable) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return stalling{conn, &c.cut}, nil
}

// A peer that vanished is noticed after KeepAlive plus PingTTL, with and without a call, and not before.
func TestKeepAliveFindsTheDead(t *testing.T) {
	for _, tc := range []struct{ every, ttl time.Duration }{
		{MinKeepAlive, time.Second}, {MinKeepAlive, 5 * time.Second}, {30 * time.Second, time.Second},
	} {
		virtual(t, func(t *testing.T) {
			f := newFabric()
			l, err := f.Listen(addr1)
			if err != nil {
				t.Fatal(err)
			}
			c := &cable{Listener: manet.NetListener(l)}
			s := grpc.NewServer(ServerOptions()...)
			healthpb.RegisterHealthServer(s, health.NewServer())
			go s.Serve(c)
			t.Cleanup(s.Stop)
			b := newTestBook(t, f, func(p *Params) { p.KeepAlive, p.PingTTL, p.Idle = tc.every, tc.ttl, 24*time.Hour })
			cc := mustChannel(t, b, addr1)
			w, err := healthpb.NewHealthClient(cc).Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Recv(); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			c.cut.Store(true)
			if _, err := w.Recv(); status.Code(err) != codes.Unavailable {
				t.Error(err)
			}
			if d := time.Since(start); d < tc.every || d > tc.every+tc.ttl+time.Second {
				t.Errorf("%+v: noticed after %v", tc, d)
			}
			b.Shutdown()
		})
	}
}
