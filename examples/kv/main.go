// Command kv is a key-value store that peers use by requests and replies: typed
// handlers on one side, typed calls on the other, errors with codes in between.
//
//	go run ./examples/kv serve                       prints its ADDRESS
//	go run ./examples/kv put ADDRESS name satoshi
//	go run ./examples/kv get ADDRESS name
//	go run ./examples/kv list ADDRESS
//
// With -local before the first word a node keeps to 127.0.0.1: for both on one
// machine. `kith call ADDRESS kv/get name` asks it, too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/rpc"
	"github.com/libp2p/go-libp2p/core/peer"
)

// pair is a request of put and an answer of get. Structs travel as JSON.
type pair struct{ Key, Value string }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kv:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("kv", flag.ContinueOnError)
	home := flags.String("home", "", "directory of the node's key (default: a temporary one)")
	local := flags.Bool("local", false, "listen on 127.0.0.1 only")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if args = flags.Args(); len(args) == 0 {
		return errors.New("say serve, put, get or list")
	}
	if *home == "" {
		dir, err := os.MkdirTemp("", "kith-kv-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		*home = filepath.Join(dir, "home")
	}
	n, err := kith.New(kith.Config{Home: *home, Network: "kith-kv", LocalOnly: *local})
	if err != nil {
		return err
	}
	defer n.Close()
	if args[0] != "serve" {
		return ask(ctx, n, args, out)
	}
	if err := serve(n); err != nil {
		return err
	}
	fmt.Fprintf(out, "serving; try:\n  go run ./examples/kv put %s name satoshi\n", n.Addrs()[0])
	return n.Run(ctx)
}

// serve registers the methods of the store, for everybody.
func serve(n *kith.Node) error {
	var mu sync.Mutex
	values := map[string]string{}
	return errors.Join(
		rpc.Handle(n.Server(), "kv/put", func(_ context.Context, p pair) (string, error) {
			if p.Key == "" {
				return "", rpc.Errorf(rpc.CodeInvalidArgument, "a key has at least one letter")
			}
			mu.Lock()
			defer mu.Unlock()
			old := values[p.Key]
			values[p.Key] = p.Value
			return old, nil
		}),
		rpc.Handle(n.Server(), "kv/get", func(_ context.Context, key string) (pair, error) {
			mu.Lock()
			defer mu.Unlock()
			v, ok := values[key]
			if !ok {
				return pair{}, rpc.Errorf(rpc.CodeNotFound, "there is no %q", key)
			}
			return pair{key, v}, nil
		}),
		rpc.Handle(n.Server(), "kv/list", func(context.Context, string) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Sorted(maps.Keys(values)), nil
		}),
		n.Allow("kv/put", "*"), n.Allow("kv/get", "*"), n.Allow("kv/list", "*"),
	)
}

// ask makes one call.
func ask(ctx context.Context, n *kith.Node, args []string, out io.Writer) error {
	if want := map[string]int{"put": 4, "get": 3, "list": 2}[args[0]]; len(args) != want {
		return errors.New("say put ADDRESS KEY VALUE, get ADDRESS KEY or list ADDRESS")
	}
	server, err := n.Connect(ctx, args[1])
	if err != nil {
		return err
	}
	return call(ctx, n, server.ID, args, out)
}

func call(ctx context.Context, n *kith.Node, server peer.ID, args []string, out io.Writer) error {
	switch args[0] {
	case "put":
		old, err := rpc.Call[string](ctx, n.Client(), server, "kv/put", pair{args[2], args[3]})
		if err == nil {
			fmt.Fprintf(out, "%s was %q, is %q\n", args[2], old, args[3])
		}
		return err
	case "get":
		p, err := rpc.Call[pair](ctx, n.Client(), server, "kv/get", args[2], rpc.Idempotent())
		if errors.Is(err, rpc.CodeNotFound) {
			return fmt.Errorf("no such key: %s", args[2])
		}
		fmt.Fprintln(out, p.Value)
		return err
	}
	keys, err := rpc.Call[[]string](ctx, n.Client(), server, "kv/list", "", rpc.Idempotent())
	for _, k := range keys {
		fmt.Fprintln(out, k)
	}
	return err
}
