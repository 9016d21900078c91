package host

import (
	"net"
	"testing"
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

// Only the first write waits.
func TestHeldBack(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		buf := make([]byte, 16)
		for {
			if _, err := b.Read(buf); err != nil {
				return
			}
		}
	}()
	defer b.Close()
	h := &heldBack{Conn: a}
	for range 3 {
		if n, err := h.Write([]byte("frame")); n != 5 || err != nil {
			t.Fatal(n, err)
		}
	}
}
