// Command mesh runs five nodes in one process that know only the first of them,
// lets them find each other, kills two, and shows that the rest still reach all
// of each other: with messages, and with what they publish.
//
//	go run ./examples/mesh
//	go run ./examples/mesh -kill 0
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/p2p"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const size = 5

// member is one node and how to end it.
type member struct {
	*kith.Node
	news *dispatch.Subscription[*wrapperspb.StringValue]
	kill func()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mesh:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mesh", flag.ContinueOnError)
	first := flags.Int("kill", rand.IntN(size), "the first of the two to kill: 0 to 4")
	if err := flags.Parse(args); err != nil || *first < 0 || *first >= size {
		return cmp.Or(err, errors.New("-kill takes a number from 0 to 4"))
	}
	dead := map[int]bool{*first: true, (*first + 1 + rand.IntN(size-1)) % size: true}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "kith-mesh-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	var mesh []*member
	for i := range size {
		var know []string
		if i > 0 {
			know = mesh[0].Addrs()[:1]
		}
		m, err := start(ctx, filepath.Join(dir, strconv.Itoa(i)), know)
		if err != nil {
			return err
		}
		defer m.kill()
		mesh = append(mesh, m)
	}
	began := time.Now()
	if err := meet(ctx, mesh); err != nil {
		return err
	}
	fmt.Fprintf(out, "after %v all %d are connected with each other, of whom each knew one\n", time.Since(began).Round(time.Millisecond), size)

	var rest []*member
	for i, m := range mesh {
		if dead[i] {
			m.kill()
			fmt.Fprintf(out, "node %d is dead\n", i)
		} else {
			rest = append(rest, m)
		}
	}
	if err := meet(ctx, rest); err != nil {
		return err
	}
	fmt.Fprintf(out, "the other %d still reach each other\n", len(rest))
	return nil
}

func start(ctx context.Context, home string, know []string) (*member, error) {
	n, err := kith.New(kith.Config{Home: home, LocalOnly: true, Network: "kith-mesh", Bootstrap: know})
	if err != nil {
		return nil, err
	}
	news, err := dispatch.Subscribe[*wrapperspb.StringValue](n.Topics(), "mesh/news", dispatch.Policy{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = n.Run(ctx) })
	return &member{n, news, func() { cancel(); running.Wait() }}, nil
}

// meet waits until everybody is connected with everybody, and has everybody
// publish something that all the others receive.
func meet(ctx context.Context, mesh []*member) error {
	for _, a := range mesh {
		for _, b := range mesh {
			for a != b && a.PeerManager().Status(b.NodeID()) != p2p.PeerStatusUp {
				if ctx.Err() != nil {
					return errors.New("they do not find each other")
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		if err := a.Topics().WaitPeers(ctx, "mesh/news", len(mesh)-1); err != nil {
			return err
		}
	}
	for i, a := range mesh {
		if err := a.Topics().Publish(ctx, "mesh/news", wrapperspb.String(fmt.Sprintf("news %d", i))); err != nil {
			return err
		}
	}
	for _, a := range mesh {
		heard := 0
		for m, err := range a.news.Messages(ctx) {
			if err != nil {
				return err
			}
			if m.Author != a.NodeID() {
				heard++
			}
			if heard == len(mesh)-1 {
				break
			}
		}
	}
	return nil
}
