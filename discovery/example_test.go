package discovery_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/discovery"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
)

// A host that finds peers by their ID: its own routing asks the book, then the
// DHT, which enters the network through a list of nodes in a file.
func Example() {
	book, err := addrbook.Open(addrbook.NewMemoryStore(), addrbook.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer book.Close()
	file, err := os.Open("bootstrap.txt")
	if err != nil {
		log.Fatal(err)
	}
	list, err := discovery.ReadList(file)
	file.Close()
	if err != nil {
		log.Print(err) // all damaged lines; the others are good
	}
	var dht *discovery.DHT
	h, err := libp2p.New(libp2p.Routing(func(h host.Host) (routing.PeerRouting, error) {
		var err error
		dht, err = discovery.NewDHT(discovery.DHTConfig{Host: h, WAN: true, LAN: true, Bootstrap: list.AddrInfos})
		return discovery.NewFinder(discovery.FinderConfig{Host: h, Book: book, DHT: dht}), err
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()

	mix, err := discovery.NewMix(discovery.MixConfig{
		Learner: book,
		Sources: []discovery.Source{discovery.NewMDNS(h, nil), discovery.NewBootstrap("file", list), dht},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mix.Run(ctx) }()

	id, err := peer.Decode("12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Connect(ctx, peer.AddrInfo{ID: id}))
	cancel()
	<-ended
}

// A list says all that is wrong with it at once.
func ExampleParseList() {
	list, err := discovery.ParseList([]string{
		"# nodes of friends",
		"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV  # Ann",
		"/ip4/192.0.2.2/tcp/4001",
		"/dnsaddr/boot.example",
	})
	fmt.Println(list.Addresses[0])
	fmt.Println(list.DNSAddrs)
	fmt.Println(err)
	// Output:
	// libp2p://f84c0fb9a34d767a88fe04955cdb4fdb69e4c182@192.0.2.1:4001/p2p/12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV
	// [/dnsaddr/boot.example]
	// discovery: bootstrap line 3: "/ip4/192.0.2.2/tcp/4001": address: peer ID required: give the peer ID, or an address that ends in /p2p/ and the peer ID (12D3KooW...)
}
