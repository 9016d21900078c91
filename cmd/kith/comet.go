package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kith-p2p/kith"
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
	o := comet.Options{Network: f.network, Wait: f.timeout}
	if a.logLevel != "" { // what matters comes as an error anyway
		o.Logger = a.log
	}
	c, err := comet.Dial(within, at, o)
	stop()
	if err != nil {
		return cometFault(err)
	}
	defer c.Close()
	return cometFault(do(c))
}

// cometError is an error about a CometBFT node in the words of this program.
type cometError struct {
	text string
	err  error
}

func (e *cometError) Error() string { return e.text }
func (e *cometError) Unwrap() error { return e.err }

// cometFault says what to do next about an error of package comet.
func cometFault(err error) error {
	if err == nil || errors.Is(err, kith.ErrUsage) || errors.Is(err, context.Canceled) {
		return err
	}
	text := strings.TrimPrefix(err.Error(), "comet: ")
	switch {
	case errors.Is(err, comet.ErrAddress):
		return usagef("%s", text)
	case errors.Is(err, comet.ErrWrongPeer):
		text += "; check the ID, or leave it out to believe whoever answers"
	case errors.Is(err, comet.ErrNetwork):
		text += "; check --network, or leave it out"
	case errors.Is(err, comet.ErrNoBlock):
		text += "; `kith comet status` says which blocks it has"
	case errors.Is(err, comet.ErrInvalid):
		text += "; do not believe this node, ask another one"
	case errors.Is(err, comet.ErrNotNode):
		text += "; check that the node runs and that the port is that of p2p.laddr (26656 by default), not of its RPC"
	case errors.Is(err, context.DeadlineExceeded):
		text += "; --timeout gives it longer"
	}
	return &cometError{text, err}
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
				t := newTable(a.stdout, "ID", string(info.NodeID))
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
before it, not against the validators' signatures. A node that does not answer
for --timeout ends it.`,
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
				most := int64(comet.MaxTx + 1)
				if encoded {
					most *= 2 // base64 takes 4 characters for 3 bytes, and ends of lines
				}
				if tx, err = io.ReadAll(io.LimitReader(a.stdin, most)); err != nil {
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
