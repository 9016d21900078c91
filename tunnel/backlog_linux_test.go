package tunnel

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

// fillBacklog makes a listener's queue full, so that the system answers no
// further connection. release empties it.
func fillBacklog(t *testing.T, l net.Listener) (release func()) {
	t.Helper()
	rc, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) { syscall.Listen(int(fd), 0) })
	var held []net.Conn
	for range 64 {
		c, err := net.DialTimeout("tcp4", l.Addr().String(), 100*time.Millisecond)
		if err != nil {
			return func() {
				for _, c := range held {
					c.Close()
				}
			}
		}
		held = append(held, c)
	}
	t.Fatal("the backlog never fills")
	return nil
}

func TestConnectTimeout(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	// A listener whose backlog is full accepts nothing: connections hang.
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	full := fillBacklog(t, l)
	defer full()
	target, _ := ma.NewMultiaddr("/ip4/127.0.0.1/tcp/" + portOf(l))
	expose(t, a, "hang", target, AllowAny(), func(c *ServiceConfig) { c.Limits.ConnectTimeout = 200 * time.Millisecond })
	b.Remember(a.id, a.addr())
	_, err = b.Open(t.Context(), a.id, "hang")
	if !errors.Is(err, &Error{Reason: ReasonTarget}) {
		t.Fatal(err)
	}
}
