package addrbook_test

import (
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
)

// A program without a Node keeps its book in a file of its own: it learns,
// picks whom to dial, says what came of it, and still knows after a restart.
func Example() {
	dir, err := os.MkdirTemp("", "book")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "peers.db")

	run := func() {
		store, err := addrbook.OpenStore(path)
		if err != nil {
			log.Fatal(err)
		}
		defer store.Close()
		book, err := addrbook.Open(store, addrbook.Options{})
		if err != nil {
			log.Fatal(err)
		}
		defer book.Close()

		a, err := address.Parse("9d3f4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5@198.41.0.4:26656")
		if err != nil {
			log.Fatal(err)
		}
		teacher := addrbook.Source{Kind: addrbook.PEX, Peer: "0000000000000000000000000000000000000001", IP: netip.MustParseAddr("193.0.14.129")}
		learned := book.Learn(teacher, []address.NodeAddress{a})
		fmt.Printf("%d new, %d known\n", learned.Added, learned.Known)

		next, ok := book.Pick(addrbook.Any)
		if !ok {
			fmt.Println("nobody to dial before", book.Next())
			return
		}
		book.Hold(next.NodeID) // it is ours: no pick returns it
		book.Attempt(next)
		fmt.Println("dialling", next.Hostname) // ... and the handshake proves who it is:
		book.Good(next)
		book.Connected(next.NodeID)
		fmt.Println("score", book.Adjust(next.NodeID, +10))

		book.Disconnected(next.NodeID)
		book.Release(next.NodeID, time.Now().Add(2*time.Second)) // not again for two seconds
		info, _ := book.Entry(next)
		fmt.Println(info.Table, info.Verified)
	}
	run()
	run()
	// Output:
	// 1 new, 0 known
	// dialling 198.41.0.4
	// score 10
	// tried true
	// 0 new, 1 known
	// dialling 198.41.0.4
	// score 20
	// tried true
}

func ExampleMayTell() {
	a, _ := address.Parse("9d3f4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5@192.168.1.7:26656")
	for _, ip := range []string{"192.168.40.1", "198.41.0.4"} {
		fmt.Println(ip, addrbook.MayTell(a, addrbook.Audience{IP: netip.MustParseAddr(ip), Protocol: address.MConn}))
	}
	// Output:
	// 192.168.40.1 true
	// 198.41.0.4 false
}
