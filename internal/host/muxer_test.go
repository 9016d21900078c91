package host

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestOnLAN(t *testing.T) {
	for _, c := range []struct {
		addr net.Addr
		want bool
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, true},
		{&net.TCPAddr{IP: net.IPv4(192, 168, 1, 5), Port: 1}, true},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 1}, true},
		{&net.TCPAddr{IP: net.IPv4(8, 8, 8, 8), Port: 1}, false},
		{&net.UnixAddr{Name: "x"}, false}, // whatever a relayed connection says
		{nil, false},
	} {
		if got := onLAN(c.addr); got != c.want {
			t.Errorf("%v: %v", c.addr, got)
		}
	}
}

// Once the first frame was held back, whatever it was. A stream that was opened
// at once overtook the ping, yamux measured the true round trip of loopback, and
// the session was slow for as long as it lived.
func TestRegressionHeldBackIsThePingNotTheFirstFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		go io.Copy(io.Discard, b)
		defer b.Close()
		h := &heldBack{Conn: a}
		for i, c := range []struct {
			frame []byte
			want  time.Duration
		}{
			{[]byte{0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}, 0},                  // a stream opens
			{[]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01x"), 0}, // data
			{[]byte{0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0}, 0},                  // the answer to a ping
			{[]byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, lanRTT},             // a ping
			{[]byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}, 0},                  // the next one
		} {
			start := time.Now()
			if n, err := h.Write(c.frame); n != len(c.frame) || err != nil {
				t.Fatal(n, err)
			}
			if took := time.Since(start); took != c.want {
				t.Errorf("frame %d took %v, want %v", i, took, c.want)
			}
		}
	})
}
