package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

func (a *app) pubCommand() *cobra.Command {
	var lines bool
	cmd := &cobra.Command{
		Use:   "pub TOPIC [DATA|-]",
		Short: "Publish a message on a topic",
		Long: `Publish DATA, or standard input for -, as one message to everybody who subscribed
to the topic, through peers that did so too. With --lines each line of standard
input is a message.

It prints how many connected peers subscribed to the topic: 0 says that nobody
is there to hear it yet.`,
		Example: "  kith pub news 'it works'\n  echo hello | kith pub news -\n  tail -f log | kith pub log --lines",
		Args:    takes(1, 2, "a TOPIC and DATA, or - for standard input"),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			if lines {
				if len(args) > 1 && args[1] != "-" {
					return usagef("--lines reads standard input; leave DATA out")
				}
				return a.pubLines(ctx, c, args[0])
			}
			if len(args) < 2 {
				return usagef("`kith pub` needs DATA, - for standard input, or --lines; see `kith pub --help`")
			}
			data, err := a.payload(args[1:])
			if err != nil {
				return err
			}
			res, err := c.Publish(ctx, &controlv1.PublishRequest{Topic: args[0], Data: data})
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			_, err = fmt.Fprintf(a.stdout, "published; %s subscribed\n", plural(res.GetPeers(), "connected peer"))
			return err
		}),
	}
	cmd.Flags().BoolVar(&lines, "lines", false, "publish each line of standard input")
	cmd.ValidArgsFunction = a.completeTopic
	return cmd
}

func (a *app) pubLines(ctx context.Context, c *daemon.Client, topic string) error {
	in := bufio.NewScanner(a.stdin)
	in.Buffer(nil, maxInput)
	sent := int64(0)
	for ctx.Err() == nil && in.Scan() {
		if _, err := c.Publish(ctx, &controlv1.PublishRequest{Topic: topic, Data: in.Bytes()}); err != nil {
			return fmt.Errorf("after %s: %w", plural(sent, "message"), err)
		}
		sent++
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("cannot read standard input after %s: %w", plural(sent, "message"), err)
	}
	_, err := fmt.Fprintf(a.stderr, "published %s\n", plural(sent, "message"))
	return err
}

func (a *app) subCommand() *cobra.Command {
	var count int
	var raw bool
	cmd := &cobra.Command{
		Use:   "sub TOPIC",
		Short: "Print the messages of a topic as they come",
		Long: `Subscribe to a topic and print each message with who wrote it, until Ctrl-C or
--count. With --raw only the data is printed, each message on a line of its own;
with --json each message is one line of JSON, its data in base64.`,
		Example: "  kith sub news\n  kith sub news --count 1 --raw >message\n  kith sub news --json | jq -r '.message.data|@base64d'",
		Args:    takes(1, 1, "a TOPIC"),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			if count < 0 {
				return usagef("--count is %d; give how many messages, or 0 for no end", count)
			}
			return a.sub(ctx, c, args[0], count, raw)
		}),
	}
	cmd.Flags().IntVarP(&count, "count", "c", 0, "messages to print (0: until Ctrl-C)")
	cmd.Flags().BoolVar(&raw, "raw", false, "print the data alone")
	cmd.ValidArgsFunction = a.completeTopic
	return cmd
}

func (a *app) sub(ctx context.Context, c *daemon.Client, topic string, count int, raw bool) error {
	got, lost := 0, uint64(0)
	for res, err := range c.Subscribe(ctx, topic) {
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		m := res.GetMessage()
		if m == nil {
			fmt.Fprintf(a.stderr, "subscribed to %s\n", clean(topic))
			continue
		}
		if res.GetLost() > lost {
			lost = res.GetLost()
			fmt.Fprintf(a.stderr, "%d messages were lost so far: this terminal does not keep up\n", lost)
		}
		switch {
		case a.json:
			err = a.printLine(res)
		case raw:
			_, err = fmt.Fprintf(a.stdout, "%s\n", m.GetData())
		default:
			_, err = fmt.Fprintf(a.stdout, "%s  %s\n", clean(m.GetAuthor()), clean(string(m.GetData())))
		}
		if err != nil {
			return err
		}
		if got++; count > 0 && got >= count {
			return nil
		}
	}
	return nil
}
