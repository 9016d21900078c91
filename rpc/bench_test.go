//go:build unix

package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/internal/grpcid"
	"github.com/kith-p2p/kith/stream"
)

// A way to make one request of 1 KiB and get it back. Each worker has its own.
type echoer func() error

type contender struct {
	name  string
	hosts func(testing.TB) (a, b corehost.Host)
	make  func(tb testing.TB, a, b corehost.Host) func(tb testing.TB) echoer
}

const requestSize = 1 << 10

func payload() []byte {
	b := make([]byte, requestSize)
	_, _ = rand.Read(b)
	return b
}

var contenders = []contender{
	{"rpc", tcpHosts, func(tb testing.TB, a, b corehost.Host) func(testing.TB) echoer {
		startEcho(tb, newServer(tb, b, nil))
		c := newClient(tb, a, &ClientConfig{EnableCompression: true, MaxConnsPerPeer: 64})
		return func(tb testing.TB) echoer {
			req := payload()
			return func() error {
				resp, err := c.Send(context.Background(), b.ID(), echoID, req)
				if err == nil && len(resp) != len(req) {
					err = io.ErrShortBuffer
				}
				return err
			}
		}
	}},
	{"closed", stockHosts, streamPerRequest},    // between libp2p's own hosts
	{"closed-kith", tcpHosts, streamPerRequest}, // between ours, which batch what a short stream sends
	{"bare", tcpHosts, func(tb testing.TB, a, b corehost.Host) func(testing.TB) echoer {
		// A stream for each worker, kept, with a length before each body.
		const id = "/kith-bench/bare"
		b.SetStreamHandler(id, func(s network.Stream) {
			defer s.Reset()
			for buf := make([]byte, 4+requestSize); ; {
				if _, err := io.ReadFull(s, buf[:4]); err != nil {
					return
				}
				n := 4 + binary.BigEndian.Uint32(buf)
				if _, err := io.ReadFull(s, buf[4:n]); err != nil {
					return
				}
				if _, err := s.Write(buf[:n]); err != nil {
					return
				}
			}
		})
		tb.Cleanup(func() { b.RemoveStreamHandler(id) })
		return func(tb testing.TB) echoer {
			s, err := a.NewStream(context.Background(), b.ID(), id)
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() { s.Reset() })
			req := append(binary.BigEndian.AppendUint32(nil, requestSize), payload()...)
			resp := make([]byte, 4+requestSize)
			return func() error {
				if _, err := s.Write(req); err != nil {
					return err
				}
				_, err := io.ReadFull(s, resp)
				return err
			}
		}
	}},
	{"grpc", stockHosts, overStream},    // between libp2p's own hosts
	{"grpc-kith", tcpHosts, overStream}, // between ours
	{"grpc-tls", tcpHosts, func(tb testing.TB, _, _ corehost.Host) func(testing.TB) echoer {
		// gRPC as everybody uses it.
		cert, pool := selfSigned(tb)
		srv := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
		srv.RegisterService(&echoService, nil)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		go srv.Serve(ln)
		tb.Cleanup(srv.Stop)
		cc, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "kith.test")))
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { cc.Close() })
		return grpcEchoer(cc)
	}},
}

// stockHosts are libp2p's own, with its defaults, over TCP.
func stockHosts(tb testing.TB) (a, b corehost.Host) {
	var hs [2]corehost.Host
	for i, listen := range []string{"", "/ip4/127.0.0.1/tcp/0"} {
		opts := []libp2p.Option{libp2p.NoListenAddrs}
		if listen != "" {
			opts = []libp2p.Option{libp2p.ListenAddrStrings(listen)}
		}
		h, err := libp2p.New(opts...)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { h.Close() })
		hs[i] = h
	}
	know(hs[0], hs[1])
	if err := hs[0].Connect(context.Background(), peer.AddrInfo{ID: hs[1].ID()}); err != nil {
		tb.Fatal(err)
	}
	return hs[0], hs[1]
}

// streamPerRequest opens a stream for each request, as libp2p's own examples
// do, and closes it well.
func streamPerRequest(tb testing.TB, a, b corehost.Host) func(testing.TB) echoer {
	const id = "/kith-bench/closed"
	b.SetStreamHandler(id, func(s network.Stream) {
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
	tb.Cleanup(func() { b.RemoveStreamHandler(id) })
	return func(tb testing.TB) echoer {
		req, resp := payload(), make([]byte, requestSize+1)
		return func() error {
			s, err := a.NewStream(context.Background(), b.ID(), id)
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
				return fmt.Errorf("%d bytes, %v", n, err)
			}
			return nil
		}
	}
}

// overStream is gRPC over a stream of the same kind.
func overStream(tb testing.TB, a, b corehost.Host) func(testing.TB) echoer {
	const id = "/kith-bench/grpc"
	srv := grpc.NewServer(grpc.Creds(grpcid.New("")))
	srv.RegisterService(&echoService, nil)
	ln, err := stream.Listen(b, id)
	if err != nil {
		tb.Fatal(err)
	}
	go srv.Serve(ln)
	tb.Cleanup(srv.Stop)
	cc, err := grpc.NewClient("passthrough:///"+b.ID().String(), grpc.WithTransportCredentials(grpcid.New(b.ID())),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return stream.Dial(ctx, a, b.ID(), id) }))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { cc.Close() })
	return grpcEchoer(cc)
}

func grpcEchoer(cc *grpc.ClientConn) func(testing.TB) echoer {
	return func(testing.TB) echoer {
		req := wrapperspb.Bytes(payload())
		return func() error {
			resp := new(wrapperspb.BytesValue)
			err := cc.Invoke(context.Background(), "/kith.Echo/Echo", req, resp)
			if err == nil && len(resp.Value) != requestSize {
				err = io.ErrShortBuffer
			}
			return err
		}
	}
}

var echoService = grpc.ServiceDesc{
	ServiceName: "kith.Echo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, ctx context.Context, dec func(any) error, mw grpc.UnaryServerInterceptor) (any, error) {
		req := new(wrapperspb.BytesValue)
		if err := dec(req); err != nil {
			return nil, err
		}
		if mw == nil {
			return req, nil
		}
		return mw(ctx, req, &grpc.UnaryServerInfo{FullMethod: "/kith.Echo/Echo"}, func(_ context.Context, r any) (any, error) { return r, nil })
	}}},
}

func selfSigned(tb testing.TB) (tls.Certificate, *x509.CertPool) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"kith.test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// rounds runs calls of each worker and returns how long they took together.
func round(tb testing.TB, workers []echoer, calls int) time.Duration {
	var wg sync.WaitGroup
	start := time.Now()
	for _, do := range workers {
		wg.Go(func() {
			for range calls {
				if err := do(); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// BenchmarkRequests compares ways to make requests of 1 KiB, alone and 64 at a
// time, over one TCP connection each, in turns. One iteration is one turn of
// each; the figures are the medians of the turns and of their ratios. Run it
// with -benchtime=31x.
func BenchmarkRequests(b *testing.B) {
	for _, workers := range []int{1, 64} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			crews := make([][]echoer, len(contenders))
			for i, c := range contenders {
				x, y := c.hosts(b)
				worker := c.make(b, x, y)
				for range workers {
					crews[i] = append(crews[i], worker(b))
				}
				round(b, crews[i], 200/workers+5) // warm up
			}
			calls := 1000 / workers
			times, cpu := make([][]float64, len(contenders)), make([][]float64, len(contenders))
			for b.Loop() {
				for i := range contenders {
					used := cpuTime()
					d := round(b, crews[i], calls)
					cpu[i] = append(cpu[i], float64(cpuTime()-used)/float64(calls*workers))
					times[i] = append(times[i], float64(d)/float64(calls*workers))
				}
			}
			ratio := func(over, of string) {
				x, y := contenderIndex(over), contenderIndex(of)
				var r []float64
				for i := range times[x] {
					r = append(r, times[y][i]/times[x][i])
				}
				b.ReportMetric(median(r), over+"/"+of)
			}
			for i, c := range contenders {
				b.ReportMetric(1e9/median(times[i]), c.name+"/s")
				b.ReportMetric(median(cpu[i])/1e3, c.name+"-cpu-µs")
			}
			ratio("rpc", "closed")
			ratio("rpc", "closed-kith")
			ratio("rpc", "grpc")
			ratio("rpc", "grpc-kith")
			ratio("rpc", "bare")
			ratio("grpc-kith", "grpc-tls")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuTime is what the process has used of the processors, in nanoseconds: both
// ends of every call, and steadier than the time of day on a busy machine.
func cpuTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func contenderIndex(name string) int {
	return slices.IndexFunc(contenders, func(c contender) bool { return c.name == name })
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// BenchmarkSend is one call after the other, and BenchmarkSendParallel 64 at a
// time, for profiles.
func BenchmarkSend(b *testing.B) {
	for _, c := range contenders {
		b.Run(c.name, func(b *testing.B) {
			x, y := c.hosts(b)
			do := c.make(b, x, y)(b)
			b.ReportAllocs()
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSendParallel(b *testing.B) {
	for _, c := range contenders {
		b.Run(c.name, func(b *testing.B) {
			x, y := c.hosts(b)
			worker := c.make(b, x, y)
			b.ReportAllocs()
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				do := worker(b)
				for pb.Next() {
					if err := do(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
