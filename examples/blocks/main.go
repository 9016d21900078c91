// Command blocks watches the chain of a CometBFT node over its own peer-to-peer
// wire: it connects as a peer would, and prints each block as it is made.
//
//	go run ./examples/blocks ID@127.0.0.1:26656
//	go run ./examples/blocks -from 1 -n 10 127.0.0.1:26656
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/kith-p2p/kith/comet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "blocks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("blocks", flag.ContinueOnError)
	from := flags.Int64("from", 0, "first height (0: the newest)")
	count := flags.Int("n", 0, "blocks to print (0: until Ctrl-C)")
	network := flags.String("network", "", "the chain ID that the node has to be of (default: any)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("give the address of a CometBFT node, such as 127.0.0.1:26656")
	}
	dialling, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := comet.Dial(dialling, flags.Arg(0), comet.Options{Network: *network, Moniker: "kith-blocks"})
	if err != nil {
		return err
	}
	defer c.Close()
	node := c.Info()
	fmt.Fprintf(out, "%s of %s, CometBFT %s\n", node.Moniker, node.Network, node.Version)

	started, txs := time.Now(), 0
	for b, err := range c.Blocks(ctx, *from) {
		if err != nil {
			return err
		}
		txs += len(b.Txs)
		fmt.Fprintf(out, "%d  %s  %s  %d transactions\n", b.Height, b.Time.Format(time.TimeOnly), b.Hash, len(b.Txs))
		if *count--; *count == 0 {
			break
		}
	}
	fmt.Fprintf(out, "%d transactions in %s\n", txs, time.Since(started).Round(time.Millisecond))
	return nil
}
