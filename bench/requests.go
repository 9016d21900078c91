package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/rpc"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// The sides of the rpc row.
const (
	rpcSide      = "rpc"
	closedStock  = "stream per request, stock hosts"
	closedKith   = "stream per request, kith's hosts"
	bareSide     = "bare kept streams"
	grpcStreams  = "gRPC over streams"
	grpcStock    = "gRPC over streams, stock hosts"
	grpcOverTLS  = "gRPC over TLS"
	requestSize  = 1 << 10
	requestTurns = 3 // turns that use the same connections
)

// An echoer makes one request and checks the answer. Each worker has its own.
type echoer func() error

// rpcRow compares ways to make requests of 1 KiB over one TCP connection, alone and 64
// at a time.
func rpcRow(ctx context.Context, b *bench) error {
	b.report.peer("kith's hosts", kithHostConfig)
	b.report.peer("stock hosts", stockHostConfig)
	for _, workers := range []int{1, 64} {
		what := "requests of 1 KiB, one at a time"
		if workers > 1 {
			what = fmt.Sprintf("requests of 1 KiB, %d at a time", workers)
		}
		err := b.contest(ctx, contest{
			row: "rpc", what: what, unit: "calls/s", every: requestTurns, rates: true,
			lines: []line{
				{ours: rpcSide, theirs: closedStock, bar: 3},
				{ours: rpcSide, theirs: closedKith, bar: 3},
				{ours: rpcSide, theirs: grpcStock, bar: 2.5},
				{ours: rpcSide, theirs: grpcStreams, bar: 2.5},
				{ours: rpcSide, theirs: bareSide, bar: 0.8},
				{ours: grpcStreams, theirs: grpcOverTLS, bar: 0.8},
			},
			sides: func(ctx context.Context, s *scope) ([]side, error) { return b.requestSides(ctx, s, workers) },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) requestSides(ctx context.Context, s *scope, count int) (sides []side, err error) {
	// Each side has hosts of its own, but for the two that need none.
	type workers = func() (echoer, error)
	type maker = func(ctx context.Context, s *scope, near, far host.Host) (func() (echoer, error), error)
	ours := func(make maker) (workers, error) {
		near, far, err := kithHosts(ctx, s, true)
		if err != nil {
			return nil, err
		}
		return make(ctx, s, near.Host, far.Host)
	}
	stock := func(make maker) (workers, error) {
		near, far, err := stockHosts(ctx, s)
		if err != nil {
			return nil, err
		}
		return make(ctx, s, near, far)
	}
	for _, m := range []struct {
		name string
		make func() (workers, error)
	}{
		{rpcSide, func() (workers, error) { return ours(rpcEchoers) }},
		{closedStock, func() (workers, error) { return stock(closedEchoers) }},
		{closedKith, func() (workers, error) { return ours(closedEchoers) }},
		{grpcStreams, func() (workers, error) { return ours(grpcStreamEchoers) }},
		{grpcStock, func() (workers, error) { return stock(grpcStreamEchoers) }},
		{bareSide, func() (workers, error) { return ours(bareEchoers) }},
		{grpcOverTLS, func() (workers, error) { return grpcTLSEchoers(ctx, s) }},
	} {
		worker, err := m.make()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		var crew []echoer
		for range count {
			e, err := worker()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
			crew = append(crew, e)
		}
		sides = append(sides, side{m.name, requestFlow(crew).rate(b.window)})
	}
	return sides, nil
}

// requestFlow lets all workers make requests, one after the other each.
func requestFlow(crew []echoer) flow {
	return func(d time.Duration) (int, time.Duration, error) {
		var calls atomic.Int64
		errs := make([]error, len(crew))
		var wg sync.WaitGroup
		start := time.Now()
		for i, do := range crew {
			wg.Go(func() {
				n := int64(0)
				for errs[i] == nil && time.Since(start) < d {
					if errs[i] = do(); errs[i] == nil {
						n++
					}
				}
				calls.Add(n)
			})
		}
		wg.Wait()
		return int(calls.Load()), time.Since(start), errors.Join(errs...)
	}
}

// errShort says that an echo was not what was sent.
var errShort = errors.New("the answer has another length")

// rpcEchoers use rpc.
func rpcEchoers(ctx context.Context, s *scope, near, far host.Host) (func() (echoer, error), error) {
	const id protocol.ID = "/kith-bench/echo/1.0.0"
	srv, err := rpc.NewServer(far, nil)
	if err != nil {
		return nil, err
	}
	s.add(srv.Stop)
	if err := srv.Start(id, func(b []byte) ([]byte, error) { return b, nil }); err != nil {
		return nil, err
	}
	config := rpc.DefaultClientConfig()
	config.MaxConnsPerPeer = 64 // one for each worker
	c, err := rpc.NewClient(near, config)
	if err != nil {
		return nil, err
	}
	s.add(c.Close)
	return func() (echoer, error) {
		req := make([]byte, requestSize)
		return func() error {
			resp, err := c.Send(ctx, far.ID(), id, req)
			if err == nil && len(resp) != len(req) {
				err = errShort
			}
			return err
		}, nil
	}, nil
}

// closedEchoers open a stream for each request, and close it well.
func closedEchoers(ctx context.Context, _ *scope, near, far host.Host) (func() (echoer, error), error) {
	const id protocol.ID = "/kith-bench/closed"
	far.SetStreamHandler(id, func(s network.Stream) {
		body, err := io.ReadAll(s)
		if err == nil {
			_, err = s.Write(body)
		}
		if err != nil {
			s.Reset()
			return
		}
		s.Close()
	})
	return func() (echoer, error) {
		req, resp := make([]byte, requestSize), make([]byte, requestSize+1)
		return func() error {
			s, err := near.NewStream(ctx, far.ID(), id)
			if err != nil {
				return err
			}
			defer s.Close()
			if _, err := s.Write(req); err != nil {
				return err
			}
			if err := s.CloseWrite(); err != nil {
				return err
			}
			if n, err := io.ReadFull(s, resp); n != len(req) || err != io.ErrUnexpectedEOF {
				return fmt.Errorf("%d bytes: %w", n, errors.Join(err, errShort))
			}
			return nil
		}, nil
	}, nil
}

// bareEchoers keep a stream each, with a length before each body: as little as
// a program that knows only libp2p can do.
func bareEchoers(ctx context.Context, s *scope, near, far host.Host) (func() (echoer, error), error) {
	const id protocol.ID = "/kith-bench/bare"
	far.SetStreamHandler(id, func(s network.Stream) {
		defer s.Reset()
		for buf := make([]byte, 4+requestSize); ; {
			if _, err := io.ReadFull(s, buf[:4]); err != nil {
				return
			}
			n := binary.BigEndian.Uint32(buf)
			if n > requestSize {
				return
			}
			if _, err := io.ReadFull(s, buf[4:4+n]); err != nil {
				return
			}
			if _, err := s.Write(buf[:4+n]); err != nil {
				return
			}
		}
	})
	return func() (echoer, error) {
		st, err := near.NewStream(ctx, far.ID(), id)
		if err != nil {
			return nil, err
		}
		s.add(func() error { _ = st.Reset(); return nil }) // the other end may have been quicker
		req := append(binary.BigEndian.AppendUint32(nil, requestSize), make([]byte, requestSize)...)
		resp := make([]byte, len(req))
		return func() error {
			if _, err := st.Write(req); err != nil {
				return err
			}
			_, err := io.ReadFull(st, resp)
			return err
		}, nil
	}, nil
}
