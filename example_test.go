package kith_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/kith-p2p/kith"
)

// Two nodes in one program: one offers a service to the other, which uses it.
// In life they are two programs on two machines, and the address is what
// `kith up` or Addrs prints there.
func Example() {
	server, client := newNode(), newNode()
	defer server.Close()
	defer client.Close()

	ln, err := server.Listen("greeter", client.ID().String()) // nobody else may
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintln(conn, "hello, peer")
	}()

	conn, err := client.Dial(context.Background(), server.Addrs()[0], "greeter")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	io.Copy(os.Stdout, conn)
	// Output: hello, peer
}

func newNode() *kith.Node {
	home, err := os.MkdirTemp("", "kith")
	if err != nil {
		log.Fatal(err)
	}
	n, err := kith.New(kith.Config{Home: home, LocalOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	return n
}
