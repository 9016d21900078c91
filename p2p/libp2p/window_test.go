package libp2p

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/p2p"
)

// pipeStream is a stream from a peer without a network under it.
type pipeStream struct {
	network.Stream
	io.Reader
	granted chan uint64 // nil: grants are not looked at
	scope   network.StreamScope
}

func (s *pipeStream) Read(p []byte) (int, error) { return s.Reader.Read(p) }
func (s *pipeStream) CloseWrite() error          { return nil }
func (s *pipeStream) Scope() network.StreamScope { return s.scope }
func (s *pipeStream) Write(p []byte) (int, error) {
	if s.granted != nil {
		s.granted <- uint64(binary.BigEndian.Uint32(p))
	}
	return len(p), nil
}

// fewBytes is the scope of a peer that may have so much memory.
type fewBytes struct {
	network.NullScope
	sync.Mutex
	left int
}

func (f *fewBytes) ReserveMemory(n int, _ uint8) error {
	f.Lock()
	defer f.Unlock()
	if n > f.left {
		return network.ErrResourceLimitExceeded
	}
	f.left -= n
	return nil
}

func (f *fewBytes) ReleaseMemory(n int) {
	f.Lock()
	defer f.Unlock()
	f.left += n
}

// inStreamOf is a stream of a channel whose watch looks when it is told to.
func inStreamOf(s network.Stream, credit uint64) *inStream {
	c := &Connection{start: time.Now(), credit: credit, closed: make(chan struct{}), ins: make(map[p2p.ChannelID]*inChannel)}
	c.watching.Store(true)
	c.watchdog = time.AfterFunc(time.Hour, c.look)
	in := newInStream(c, s)
	in.begin()
	c.ins[0] = &inChannel{live: [2]*inStream{in}}
	return in
}

// A reader that comes and goes as it likes reads what was sent, in order, whether it
// was drained or not, with credit and without, and however little may be drained.
func TestDrainKeepsTheOrder(t *testing.T) {
	const total = 2 << 20
	sent := make([]byte, total)
	for i := range sent {
		sent[i] = byte(i>>16) ^ byte(i>>8) ^ byte(i)
	}
	for seed := range uint64(12) {
		credit, left := uint64(firstWindow), 1<<30
		if seed%3 == 1 {
			credit = 0
		}
		if seed%4 == 3 {
			left = 100 << 10
		}
		r, w := io.Pipe()
		scope := &fewBytes{left: left}
		s := &pipeStream{Reader: r, granted: make(chan uint64, total/leastCredit), scope: scope}
		in := inStreamOf(s, credit)
		var writer sync.WaitGroup
		writer.Go(func() {
			defer w.Close()
			dice := rand.New(rand.NewPCG(seed, 1))
			may := credit
			for rest := sent; len(rest) > 0; {
				n := min(1+dice.IntN(30<<10), len(rest))
				if credit > 0 {
					for may == 0 {
						may += <-s.granted
					}
					n = min(n, int(may))
					may -= uint64(n)
				}
				if _, err := w.Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
		})
		over := make(chan struct{})
		if seed%2 == 1 { // and the watch looks at any moment
			writer.Go(func() {
				for {
					select {
					case <-over:
						return
					default:
						in.c.look()
						runtime.Gosched()
					}
				}
			})
		}
		dice := rand.New(rand.NewPCG(seed, 2))
		var got []byte
		drained := false
		for {
			for range dice.IntN(4) {
				in.c.look()
			}
			drained = drained || in.draining.Load()
			if dice.IntN(8) == 0 && in.draining.Load() { // long enough for the drain to take what it may
				until(t, "the drain has something", func() bool {
					in.mu.Lock()
					defer in.mu.Unlock()
					return in.drain == nil || in.drain.held > 0 || in.drain.over
				})
			}
			p := make([]byte, 1+dice.IntN(40<<10))
			n, err := in.Read(p)
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("seed %d: after %d bytes: %v", seed, len(got), err)
			}
		}
		close(over)
		writer.Wait()
		in.c.tasks.Wait()
		if !bytes.Equal(got, sent) || !drained {
			t.Errorf("seed %d: %d bytes of %d, drained: %v", seed, len(got), total, drained)
		}
	}
}

// Bytes beyond the credit are a fault where they are read, and stay one: those that
// came before it do not buy new credit.
func TestBytesBeyondTheCreditAreAFault(t *testing.T) {
	in := inStreamOf(&pipeStream{Reader: bytes.NewReader(make([]byte, 2*firstWindow))}, firstWindow)
	for n := 0; n < firstWindow; n += 1 << 10 { // taken by nobody
		if _, err := io.ReadFull(in.s, make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
		if err := in.arrived(1<<10, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if n, err := in.Read(make([]byte, 1<<10)); n != 0 || !errors.Is(err, ErrCredit) {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
}

// A window grows while it is taken quickly, to a bound, and those of a session
// together to another; what a stream had is there for others when it ends.
func TestWindowsGrowWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &pipeStream{granted: make(chan uint64, 1)}
		in := inStreamOf(s, firstWindow)
		defer in.c.watchdog.Stop()
		credit := uint64(firstWindow)
		use := func(in *inStream) { // half of what may be used up at once
			n := in.window / 2
			in.take(int(n))
			grant := <-s.granted
			credit += grant - n
			if grant < leastCredit || credit != in.window || in.granted.Load()-in.taken != in.window {
				t.Fatalf("%d granted, %d in hand, a window of %d", grant, credit, in.window)
			}
		}
		for range 3 {
			time.Sleep(time.Duration(growWithin))
			use(in)
		}
		if in.window != firstWindow {
			t.Fatalf("a channel that is taken slowly has a window of %d", in.window)
		}
		for range 10 {
			time.Sleep(time.Duration(growWithin) - 1)
			use(in)
		}
		if in.window != mostWindow {
			t.Fatalf("a channel that is taken quickly has a window of %d", in.window)
		}
		all := []*inStream{in}
		for range 20 {
			other := newInStream(in.c, s)
			other.begin()
			all = append(all, other)
			credit = firstWindow
			for range 10 {
				use(other)
			}
		}
		sum := 0
		for _, in := range all {
			sum += int(in.window - firstWindow)
		}
		if sum > growth || sum < growth-firstWindow || int64(sum) != in.c.grown.Load() {
			t.Errorf("windows have grown by %d, at most %d; counted %d", sum, growth, in.c.grown.Load())
		}
		for _, in := range all {
			in.end()
		}
		if n := in.c.grown.Load(); n != 0 {
			t.Errorf("%d are still counted", n)
		}
	})
}

// A reader that never quite catches up: what it had taken stayed reserved for as long
// as the drain ran, until the peer had no memory left.
func TestRegressionDrainReservesWhatWasTaken(t *testing.T) {
	const limit = 64 << 20
	r, w := io.Pipe()
	scope := &fewBytes{left: limit}
	s := &pipeStream{Reader: r, granted: make(chan uint64, 1<<16), scope: scope}
	in := inStreamOf(s, firstWindow)
	var writer sync.WaitGroup
	stop := make(chan struct{})
	writer.Go(func() {
		may := uint64(firstWindow)
		chunk := make([]byte, 16<<10)
		for {
			for may < uint64(len(chunk)) {
				select {
				case g := <-s.granted:
					may += g
				case <-stop:
					return
				}
			}
			may -= uint64(len(chunk))
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	in.c.look()
	in.c.look()
	p := make([]byte, 16<<10)
	most, total := 0, 0
	for total < 60<<20 {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Microsecond) {
			in.mu.Lock()
			h := 0
			if in.drain != nil {
				h = in.drain.held
				if in.drain.over {
					in.mu.Unlock()
					t.Fatalf("after %d bytes the drain is over (no memory is left): %d held of at most %d, %d reserved", total, h, mostWindow, limit-scope.left)
				}
			}
			in.mu.Unlock()
			if h > 48<<10 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no drain", total)
			}
		}
		n, err := in.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		total += n
		in.mu.Lock()
		most = max(most, in.drain.held)
		in.mu.Unlock()
	}
	scope.Lock()
	reserved := limit - scope.left
	scope.Unlock()
	if reserved > 2*mostWindow {
		t.Errorf("%d bytes are reserved, at most %d were ever held", reserved, most)
	}
	close(stop)
	r.Close()
	w.Close()
	writer.Wait()
}
