package kith_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/kith-p2p/kith"
)

// Two nodes in one program: one offers a service to the other, which uses it.
// In life they are two programs on two machines, and the address is what
// `kith up` or Addrs prints there.
func Example() {
	server, client := newNode("server"), newNode("client")
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
	os.RemoveAll(homes)
	// Output: hello, peer
}

func newNode(name string) *kith.Node {
	n, err := kith.New(kith.Config{Home: filepath.Join(homes, name), LocalOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	return n
}

// homes is where this example keeps its nodes; a program has one home, such as
// /var/lib/my-app.
var homes = func() string {
	dir, err := os.MkdirTemp("", "kith")
	if err != nil {
		log.Fatal(err)
	}
	return dir
}()
