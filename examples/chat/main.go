// Command chat is a room for everybody on one network: what one types, all read.
// It shows typed channels: open one before the node runs, broadcast, receive.
//
//	go run ./examples/chat -name ann                     on one machine
//	go run ./examples/chat -name bob ADDRESS             on another
//
// On one local network mDNS stands for the ADDRESS; with -local each keeps to 127.0.0.1.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/p2p"
	"google.golang.org/protobuf/types/known/structpb"
)

// room is the number of the channel; every node of the network uses the same.
const room p2p.ChannelID = 0x20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("chat", flag.ContinueOnError)
	name := flags.String("name", "somebody", "what the others call you")
	home := flags.String("home", "", "directory of the node's key (default: a temporary one)")
	local := flags.Bool("local", false, "listen on 127.0.0.1 only")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *home == "" {
		dir, err := os.MkdirTemp("", "kith-chat-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		*home = filepath.Join(dir, "home")
	}
	n, err := kith.New(kith.Config{Home: *home, Network: "kith-chat", Moniker: *name, LocalOnly: *local, Bootstrap: flags.Args()})
	if err != nil {
		return err
	}
	lines, err := p2p.OpenTyped[*structpb.Struct](n.Router(), room)
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer leave()
	all.Go(func() { _ = n.Run(ctx) })

	fmt.Fprintf(out, "you are %s; others join with:\n  go run ./examples/chat %s\n", *name, n.Addrs()[0])
	updates := n.PeerManager().Subscribe()
	defer updates.Close()
	all.Go(func() { showPeers(n, updates, out) })
	all.Go(func() { show(ctx, lines, out) })

	typed := make(chan string)
	go func() { // a read of a terminal cannot be interrupted: it may outlive this function
		defer close(typed)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case typed <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for text, more := "", true; ctx.Err() == nil; {
		select {
		case text, more = <-typed:
		case <-ctx.Done():
		}
		if !more || ctx.Err() != nil {
			break
		}
		line, err := structpb.NewStruct(map[string]any{"name": *name, "text": text})
		if err != nil {
			return err
		}
		sent, err := lines.Broadcast(ctx, line)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "(to %d)\n", sent)
	}
	for range 100 { // the last words have a second to leave
		if lines.Stats().Send.Queued == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// show prints what the others say.
func show(ctx context.Context, lines *p2p.TypedChannel[*structpb.Struct], out io.Writer) {
	for in, err := range lines.Receive(ctx) {
		if err != nil {
			return
		}
		f := in.Message.GetFields()
		fmt.Fprintf(out, "%s: %s\n", clean(f["name"].GetStringValue()), clean(f["text"].GetStringValue()))
	}
}

// showPeers prints who comes and goes.
func showPeers(n *kith.Node, updates *p2p.PeerUpdates, out io.Writer) {
	names := map[p2p.NodeID]string{}
	for u := range updates.Updates() {
		for _, p := range n.Router().Stats().Peers {
			names[p.ID] = p.Info.Moniker
		}
		switch u.Status {
		case p2p.PeerStatusUp:
			fmt.Fprintf(out, "* %s is here\n", clean(names[u.NodeID]))
		case p2p.PeerStatusDown:
			fmt.Fprintf(out, "* %s is gone\n", clean(names[u.NodeID]))
		}
	}
}

// clean keeps what strangers send from moving the cursor.
func clean(s string) string {
	runes := []rune(s)
	for i, r := range runes {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			runes[i] = '?'
		}
	}
	return string(runes)
}
