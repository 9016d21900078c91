package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/transport"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// fabric is a network in memory, for virtual time: a Transport, and a PeerNetwork for a real Transport over it. Where
// nobody listens, dials are refused.
type fabric struct {
	self peer.ID // who accepted connections say has called
	// before is called at the start of each dial, if set: it may block until ctx ends, and its error fails the dial.
	before func(ctx context.Context, d visit) error

	mu        sync.Mutex
	listeners map[string]*fabricListener
	log       []visit

	open     atomic.Int64 // dialled connections that were not closed
	closeErr error        // what closing a dialled connection reports
}

// visit is one dial that reached the fabric.
type visit struct {
	addr  string
	reset bool
	at    time.Time
}

func newFabric() *fabric {
	return &fabric{self: idOf(idA), listeners: make(map[string]*fabricListener)}
}

func idOf(s string) peer.ID {
	id, err := peer.Decode(s)
	if err != nil {
		panic(err)
	}
	return id
}

// spot is where a listener is found: by peer if the address has one.
func spot(m ma.Multiaddr) string {
	if id := peerOf(m); id != "" {
		return "/p2p/" + id.String()
	}
	return m.String()
}

func (f *fabric) Dial(ctx context.Context, addr ma.Multiaddr, reset bool) (transport.Connection, error) {
	d := visit{addr.String(), reset, time.Now()}
	f.mu.Lock()
	f.log = append(f.log, d)
	l := f.listeners[spot(addr)]
	if l == nil {
		l = f.listeners[anywhere.String()]
	}
	before := f.before
	f.mu.Unlock()
	if before != nil {
		if err := before(ctx, d); err != nil {
			return nil, err
		}
	}
	if l == nil {
		return nil, errRefused
	}
	a, b := net.Pipe()
	near := &fabricConn{Conn: a, f: f, remote: addr, id: peerOf(addr), err: f.closeErr}
	far := &fabricConn{Conn: b, f: f, local: addr, id: f.self}
	f.open.Add(1)
	near.open = true
	select {
	case l.queue <- far:
		return near, nil
	case <-ctx.Done():
	case <-l.done:
	}
	near.Close()
	far.Close()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, errRefused
}

var errRefused = &net.OpError{Op: "dial", Net: "memory", Err: syscall.ECONNREFUSED}

func (f *fabric) DialPeer(ctx context.Context, info peer.AddrInfo) (net.Conn, error) {
	m := ma.StringCast("/p2p/" + info.ID.String())
	if len(info.Addrs) > 0 {
		m = info.Addrs[0].Encapsulate(m)
	}
	c, err := f.Dial(ctx, m, false)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (f *fabric) ListenPeer() (net.Listener, error) { return nil, errors.ErrUnsupported }

func (f *fabric) Listen(addr ma.Multiaddr) (manet.Listener, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.listeners[spot(addr)]; old != nil && listenKey(addr) != "" {
		return nil, syscall.EADDRINUSE
	}
	l := &fabricListener{f: f, at: addr, queue: make(chan *fabricConn), done: make(chan struct{})}
	f.listeners[spot(addr)] = l
	return l, nil
}

// dials returns where was dialled, in order.
func (f *fabric) dials() []visit {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

func (f *fabric) setBefore(before func(ctx context.Context, d visit) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

// forever is a before that never lets a dial through.
func forever(ctx context.Context, _ visit) error {
	<-ctx.Done()
	return ctx.Err()
}

type fabricListener struct {
	f     *fabric
	at    ma.Multiaddr
	queue chan *fabricConn
	once  sync.Once
	done  chan struct{}
	err   error // what Close reports
}

func (l *fabricListener) Accept() (manet.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *fabricListener) Close() error {
	l.once.Do(func() {
		l.f.mu.Lock()
		if l.f.listeners[spot(l.at)] == l {
			delete(l.f.listeners, spot(l.at))
		}
		l.f.mu.Unlock()
		close(l.done)
	})
	return l.err
}

func (l *fabricListener) Multiaddr() ma.Multiaddr { return l.at }
func (l *fabricListener) Addr() net.Addr          { return &net.UnixAddr{Name: "fabric", Net: "unix"} }

type fabricConn struct {
	net.Conn
	f             *fabric
	local, remote ma.Multiaddr
	id            peer.ID
	open          bool // counted in f.open
	closed        atomic.Bool
	err           error // what Close reports
}

func (c *fabricConn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	if c.open {
		c.f.open.Add(-1)
	}
	c.Conn.Close()
	return c.err
}

func (c *fabricConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.Close()
	}
	return n, err
}

func (c *fabricConn) Closed() bool                  { return c.closed.Load() }
func (c *fabricConn) LocalMultiaddr() ma.Multiaddr  { return c.local }
func (c *fabricConn) RemoteMultiaddr() ma.Multiaddr { return c.remote }
func (c *fabricConn) RemotePeer() peer.ID           { return c.id }
func (c *fabricConn) LocalAddr() net.Addr           { return &net.UnixAddr{Name: "near", Net: "unix"} }
func (c *fabricConn) RemoteAddr() net.Addr          { return &net.UnixAddr{Name: "far", Net: "unix"} }
func (c *fabricConn) SetDeadline(t time.Time) error { return c.Conn.SetDeadline(t) }

// The addresses of the tests.
var (
	anywhere = ma.StringCast("/unix/anywhere") // who listens here takes what nobody else does
	own      = ma.StringCast("/ip4/192.0.2.1/tcp/1")
	addr1    = ma.StringCast("/ip4/192.0.2.2/tcp/1")
	addr2    = ma.StringCast("/ip4/192.0.2.2/tcp/2")
	sock     = ma.StringCast("/unix/run/s")
	peerB    = ma.StringCast("/p2p/" + idB)
)

// newTestBook returns a book over the fabric, shut down at the end of the test. mod changes its Params.
func newTestBook(tb testing.TB, f transport.Transport, mod ...func(*Params)) *book {
	tb.Helper()
	p := Params{Address: own, Transport: f, Insecure: true}
	for _, m := range mod {
		m(&p)
	}
	b, err := New(p)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Shutdown() })
	return b.(*book)
}

// serve runs a gRPC server with a health service on an address of the fabric until stop is called.
func serve(tb testing.TB, f *fabric, addr ma.Multiaddr, opts ...grpc.ServerOption) (s *grpc.Server, stop func()) {
	tb.Helper()
	l, err := f.Listen(addr)
	if err != nil {
		tb.Fatal(err)
	}
	s = grpc.NewServer(append(ServerOptions(), opts...)...)
	healthpb.RegisterHealthServer(s, health.NewServer())
	registerBytes(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(manet.NetListener(l)) }()
	stop = sync.OnceFunc(func() {
		s.Stop()
		if err := <-served; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	tb.Cleanup(stop)
	return s, stop
}

// virtual runs body in virtual time; what it leaves behind fails the test.
func virtual(t *testing.T, body func(t *testing.T)) { t.Helper(); synctest.Test(t, body) }

// check makes one call.
func check(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) error {
	_, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}, opts...)
	return err
}

// within is a context that ends after d.
func within(tb testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	tb.Cleanup(cancel)
	return ctx
}

// noLeaks fails the test if it leaves goroutines behind. Call it first, so that it looks last.
func noLeaks(tb testing.TB) {
	before := runtime.NumGoroutine()
	tb.Cleanup(func() {
		deadline := time.Now().Add(30 * time.Second)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				tb.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
				return
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
	})
}

// bytesService streams back what it is sent.
var bytesService = &grpc.ServiceDesc{
	ServiceName: "test.Bytes",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{StreamName: "Echo", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			var b []byte
			if err := s.RecvMsg(&b); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if err := s.SendMsg(&b); err != nil {
				return err
			}
		}
	}}},
}

func init() { encoding.RegisterCodec(rawCodec{}) }

func registerBytes(s *grpc.Server) { s.RegisterService(bytesService, struct{}{}) }

// rawCodec sends []byte as it is.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = slices.Clone(data); return nil }
func (rawCodec) Name() string                       { return "raw" }

// echo opens a stream of the bytes service.
func echo(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error) {
	return cc.NewStream(ctx, &bytesService.Streams[0], "/test.Bytes/Echo", grpc.CallContentSubtype("raw"))
}

// spotOf is one of many addresses.
func spotOf(i int) ma.Multiaddr {
	return ma.StringCast(fmt.Sprintf("/ip4/198.51.%d.%d/tcp/1", i/256, i%256))
}
