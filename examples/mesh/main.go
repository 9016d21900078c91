// Command mesh runs five nodes that know only the first of them, lets them find
// each other, kills two, and shows that the rest still reach all of each other, by
// sessions for messages and with what they publish. The two run in a process of
// their own, which is killed: they say goodbye to nobody.
//
//	go run ./examples/mesh
//	go run ./examples/mesh -kill 0,3
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
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

// member is one node of this process, and what it hears.
type member struct {
	*kith.Node
	news *dispatch.Subscription[*wrapperspb.StringValue]
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mesh:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	any2 := rand.Perm(size)
	flags := flag.NewFlagSet("mesh", flag.ContinueOnError)
	kill := flags.String("kill", fmt.Sprintf("%d,%d", any2[0], any2[1]), "the `two` to kill, such as 0,3")
	home := flags.String("home", "", "run these two in that `directory`, and nobody else; an address to begin with may follow")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var a, b int
	if _, err := fmt.Sscanf(*kill, "%d,%d", &a, &b); err != nil || a == b || min(a, b) < 0 || max(a, b) >= size {
		return errors.New("-kill takes two different numbers from 0 to 4, such as 0,3")
	}
	know, doomed := flags.Args(), *home != ""
	if !doomed {
		if *home, err = os.MkdirTemp("", "kith-mesh-"); err != nil {
			return err
		}
		defer os.RemoveAll(*home)
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()

	var mesh []*member
	var two *exec.Cmd
	var said *bufio.Scanner // by their process
	for i := range size {
		switch {
		case (i == a || i == b) == doomed:
			n, err := kith.New(kith.Config{Home: filepath.Join(*home, strconv.Itoa(i)), LocalOnly: true, Network: "kith-mesh", Bootstrap: know})
			if err != nil {
				return err
			}
			running.Go(func() { _ = n.Run(ctx) })
			news, err := dispatch.Subscribe[*wrapperspb.StringValue](n.Topics(), "mesh/news", dispatch.Policy{})
			if err != nil {
				return err
			}
			if mesh = append(mesh, &member{n, news}); i == 0 {
				know = n.Addrs()[:1]
			}
		case two == nil && !doomed:
			two = exec.CommandContext(ctx, os.Args[0], append([]string{"-kill", *kill, "-home", *home}, know...)...)
			pipe, err := two.StdoutPipe()
			if err = errors.Join(err, two.Start()); err != nil {
				return err
			}
			defer func() { cancel(); two.Wait() }()
			if said = bufio.NewScanner(pipe); !said.Scan() {
				return errors.New("the two do not start")
			}
			know = []string{said.Text()}
		}
	}
	fmt.Fprintln(out, know[0])
	if err := meet(ctx, mesh, "all are here", size-1); err != nil {
		return err
	}
	if doomed {
		fmt.Fprintln(out, "all are here")
		<-ctx.Done() // until it is killed
		return ctx.Err()
	}
	if !said.Scan() {
		return errors.New("the two do not find the others")
	}
	fmt.Fprintf(out, "all %d reach each other, of whom each knew one\n", size)
	if err := errors.Join(two.Process.Kill(), meet(ctx, mesh, "the rest is here", size-3)); err != nil {
		return err
	}
	fmt.Fprintf(out, "nodes %d and %d are dead; the other %d still reach each other\n", a, b, len(mesh))
	return nil
}

// meet has each node of this process publish a text, and waits until it has heard it
// from so many others and has a session with each of them.
func meet(ctx context.Context, mesh []*member, text string, others int) error {
	for _, m := range mesh {
		err := m.Topics().WaitPeers(ctx, "mesh/news", others)
		if err = errors.Join(err, m.Topics().Publish(ctx, "mesh/news", wrapperspb.String(text))); err != nil {
			return err
		}
	}
	for _, m := range mesh {
		heard := map[p2p.NodeID]bool{}
		for said, err := range m.news.Messages(ctx) {
			if err == nil && said.Author != m.NodeID() && said.Message.GetValue() == text {
				heard[said.Author] = true
				err = m.WaitPeer(ctx, string(said.Author))
			}
			if err != nil {
				return err
			}
			if len(heard) == others {
				break
			}
		}
	}
	return nil
}
