package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/kith-p2p/kith/access"
	"github.com/kith-p2p/kith/rpc"
)

// twoHosts are two nodes that know each other.
func twoHosts() (a, b host.Host, stop func()) {
	var hs [2]host.Host
	for i := range hs {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
		if err != nil {
			log.Fatal(err)
		}
		hs[i] = h
	}
	if err := hs[0].Connect(context.Background(), peer.AddrInfo{ID: hs[1].ID(), Addrs: hs[1].Addrs()}); err != nil {
		log.Fatal(err)
	}
	return hs[0], hs[1], func() {
		hs[0].Close()
		hs[1].Close()
	}
}

// serve starts a server and a client of it.
func serve(cfg *rpc.ServerConfig) (c *rpc.Client, s *rpc.Server, to peer.ID, stop func()) {
	a, b, closeHosts := twoHosts()
	s, err := rpc.NewServer(b, cfg)
	if err != nil {
		log.Fatal(err)
	}
	if c, err = rpc.NewClient(a, nil); err != nil {
		log.Fatal(err)
	}
	return c, s, b.ID(), func() {
		c.Close()
		s.Stop()
		closeHosts()
	}
}

// Bytes in, bytes out: PointSub's API.
func ExampleServer_Start() {
	a, b, stop := twoHosts()
	defer stop()

	server, err := rpc.NewServer(b, rpc.DefaultServerConfig())
	if err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	err = server.Start("/example/upper/1.0.0", func(request []byte) ([]byte, error) {
		return bytes.ToUpper(request), nil
	})
	if err != nil {
		log.Fatal(err)
	}

	client, err := rpc.NewClient(a, rpc.DefaultClientConfig())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	response, err := client.Send(context.Background(), b.ID(), "/example/upper/1.0.0", []byte("hello"))
	fmt.Printf("%s %v\n", response, err)
	// Output: HELLO <nil>
}

// Go values in, Go values out, and errors with codes.
func ExampleHandle() {
	client, server, to, stop := serve(nil)
	defer stop()

	type Order struct{ Item string }
	type Receipt struct{ Price int }
	err := rpc.Handle(server, "/example/order/1.0.0", func(_ context.Context, o Order) (Receipt, error) {
		if o.Item != "cake" {
			return Receipt{}, rpc.Errorf(rpc.CodeNotFound, "we have no %s", o.Item)
		}
		return Receipt{Price: 4}, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	r, err := rpc.Call[Receipt](context.Background(), client, to, "/example/order/1.0.0", Order{"cake"})
	fmt.Println(r.Price, err)
	_, err = rpc.Call[Receipt](context.Background(), client, to, "/example/order/1.0.0", Order{"tea"})
	e, _ := errors.AsType[*rpc.Error](err)
	fmt.Println(errors.Is(err, rpc.CodeNotFound), e.Message)
	// Output:
	// 4 <nil>
	// true we have no tea
}

// One request, many answers, as an iterator at both ends.
func ExampleHandleServerStream() {
	client, server, to, stop := serve(nil)
	defer stop()

	err := rpc.HandleServerStream(server, "/example/count/1.0.0", func(ctx context.Context, n int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := range n {
				if !yield(i, nil) {
					return // the caller has stopped
				}
			}
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	for i, err := range rpc.CallServerStream[int](context.Background(), client, to, "/example/count/1.0.0", 1_000_000) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(i)
		if i == 2 {
			break // ends the call, there too
		}
	}
	// Output:
	// 0
	// 1
	// 2
}

// A conversation, without types.
func ExampleClient_Open() {
	client, server, to, stop := serve(nil)
	defer stop()

	err := server.HandleStream("/example/greet/1.0.0", func(_ context.Context, st *rpc.ServerStream) error {
		for name, err := range st.Messages() {
			if err != nil {
				return err
			}
			if err := st.Send(append([]byte("hello "), name...)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	st, err := client.Open(context.Background(), &rpc.Request{Peer: to, Method: "/example/greet/1.0.0"})
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	for _, name := range []string{"ann", "bob"} {
		if err := st.Send([]byte(name)); err != nil {
			log.Fatal(err)
		}
		answer, err := st.Recv()
		fmt.Println(string(answer), err)
	}
	// Output:
	// hello ann <nil>
	// hello bob <nil>
}

// The same call to several peers.
func ExampleCallMany() {
	client, server, to, stop := serve(nil)
	defer stop()
	if err := rpc.Handle(server, "/example/now/1.0.0", func(context.Context, string) (string, error) { return "noon", nil }); err != nil {
		log.Fatal(err)
	}
	results, err := rpc.CallMany[string](context.Background(), client, []peer.ID{to}, "/example/now/1.0.0", "", rpc.Quorum)
	for _, r := range results {
		fmt.Println(r.Peer == to, r.Value, r.Err)
	}
	fmt.Println(err)
	// Output:
	// true noon <nil>
	// <nil>
}

// Only whom the access rules name may call.
func ExampleAllow() {
	var rules access.Control
	client, server, to, stop := serve(&rpc.ServerConfig{Authorize: rpc.Allow(&rules)})
	defer stop()
	if err := server.Start("/example/echo/1.0.0", func(b []byte) ([]byte, error) { return b, nil }); err != nil {
		log.Fatal(err)
	}
	_, err := client.Send(context.Background(), to, "/example/echo/1.0.0", nil)
	fmt.Println(errors.Is(err, rpc.CodeUnimplemented))

	rules.Set("/example/echo/1.0.0", access.Rule{Any: true})
	_, err = client.Send(context.Background(), to, "/example/echo/1.0.0", nil)
	fmt.Println(err)
	list, _ := client.Services(context.Background(), to)
	for _, s := range list {
		if !s.BuiltIn {
			fmt.Println(s.Name)
		}
	}
	// Output:
	// true
	// <nil>
	// /example/echo/1.0.0
}

// A deadline ends the call here and the handler there.
func ExampleClient_Send() {
	client, server, to, stop := serve(nil)
	defer stop()
	ended := make(chan error, 1)
	err := server.StartHandler("/example/sleep/1.0.0", func(ctx context.Context, _ *rpc.Request) (*rpc.Response, error) {
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err = client.Send(ctx, to, "/example/sleep/1.0.0", nil)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	fmt.Println(<-ended != nil)
	// Output:
	// true
	// true
}
