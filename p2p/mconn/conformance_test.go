package mconn_test

import (
	"net"
	"testing"

	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
	"github.com/kith-p2p/kith/p2p/p2ptest"
)

// The suite that every message transport passes, between kith nodes and as
// towards CometBFT.
func TestConformance(t *testing.T) {
	for name, comet := range map[string]bool{"comet": true, "kith": false} {
		t.Run(name, func(t *testing.T) {
			p2ptest.TestTransport(t, func(t testing.TB) p2ptest.Harness {
				var ends [2]*mconn.Transport
				for i := range ends {
					end, err := mconn.New(mconn.Options{Listen: "127.0.0.1:0", CometOnly: comet})
					if err != nil {
						t.Fatal(err)
					}
					ends[i] = end
				}
				// The near end of a connection: nobody listens there, nor will for as
				// long as it stands.
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
				taken, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { taken.Close() })
				nobody := taken.LocalAddr().(*net.TCPAddr)
				return p2ptest.Harness{
					A: ends[0], B: ends[1],
					Nowhere: p2p.Endpoint{Protocol: mconn.Protocol, IP: nobody.IP.To4(), Port: uint16(nobody.Port)},
				}
			})
		})
	}
}
