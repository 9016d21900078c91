package stream

import (
	"fmt"
	"net"
	"testing"

	corehost "github.com/libp2p/go-libp2p/core/host"
	"golang.org/x/net/nettest"
)

// TestConn is the whole of nettest over every network, in both directions and
// through a LimitedConn. KITH_NETTEST_REPEATS says how often; see
// nettestRepeats.
func TestConn(t *testing.T) {
	for i := range nettestRepeats(t) {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			overNetworks(t, func(t *testing.T, a, b corehost.Host) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					d, s, stop, err := makePipe(a, b)
					return d, s, stop, err
				})
				t.Run("accepted", func(t *testing.T) {
					nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
						d, s, stop, err := makePipe(a, b, WithConfirm())
						return s, d, stop, err
					})
				})
				t.Run("limited", func(t *testing.T) {
					nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
						d, s, stop, err := makePipe(a, b)
						return NewLimitedConn(d, 1<<16), NewLimitedConn(s, 1024), stop, err
					})
				})
			})
		})
	}
}
