package peers

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

func TestParamsFaultsAreToldTogether(t *testing.T) {
	_, err := New(Params{
		Tick: -1, Idle: -1, KeepAlive: 9 * time.Second, PingTTL: -1, MetricsTimeout: -1,
		Credentials: insecure.NewCredentials(), Insecure: true, DialOptions: []grpc.DialOption{nil},
	})
	var fields []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		pe, ok := errors.AsType[*ParamError](e)
		if !ok {
			t.Fatal(e)
		}
		fields = append(fields, pe.Field)
		if !strings.Contains(err.Error(), "Params."+pe.Field+" ") {
			t.Errorf("the text does not name %s", pe.Field)
		}
	}
	want := []string{"Address", "Transport", "Tick", "Idle", "PingTTL", "MetricsTimeout", "KeepAlive", "Insecure", "DialOptions"}
	if !slices.Equal(fields, want) {
		t.Errorf("%v, want %v", fields, want)
	}
	ok := Params{Address: own, Transport: newFabric()}
	for _, d := range []time.Duration{-time.Second, 1, MinKeepAlive - 1} {
		p := ok
		p.KeepAlive = d
		if e, is := errors.AsType[*ParamError](second(New(p))); !is || e.Field != "KeepAlive" {
			t.Errorf("KeepAlive %v: %v", d, e)
		}
	}
	for _, mod := range []func(*Params){
		func(p *Params) {},
		func(p *Params) { p.KeepAlive = MinKeepAlive },
		func(p *Params) { p.Tick, p.Idle, p.PingTTL, p.MetricsTimeout = 1, 1, 1, 1 },
		func(p *Params) { p.Address = ma.StringCast("/p2p/" + idA) },
	} {
		p := ok
		mod(&p)
		if b, err := New(p); err != nil {
			t.Error(err)
		} else if err := b.Shutdown(); err != nil {
			t.Error(err)
		}
	}
}

func TestParamsDefaults(t *testing.T) {
	f := newFabric()
	b := newTestBook(t, f)
	if b.Tick != DefaultTick || b.Idle != DefaultIdle || b.KeepAlive != DefaultKeepAlive || b.PingTTL != DefaultPingTTL || b.MetricsTimeout != DefaultMetricsTimeout {
		t.Errorf("%+v", b.Params)
	}
	if b.GRPCTransport != f || b.Logger == nil {
		t.Errorf("%+v", b.Params)
	}
}

// The fault: options that were parsed and ignored. Each field is flipped here or in the test that is named, and the
// difference seen.
//
//	Address                  TestRegressionParamsAreHeeded, TestSelfDialIsRefused
//	Tick, Idle               TestRegressionParamsAreHeeded, TestRegressionLiveStreamClosedAsIdle
//	KeepAlive, PingTTL       TestKeepAliveFindsTheDead
//	MetricsTimeout, Metrics  TestJobTellsTheStates
//	Credentials              TestRealServices; with Insecure: TestCredentialsAreRequired
func TestRegressionParamsAreHeeded(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f, g := newFabric(), newFabric()
		serve(t, f, addr1)
		serve(t, g, addr1)
		var log bytes.Buffer
		var calls atomic.Int32
		b := newTestBook(t, f, func(p *Params) {
			p.GRPCTransport = g
			p.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			p.DialOptions = []grpc.DialOption{grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				calls.Add(1)
				return call(ctx, method, req, reply, cc, opts...)
			})}
		})
		cc := mustChannel(t, b, addr1)
		if err := check(t.Context(), cc); err != nil {
			t.Error(err)
		}
		if calls.Load() != 1 {
			t.Error("DialOptions: the interceptor was not called")
		}
		if len(f.dials()) != 0 || len(g.dials()) != 1 {
			t.Error("GRPCTransport was not used")
		}
		mustConnect(t, b, addr1)
		if len(f.dials()) != 1 || len(g.dials()) != 1 {
			t.Error("Transport was not used")
		}
		b.Connect(t.Context(), addr2)
		b.Shutdown()
		for _, want := range []string{"dialled", "dial failed", addr2.String()} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("Logger was not told %q: %s", want, &log)
			}
		}
		if b = newTestBook(t, f, func(p *Params) { p.Address = addr1 }); !b.Address().Equal(addr1) {
			t.Error("Address")
		}
		if _, err := b.Connect(t.Context(), addr1); !errors.Is(err, ErrDialToSelf) {
			t.Error(err)
		}
	})
	// Idle and Tick: how long an unused channel lives, to the second; and with Idle alone, when gRPC frees its socket.
	for _, tc := range []struct{ tick, idle, want time.Duration }{
		{10 * time.Second, time.Minute, 70 * time.Second},
		{10 * time.Second, 2 * time.Minute, 130 * time.Second},
		{50 * time.Second, time.Minute, 100 * time.Second},
	} {
		virtual(t, func(t *testing.T) {
			f := newFabric()
			serve(t, f, addr1)
			b := newTestBook(t, f, func(p *Params) { p.Tick, p.Idle = tc.tick, tc.idle })
			start := time.Now()
			cc := mustChannel(t, b, addr1)
			var wg sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			wg.Go(func() { b.Job(ctx) })
			awaitState(t, cc, connectivity.Idle)
			if d := time.Since(start); d != tc.idle {
				t.Errorf("%+v: socket freed after %v", tc, d)
			}
			awaitState(t, cc, connectivity.Shutdown)
			if d := time.Since(start); d != tc.want {
				t.Errorf("%+v: removed after %v", tc, d)
			}
			cancel()
			wg.Wait()
			synctest.Wait()
		})
	}
}
