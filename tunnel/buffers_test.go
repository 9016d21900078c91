package tunnel

import (
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

func TestBuffersStayWithinTheBudget(t *testing.T) {
	var b buffers
	var out []*[]byte
	for range 20_000 {
		if len(out) > 0 && rand.IntN(3) == 0 {
			i := rand.IntN(len(out))
			b.put(out[i])
			out[i] = out[len(out)-1]
			out = out[:len(out)-1]
			continue
		}
		p := b.get([]int{1, bufFloor, bufStart, 64 << 10, bufMax, 10 << 20}[rand.IntN(6)])
		if len(*p) < bufFloor || len(*p) > bufMax {
			t.Fatalf("lent %d bytes", len(*p))
		}
		out = append(out, p)
		if u := b.used.Load(); u < 0 || u > bufBudget {
			t.Fatalf("%d bytes are out", u)
		}
	}
	for _, p := range out {
		b.put(p)
	}
	if u := b.used.Load(); u != 0 {
		t.Fatalf("%d bytes are out after the last came back", u)
	}
}

// A few connections with stuck readers must not take what others need.
func TestBuffersLeaveRoomForOthers(t *testing.T) {
	var b buffers
	for range 10_000 {
		b.get(bufMax)
	}
	if p := b.get(bufMax); len(*p) < bufFloor {
		t.Fatalf("a newcomer got %d bytes", len(*p))
	}
	if left := bufBudget - b.used.Load(); left < bufStart {
		t.Logf("%d bytes left", left)
	}
	var fair buffers
	for range 16 {
		if p := fair.get(bufMax); len(*p) != bufMax {
			t.Fatal("the first connections do not get full buffers")
		}
	}
}

func TestNextSize(t *testing.T) {
	for _, c := range []struct{ size, n, want int }{
		{bufStart, bufStart, 64 << 10},
		{64 << 10, 64 << 10, bufMax},
		{bufMax, bufMax, bufMax},
		{bufMax, 1000, 64 << 10},
		{64 << 10, 1000, bufStart},
		{bufStart, 1, bufStart},
		{bufFloor, bufFloor, 64 << 10}, // so that QUIC, which waits with the floor, grows too
		{bufFloor, 10, bufStart},
		{64 << 10, 40 << 10, 64 << 10},
		{64 << 10, framePayload, bufMax},
		{bufMax, 4 * framePayload, bufMax},
	} {
		if got := nextSize(c.size, c.n); got != c.want {
			t.Errorf("nextSize(%d, %d) = %d, want %d", c.size, c.n, got, c.want)
		}
	}
}

// Waiting connections hold no buffer.
func TestIdleConnectionsHoldNoBuffers(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	addr := forwardTo(t, b, a, "echo")
	for range 50 {
		c := dial(t, addr)
		roundTrip(t, c, "hello")
		go c.Write(make([]byte, 1<<20))
		if _, err := io.ReadFull(c, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all buffers come back", func() bool { return a.Stats().Buffers == 0 && b.Stats().Buffers == 0 })
	if n := a.Streams.Len(); n != 50 {
		t.Fatalf("%d streams are live, want 50", n)
	}
}

func BenchmarkTunnelEcho(bm *testing.B) {
	a, b := newNode(bm, overTCP), newNode(bm)
	expose(bm, a, "echo", service(bm, echo), AllowAny())
	c, err := net.Dial("tcp4", forwardTo(bm, b, a, "echo"))
	if err != nil {
		bm.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 64)
	bm.ReportAllocs()
	for bm.Loop() {
		if _, err := c.Write(buf); err != nil {
			bm.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			bm.Fatal(err)
		}
	}
}

func BenchmarkTunnelConnect(bm *testing.B) {
	a, b := newNode(bm, overTCP), newNode(bm)
	expose(bm, a, "echo", service(bm, echo), AllowAny())
	addr := forwardTo(bm, b, a, "echo")
	one := make([]byte, 1)
	for bm.Loop() {
		c, err := net.Dial("tcp4", addr)
		if err != nil {
			bm.Fatal(err)
		}
		c.Write(one)
		if _, err := io.ReadFull(c, one); err != nil {
			bm.Fatal(err)
		}
		c.Close()
	}
}

func BenchmarkTunnelThroughput(bm *testing.B) {
	a, b := newNode(bm, overTCP), newNode(bm)
	expose(bm, a, "sink", service(bm, func(c net.Conn) { io.Copy(io.Discard, c); c.Write([]byte{1}) }), AllowAny())
	c, err := net.Dial("tcp4", forwardTo(bm, b, a, "sink"))
	if err != nil {
		bm.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	bm.SetBytes(int64(len(buf)))
	for bm.Loop() {
		if _, err := c.Write(buf); err != nil {
			bm.Fatal(err)
		}
	}
	c.(*net.TCPConn).CloseWrite()
	io.ReadAll(c)
}
