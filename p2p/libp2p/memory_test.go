package libp2p

import (
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/kith-p2p/kith/p2p"
)

// Streams that claim 32 MiB and bring nothing cost hardly more than bare streams do:
// 10,000 of them less than 10 MiB.
//
// It is measured in a process of its own, since what earlier tests left behind goes
// whenever it likes. There, bare streams and ours take turns, the first turn of each is
// thrown away, and a reading is taken when the heap has come to rest. The size of the
// stacks that goroutines begin with is fixed: the runtime takes it otherwise from the
// stacks that it saw before, which makes a stream cheaper or dearer by 2 KiB.
func TestHeaderOnlyStreamsCostNothing(t *testing.T) {
	const alone = "KITH_TEST_HEADER_ONLY"
	if os.Getenv(alone) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		child := exec.CommandContext(t.Context(), self, "-test.run=^TestHeaderOnlyStreamsCostNothing$", "-test.v", "-test.timeout=5m")
		child.Env = append(os.Environ(), alone+"=1", "GODEBUG=adaptivestackstart=0")
		out, err := child.CombinedOutput()
		if err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	const rounds = 3
	m := newStreamCosts(t)
	var bare, ours []int64
	for round := range rounds + 1 {
		b, o := m.bare(), m.claiming()
		if round > 0 {
			bare, ours = append(bare, b), append(ours, o)
		}
	}
	slices.Sort(bare)
	slices.Sort(ours)
	extra := ours[rounds/2] - bare[rounds/2]
	if extra > 10<<20/10_000 {
		t.Errorf("a stream that claims 32 MiB costs %d bytes more than a bare one", extra)
	}
	t.Logf("bytes a stream, bare: %d, one that claims 32 MiB: %d", bare, ours)
}

// streamCosts measures what streams cost the process, both ends of them.
type streamCosts struct {
	testing.TB
	p      pair
	conn   network.Conn
	b      *Transport
	bared  chan struct{}
	idle   int // goroutines without sessions and streams
	limits map[p2p.ChannelID]int
	ids    []p2p.ChannelID
}

const costSessions, costEach = 2, 250

func newStreamCosts(tb testing.TB) *streamCosts {
	m := &streamCosts{TB: tb, p: networks[1].make(tb), bared: make(chan struct{}), limits: make(map[p2p.ChannelID]int)}
	m.p.join(tb)
	m.conn = m.p.a.Network().ConnsToPeer(m.p.b.ID())[0]
	m.p.b.SetStreamHandler("/bare", func(s network.Stream) {
		m.bared <- struct{}{}
		_, _ = s.Read(make([]byte, 1))
		_ = s.Reset()
	})
	for i := range p2p.ChannelID(costEach) {
		m.ids = append(m.ids, i)
		m.limits[i] = 32 << 20
	}
	_, m.b = transports(tb, m.p, Options{})
	settle(tb)
	m.idle = runtime.NumGoroutine()
	return m
}

// open opens a stream from a to b that begins with some bytes.
func (m *streamCosts) open(b []byte) network.Stream {
	m.Helper()
	s, err := m.conn.NewStream(m.Context())
	if err != nil {
		m.Fatal(err)
	}
	if _, err := s.Write(b); err != nil {
		m.Fatal(err)
	}
	return s
}

// bare is what a stream costs whose handler reads a byte.
func (m *streamCosts) bare() int64 {
	before := atRest()
	var streams []network.Stream
	for range costSessions * costEach {
		streams = append(streams, m.open(greeting("/bare")))
		<-m.bared
	}
	return m.end(before, streams)
}

// claiming is what a channel stream costs that holds a length and nothing after it.
func (m *streamCosts) claiming() int64 {
	var raws []*raw
	var conns []*Connection
	for range costSessions {
		r, y := shakeRaw(m, m.p, m.b, m.ids...)
		y.SetChannelLimits(m.limits)
		go func() { _, _, _ = y.ReceiveMessage() }()
		raws, conns = append(raws, r), append(conns, y)
	}
	claim := binary.AppendUvarint(nil, 32<<20)
	before := atRest()
	var streams []network.Stream
	for _, r := range raws {
		for _, id := range m.ids {
			streams = append(streams, m.open(append(header{r.session, id, 0}.append(greeting(ChannelProtocol)), claim...)))
		}
	}
	until(m, "all streams have arrived", func() bool {
		n := 0
		for _, y := range conns {
			y.mu.Lock()
			for _, in := range y.ins {
				if in.live[0] != nil {
					n++
				}
			}
			y.mu.Unlock()
		}
		return n == len(streams)
	})
	cost := m.end(before, streams)
	for i, y := range conns {
		_ = raws[i].control.Reset()
		_ = y.Close()
	}
	until(m, "nothing of the round is left", func() bool { return runtime.NumGoroutine() <= m.idle })
	return cost
}

// end takes the reading of a round, and ends its streams.
func (m *streamCosts) end(before int64, streams []network.Stream) int64 {
	cost := (atRest() - before) / int64(len(streams))
	for _, s := range streams {
		_ = s.Reset()
	}
	runtime.KeepAlive(streams)
	return cost
}

// atRest is what the heap and the stacks hold, when that has stopped changing.
func atRest() int64 {
	for last, steady := int64(0), 0; ; time.Sleep(5 * time.Millisecond) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		now := int64(m.HeapAlloc + m.StackInuse)
		if max(now, last)-min(now, last) > 16<<10 {
			steady, last = 0, now
		} else if steady++; steady == 3 {
			return now
		}
	}
}
