package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kith-p2p/kith/comet"
	"github.com/spf13/cobra"
)

// cometFlags are those of every `kith comet` command.
type cometFlags struct {
	network string
	timeout time.Duration
}

func (a *app) cometCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "comet",
		Short: "Speak with a CometBFT node over its own wire",
		Long: `Connect to a CometBFT (or Tendermint) node as one of its peers would: no node of
kith's has to run, and the key is made for this one connection.

ADDRESS is ID@host:port, as in persistent_peers. With host:port alone, whoever
answers is believed to be the node.`,
		Example: "  kith comet status 127.0.0.1:26656\n  kith comet blocks ID@127.0.0.1:26656 --from 1 -n 10\n  kith comet tx ID@127.0.0.1:26656 name=satoshi",
		Args:    unknownCommand,
		RunE:    showHelp,
	}
	cmd.AddCommand(a.cometStatusCommand(), a.cometBlocksCommand(), a.cometTxCommand())
	return cmd
}

func (f *cometFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.network, "network", "", "the network (chain ID) that the node has to be in (default: whichever it is)")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to wait for the node")
}

// withComet connects, within the timeout, and runs do.
func (a *app) withComet(ctx context.Context, f *cometFlags, at string, do func(*comet.Client) error) error {
	if f.timeout <= 0 {
		return usagef("--timeout is %v; give a time above 0", f.timeout)
	}
	stop := a.working("connecting to %s", at)
	defer stop()
	within, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	c, err := comet.Dial(within, at, comet.Options{Network: f.network, Logger: a.log})
	stop()
	if errors.Is(err, comet.ErrAddress) {
		return usagef("%v", err)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// printValue prints one value as a line of JSON.
func (a *app) printValue(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot print the answer as JSON: %w", err)
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", line)
	return err
}

func (a *app) cometStatusCommand() *cobra.Command {
	var f cometFlags
	cmd := &cobra.Command{
		Use:     "status ADDRESS",
		Short:   "Who a CometBFT node is and how high its chain is",
		Example: "  kith comet status 127.0.0.1:26656\n  kith comet status ID@127.0.0.1:26656 --json",
		Args:    takes(1, 1, "an ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withComet(cmd.Context(), &f, args[0], func(c *comet.Client) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
				defer cancel()
				s, err := c.Status(ctx)
				if err != nil {
					return err
				}
				info := c.Info()
				channels := make([]string, len(info.Channels))
				for i, id := range info.Channels {
					channels[i] = fmt.Sprintf("0x%02x", uint16(id))
				}
				if a.json {
					return a.printValue(map[string]any{
						"id": info.NodeID, "moniker": info.Moniker, "network": info.Network, "version": info.Version, "listen": info.ListenAddr,
						"channels": channels, "height": s.Height, "base": s.Base,
					})
				}
				t := newTable(a.stdout)
				t.row("ID", string(info.NodeID))
				t.row("MONIKER", clean(info.Moniker))
				t.row("NETWORK", clean(info.Network))
				t.row("VERSION", clean(info.Version))
				t.row("LISTENS", clean(info.ListenAddr))
				t.row("CHANNELS", fmt.Sprint(channels))
				t.row("HEIGHT", fmt.Sprintf("%d (from %d on)", s.Height, s.Base))
				return t.flush()
			})
		},
	}
	f.add(cmd)
	return cmd
}

func (a *app) cometBlocksCommand() *cobra.Command {
	var f cometFlags
	var from int64
	var count int
	cmd := &cobra.Command{
		Use:   "blocks ADDRESS",
		Short: "Print the blocks of a CometBFT node, and new ones as they come",
		Long: `Fetch blocks, from the newest or from --from on, and go on with new ones until
Ctrl-C or --count. Each is checked against its own header and against the block
before it, not against the validators' signatures.`,
		Example: "  kith comet blocks ID@127.0.0.1:26656\n  kith comet blocks ID@127.0.0.1:26656 --from 1 -n 10 --json",
		Args:    takes(1, 1, "an ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 || from < 0 {
				return usagef("--count and --from cannot be negative")
			}
			return a.withComet(cmd.Context(), &f, args[0], func(c *comet.Client) error {
				n := 0
				for b, err := range c.Blocks(cmd.Context(), from) {
					if err != nil {
						if cmd.Context().Err() != nil { // Ctrl-C
							return nil
						}
						return err
					}
					if err := a.printBlock(b); err != nil {
						return err
					}
					if n++; n == count {
						break
					}
				}
				return nil
			})
		},
	}
	f.add(cmd)
	cmd.Flags().Int64Var(&from, "from", 0, "first height (0: the newest)")
	cmd.Flags().IntVarP(&count, "count", "n", 0, "how many blocks (0: until Ctrl-C)")
	return cmd
}

func (a *app) printBlock(b comet.Block) error {
	if a.json {
		txs := make([]string, len(b.Txs))
		for i, tx := range b.Txs {
			txs[i] = base64.StdEncoding.EncodeToString(tx)
		}
		return a.printValue(map[string]any{
			"height": b.Height, "time": b.Time, "network": b.Network, "hash": b.Hash, "previous": b.Previous, "appHash": b.AppHash,
			"proposer": b.Proposer, "txs": txs,
		})
	}
	_, err := fmt.Fprintf(a.stdout, "%d  %s  %s  %s\n", b.Height, b.Time.UTC().Format(time.RFC3339), b.Hash, plural(int64(len(b.Txs)), "transaction"))
	return err
}

func (a *app) cometTxCommand() *cobra.Command {
	var f cometFlags
	var encoded bool
	cmd := &cobra.Command{
		Use:   "tx ADDRESS TX|-",
		Short: "Send a transaction to the mempool of a CometBFT node",
		Long: `Send the bytes of TX, or of standard input, to the node's mempool. The mempool
gives no answer: whether the transaction was taken, the blocks show.`,
		Example: "  kith comet tx ID@127.0.0.1:26656 name=satoshi\n  head -c 32 /dev/urandom | kith comet tx ID@127.0.0.1:26656 -",
		Args:    takes(2, 2, "an ADDRESS and a TX"),
		RunE: func(cmd *cobra.Command, args []string) error {
			tx := []byte(args[1])
			var err error
			if args[1] == "-" {
				if tx, err = io.ReadAll(io.LimitReader(a.stdin, comet.MaxTx+1)); err != nil {
					return fmt.Errorf("cannot read the transaction from standard input: %w", err)
				}
			}
			if encoded {
				if tx, err = base64.StdEncoding.DecodeString(string(tx)); err != nil {
					return usagef("TX is not base64: %v", err)
				}
			}
			if len(tx) == 0 || len(tx) > comet.MaxTx {
				return usagef("TX has %d bytes; give 1 to %d", len(tx), comet.MaxTx)
			}
			return a.withComet(cmd.Context(), &f, args[0], func(c *comet.Client) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
				defer cancel()
				if err := c.SubmitTx(ctx, tx); err != nil {
					return err
				}
				if a.json {
					return a.printValue(map[string]any{"bytes": len(tx), "network": c.Info().Network})
				}
				_, err := fmt.Fprintf(a.stdout, "sent %s to the mempool of %s\n", plural(int64(len(tx)), "byte"), clean(c.Info().Network))
				return err
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&encoded, "base64", false, "TX is base64")
	return cmd
}
