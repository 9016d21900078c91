package p2p_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// BenchmarkUrgentOverSlowLink is an urgent message of 100 B behind a saturating bulk
// channel, through two Routers, over real TCP between two network namespaces that a
// veth pair joins, with 10 Mbit/s from one to the other (tc's token bucket). With the
// kernel's queue kept short (TCP_NOTSENT_LOWAT and short batches) its median delay is
// to be at most a quarter of that without (Options.LongQueues). It needs Linux, root,
// ip and tc:
//
//	go test -run '^$' -bench UrgentOverSlowLink -benchtime 1x ./p2p
func BenchmarkUrgentOverSlowLink(b *testing.B) {
	var short, long []float64
	for b.Loop() {
		short = append(short, urgentDelay(b, mconn.Options{}))
		long = append(long, urgentDelay(b, mconn.Options{LongQueues: true}))
	}
	b.ReportMetric(median(short)/1e6, "p50-ms-short")
	b.ReportMetric(median(long)/1e6, "p50-ms-long")
	b.ReportMetric(median(short)/median(long), "short/long")
}

// urgentDelay is the median delay of urgent messages, in nanoseconds.
func urgentDelay(b *testing.B, opts mconn.Options) float64 {
	const urgents, every, warm = 100, 50 * time.Millisecond, 3 * time.Second
	near, far, done := slowCable(b)
	defer done()
	w := &world{TB: b}
	var transports []*cableTransport
	over := func(o *p2p.RouterOptions) {
		_ = o.Transports[0].Close()
		tr := &cableTransport{conns: make(chan net.Conn, 1), closed: make(chan struct{}), opts: opts}
		transports, o.Transports = append(transports, tr), []p2p.Transport{tr}
	}
	x, y := w.node(over), w.node(over)
	transports[0].conns <- near
	transports[1].conns <- far
	transports[0].dials = true
	urgent := openBytes(b, x, 1, p2p.ChannelDescriptor{Class: 0})
	bulk := openBytes(b, x, 2, p2p.ChannelDescriptor{Class: 3, SendPolicy: p2p.SendBlock, SendQueueBytes: 4 << 20})
	toUrgent, toBulk := openBytes(b, y, 1, p2p.ChannelDescriptor{}), openBytes(b, y, 2, p2p.ChannelDescriptor{})
	w.start(x, y)
	w.connect(x, y)
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	all.Go(func() {
		for m := wrapperspb.Bytes(make([]byte, 256<<10)); bulk.Send(ctx, y.id, m) == nil; {
		}
	})
	all.Go(func() {
		for _, err := range toBulk.Receive(ctx) {
			if err != nil {
				return
			}
		}
	})
	time.Sleep(warm) // until the queues are as long as they get
	sent := make(chan time.Time, urgents)
	all.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for range urgents {
			<-tick.C
			sent <- time.Now()
			if err := urgent.TrySend(y.id, wrapperspb.Bytes(make([]byte, 100))); err != nil {
				b.Error(err)
				stop()
				return
			}
		}
	})
	var took []float64
	for _, err := range toUrgent.Receive(ctx) {
		if err != nil {
			b.Fatal(err)
		}
		if took = append(took, float64(time.Since(<-sent))); len(took) == urgents {
			break
		}
	}
	b.Logf("LongQueues %v: p50 %v, p99 %v", opts.LongQueues, time.Duration(median(took)), time.Duration(slices.Max(took)))
	stop()
	all.Wait()
	_ = x.r.Stop()
	_ = y.r.Stop()
	return median(took)
}

// cableTransport carries one connection that is there already: dialled by one end,
// accepted by the other.
type cableTransport struct {
	conns  chan net.Conn
	dials  bool // set before the start
	opts   mconn.Options
	once   sync.Once
	closed chan struct{}
}

func (t *cableTransport) Protocols() []p2p.Protocol { return []p2p.Protocol{mconn.Protocol} }

func (t *cableTransport) Endpoints() []p2p.Endpoint {
	return []p2p.Endpoint{{Protocol: mconn.Protocol, IP: net.IPv4(10, 99, 0, 2), Port: 1}}
}

func (t *cableTransport) Accept() (p2p.Connection, error) {
	if !t.dials {
		select {
		case nc := <-t.conns:
			return mconn.NewConnection(nc, t.opts)
		case <-t.closed:
		}
	}
	<-t.closed
	return nil, io.EOF
}

func (t *cableTransport) Dial(ctx context.Context, _ p2p.Endpoint) (p2p.Connection, error) {
	if !t.dials {
		return nil, syscall.ECONNREFUSED
	}
	select {
	case nc := <-t.conns:
		return mconn.NewConnection(nc, t.opts)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (t *cableTransport) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

// netThread is a thread in a network namespace of its own, which is gone with it.
type netThread struct {
	tid  int
	work chan func() error
	did  chan error
}

func newNetThread(b *testing.B) *netThread {
	b.Helper()
	t := &netThread{work: make(chan func() error), did: make(chan error)}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		for f := range t.work {
			t.did <- f()
		}
		close(t.did)
	}()
	t.do(b, func() error {
		t.tid = syscall.Gettid()
		return syscall.Unshare(syscall.CLONE_NEWNET)
	})
	return t
}

func (t *netThread) do(b *testing.B, f func() error) {
	b.Helper()
	t.work <- f
	if err := <-t.did; err != nil {
		b.Fatalf("this needs Linux, root, ip and tc: %v", err)
	}
}

func (t *netThread) run(b *testing.B, lines ...[]string) {
	b.Helper()
	t.do(b, func() error {
		for _, line := range lines {
			if out, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%v: %w: %s", line, err, out)
			}
		}
		return nil
	})
}

func (t *netThread) end() {
	close(t.work)
	<-t.did
}

// slowCable is a TCP connection between two network namespaces, of which nothing is
// visible outside: 10 Mbit/s from near to far, as much as there is back.
func slowCable(b *testing.B) (near, far net.Conn, done func()) {
	b.Helper()
	here, there := newNetThread(b), newNetThread(b)
	here.run(b,
		[]string{"ip", "link", "add", "kithslow0", "type", "veth", "peer", "name", "kithslow1", "netns", strconv.Itoa(there.tid)},
		[]string{"ip", "address", "add", "10.99.0.1/24", "dev", "kithslow0"},
		[]string{"ip", "link", "set", "kithslow0", "up"},
		[]string{"tc", "qdisc", "add", "dev", "kithslow0", "root", "tbf", "rate", "10mbit", "burst", "16kb", "latency", "400ms"},
	)
	there.run(b,
		[]string{"ip", "address", "add", "10.99.0.2/24", "dev", "kithslow1"},
		[]string{"ip", "link", "set", "kithslow1", "up"},
	)
	var l net.Listener
	there.do(b, func() (err error) {
		l, err = net.Listen("tcp", "10.99.0.2:0")
		return err
	})
	defer l.Close()
	here.do(b, func() (err error) {
		near, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		return err
	})
	far, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return near, far, func() {
		here.end()
		there.end()
	}
}
