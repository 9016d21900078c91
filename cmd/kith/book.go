package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a *app) bookCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "book",
		Short: "Show and change the address book: who is where, who is banned",
		Long: `List what the address book knows: one row an address, of all peers. It outlasts
restarts. A "tried" address worked once, a "new" one was only told.`,
		Example: `  kith book
  kith book show 12D3KooWFw4... --json
  kith book add /ip4/192.0.2.7/tcp/4001/p2p/12D3KooWFw4...
  kith book ban 12D3KooWFw4... --for 24h --reason spam
  kith book ban 192.0.2.0/24`,
		Args: unknownCommand,
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			return a.showBook(ctx, c, "")
		}),
	}
	show := &cobra.Command{
		Use: "show PEER", Short: "Show what is known of one peer",
		Example: "  kith book show 12D3KooWFw4...",
		Args:    takes(1, 1, "a PEER"),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			return a.showBook(ctx, c, args[0])
		}),
		ValidArgsFunction: a.completePeer,
	}
	add := &cobra.Command{
		Use: "add ADDRESS", Short: "Add an address that ends in its peer's ID; it is dialled at once",
		Example: "  kith book add /ip4/192.0.2.7/tcp/4001/p2p/12D3KooWFw4...\n  kith book add libp2p://12D3KooWFw4...@192.0.2.7:4001",
		Args:    takes(1, 1, "an ADDRESS"),
		RunE: a.editBook(func(args []string) (*controlv1.EditBookRequest, string, string) {
			return &controlv1.EditBookRequest{Edit: &controlv1.EditBookRequest_Add{Add: args[0]}}, "added", "known already; it is due to be dialled now"
		}),
	}
	forget := &cobra.Command{
		Use: "forget PEER", Short: "Forget the addresses of a peer",
		Example: "  kith book forget 12D3KooWFw4...",
		Args:    takes(1, 1, "a PEER"),
		RunE: a.editBook(func(args []string) (*controlv1.EditBookRequest, string, string) {
			return &controlv1.EditBookRequest{Edit: &controlv1.EditBookRequest_Forget{Forget: args[0]}}, "forgotten", ""
		}),
		ValidArgsFunction: a.completePeer,
	}
	unban := &cobra.Command{
		Use: "unban PEER|NETWORK", Short: "Lift a ban",
		Example: "  kith book unban 12D3KooWFw4...\n  kith book unban 192.0.2.0/24",
		Args:    takes(1, 1, "a PEER or a NETWORK"),
		RunE: a.editBook(func(args []string) (*controlv1.EditBookRequest, string, string) {
			return &controlv1.EditBookRequest{Edit: &controlv1.EditBookRequest_Unban{Unban: args[0]}}, "unbanned", "it was not banned"
		}),
		ValidArgsFunction: a.completePeer,
	}
	cmd.AddCommand(show, add, forget, a.banCommand(), unban)
	return cmd
}

func (a *app) banCommand() *cobra.Command {
	var span time.Duration
	var reason string
	cmd := &cobra.Command{
		Use: "ban PEER|NETWORK", Short: "Cut off a peer or a network, and refuse it from now on",
		Long: `Close the connections to a peer, or to all IPs of a network, and neither dial
nor accept them: for messages, tunnels, calls and topics alike. The ban outlasts
restarts. PEER is a peer ID of any kind (12D3KooW..., Qm...), a node ID or an
address that ends in an ID.`,
		Example: "  kith book ban 12D3KooWFw4... --for 24h --reason spam\n  kith book ban 2001:db8::/32",
		Args:    takes(1, 1, "a PEER or a NETWORK"),
		RunE: func(c *cobra.Command, args []string) error {
			ban := &controlv1.BanPeer{Peer: args[0], Reason: reason}
			if c.Flags().Changed("for") {
				if span <= 0 {
					return usagef("--for is %s; give a time such as 24h, or leave it out for a ban without end", span)
				}
				ban.Duration = durationpb.New(span)
			}
			return a.editBook(func([]string) (*controlv1.EditBookRequest, string, string) {
				return &controlv1.EditBookRequest{Edit: &controlv1.EditBookRequest_Ban{Ban: ban}}, "banned", ""
			})(c, args)
		},
		ValidArgsFunction: a.completePeer,
	}
	cmd.Flags().DurationVar(&span, "for", 0, "how long (default: until it is lifted)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people who read the book later: at most 256 bytes")
	return cmd
}

// editBook is the body of a command that changes the book; edit says what, and
// what to print when it changed something and when not.
func (a *app) editBook(edit func([]string) (*controlv1.EditBookRequest, string, string)) func(*cobra.Command, []string) error {
	return a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
		req, changed, same := edit(args)
		res, err := c.EditBook(ctx, req)
		switch {
		case err != nil:
			return err
		case a.json:
			return a.printJSON(res)
		case res.GetChanged():
			same = changed
		}
		_, err = fmt.Fprintf(a.stdout, "%s: %s\n", clean(args[0]), same)
		return err
	})
}

func (a *app) showBook(ctx context.Context, c *daemon.Client, peer string) error {
	res, err := c.ListBook(ctx, &controlv1.ListBookRequest{Peer: peer})
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(res)
	}
	return printBook(a.stdout, res)
}

// printBook prints one row an address, and one for each peer without any.
func printBook(w io.Writer, res *controlv1.ListBookResponse) error {
	t := newTable(w, "PEER", "ADDRESS", "TAUGHT BY", "TABLE", "MET", "FAILURES", "LAST WORKED", "SCORE", "STATE")
	for _, p := range res.GetPeers() {
		id := p.GetPeerId()
		if id == "" {
			id = p.GetNodeId()
		}
		state := ""
		switch {
		case p.GetBan() != nil:
			state = banText("banned", p.GetBan())
		case p.GetConnected():
			state = "connected"
		case p.GetShun() != nil:
			state = banText("left alone", p.GetShun())
		}
		score := strconv.Itoa(int(p.GetScore()))
		if len(p.GetAddresses()) == 0 {
			t.row(id, "", "", "", "", "", sinceText(p.GetLastConnected()), score, state)
		}
		for _, e := range p.GetAddresses() {
			table := "new"
			if e.GetTried() {
				table = "tried"
			}
			t.row(id, e.GetAddress(), e.GetSource(), table, yes(e.GetVerified()), strconv.Itoa(int(e.GetFailures())), sinceText(e.GetLastSuccess()), score, state)
		}
	}
	for _, b := range res.GetNetworks() {
		t.row(b.GetNetwork(), "", "", "", "", "", "", "", banText("banned", b))
	}
	return t.flush()
}

func banText(what string, b *controlv1.Ban) string {
	if b.GetUntil() != nil {
		what += " for " + untilText(b.GetUntil())
	}
	if b.GetReason() != "" {
		what += ": " + b.GetReason()
	}
	return what
}

// untilText is how long it is until t.
func untilText(t *timestamppb.Timestamp) string { return ageText(time.Until(t.AsTime())) }

// once is words without those that were given before.
func once(words []string) (each []string) {
	for _, w := range words {
		if !slices.Contains(each, w) {
			each = append(each, w)
		}
	}
	return each
}

func (a *app) bootstrapCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Show and change the list of nodes to begin with",
		Long: `List the nodes that this one begins with when it knows nobody: those of
config.toml, and those that were added here, which are kept. kith has no list of
its own: nothing is joined that was not asked for.`,
		Example: `  kith bootstrap
  kith bootstrap add /ip4/192.0.2.7/tcp/4001/p2p/12D3KooWFw4...
  kith bootstrap add /dnsaddr/nodes.example.org
  kith bootstrap rm /dnsaddr/nodes.example.org`,
		Args: unknownCommand,
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			res, err := c.ListBootstrap(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			t := newTable(a.stdout, "NODE", "FROM")
			for _, e := range res.GetEntries() {
				from := "added"
				if e.GetConfigured() {
					from = "config.toml"
				}
				t.row(e.GetLine(), from)
			}
			return t.flush()
		}),
	}
	edit := func(use, short, done string, req func([]string) *controlv1.EditBootstrapRequest) *cobra.Command {
		return &cobra.Command{
			Use: use + " ADDRESS...", Short: short,
			Example: "  kith bootstrap " + use + " /ip4/192.0.2.7/tcp/4001/p2p/12D3KooWFw4...",
			Args:    takes(1, 1000, "an ADDRESS"),
			RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
				args = once(args)
				res, err := c.EditBootstrap(ctx, req(args))
				switch {
				case err != nil:
					return err
				case a.json:
					return a.printJSON(res)
				case use == "add" && len(res.GetAdded()) < len(args):
					_, err = fmt.Fprintf(a.stdout, "%d added, %d in the list already\n", len(res.GetAdded()), len(args)-len(res.GetAdded()))
					return err
				}
				_, err = fmt.Fprintf(a.stdout, "%d %s\n", len(args), done)
				return err
			}),
		}
	}
	add := edit("add", "Add nodes, by address or /dnsaddr name", "added", func(args []string) *controlv1.EditBootstrapRequest {
		return &controlv1.EditBootstrapRequest{Add: args}
	})
	add.ValidArgsFunction = cobra.NoFileCompletions
	rm := edit("rm", "Remove nodes that were added", "removed", func(args []string) *controlv1.EditBootstrapRequest {
		return &controlv1.EditBootstrapRequest{Remove: args}
	})
	rm.ValidArgsFunction = a.completeBootstrap
	cmd.AddCommand(add, rm)
	return cmd
}
