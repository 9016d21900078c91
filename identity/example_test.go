package identity_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kith-p2p/kith/identity"
)

func Example() {
	dir, err := os.MkdirTemp("", "kith")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	key, created, err := identity.LoadOrCreate(filepath.Join(dir, "node.key"))
	if err != nil {
		panic(err)
	}
	pub := key.Public()
	id, err := identity.NodeIDFromPeerID(pub.PeerID())
	fmt.Println(created, id == pub.NodeID(), err)

	sig, err := key.SignContext("example", []byte("I was here"))
	fmt.Println(pub.VerifyContext("example", []byte("I was here"), sig), err)
	// Output:
	// true true <nil>
	// true <nil>
}

func ExamplePrivKey_String() {
	key, err := identity.PrivKeyFromSeed(make([]byte, identity.SeedSize))
	if err != nil {
		panic(err)
	}
	fmt.Printf("%#v\n", key)
	fmt.Println(key.Public().PeerID())
	// Output:
	// [private key of 139e3940e64b5491722088d9a0d741628fc826e0]
	// 12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN
}
