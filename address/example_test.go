package address_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/kith-p2p/kith/address"
)

func ExampleParse() {
	for _, s := range []string{
		"139E3940E64B5491722088D9A0D741628FC826E0@Seed.example.com:26656",
		"/ip4/203.0.113.7/udp/4001/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
		"libp2p:12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
	} {
		a, err := address.Parse(s)
		fmt.Println(a, err)
	}
	// Output:
	// mconn://139e3940e64b5491722088d9a0d741628fc826e0@seed.example.com:26656 <nil>
	// libp2p://139e3940e64b5491722088d9a0d741628fc826e0@203.0.113.7:4001/udp/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN <nil>
	// libp2p:139e3940e64b5491722088d9a0d741628fc826e0/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN <nil>
}

func ExampleNodeAddress_Resolve() {
	a, err := address.Parse("mconn://139e3940e64b5491722088d9a0d741628fc826e0@127.0.0.1")
	if err != nil {
		panic(err)
	}
	endpoints, err := a.Resolve(context.Background())
	fmt.Println(endpoints, err)
	// Output: [mconn://127.0.0.1:26656] <nil>
}

func ExampleUnsupportedError() {
	_, err := address.Parse("/ip4/1.2.3.4/udp/4001/webrtc-direct/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
	if unsupported, ok := errors.AsType[*address.UnsupportedError](err); ok {
		fmt.Println(unsupported)
	}
	// Output: /webrtc-direct is not supported: not known in this place
}

func ExampleParsePeer() {
	id, where, err := address.ParsePeer("/dns/example.com/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
	fmt.Println(id, where, err)
	// Output: 12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN [/dns/example.com/tcp/4001] <nil>
}

func ExampleTargetMultiaddr() {
	for _, s := range []string{"3000", "udp:[::1]:53", "unix:/run/app.sock"} {
		m, err := address.TargetMultiaddr(s)
		fmt.Println(m, address.HumanAddr(m), err)
	}
	// Output:
	// /ip4/127.0.0.1/tcp/3000 127.0.0.1:3000 <nil>
	// /ip6/::1/udp/53 udp:[::1]:53 <nil>
	// /unix/run/app.sock unix:/run/app.sock <nil>
}
