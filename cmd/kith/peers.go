package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

func (a *app) peersCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "peers",
		Short:   "List the peers that are connected or known",
		Example: "  kith peers\n  kith peers --json",
		Args:    takes(0, 0, ""),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			res, err := c.ListPeers(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			return printPeers(a.stdout, res.GetPeers())
		}),
	}
}

// printPeers prints one row a peer.
func printPeers(w io.Writer, peers []*controlv1.Peer) error {
	t := newTable(w, "PEER", "STATE", "DIRECTION", "ADDRESS", "RTT", "STREAMS", "AGE", "FOUND BY", "AGENT")
	for _, p := range peers {
		state, addr := "known", ""
		if p.GetConnected() {
			state = "direct"
			if p.GetRelayed() {
				state = "relayed"
			}
			addr = p.GetAddress()
		} else if known := p.GetKnownAddresses(); len(known) > 0 {
			addr = known[0]
		}
		rtt := ""
		if p.GetRtt() != nil {
			rtt = millis(p.GetRtt().AsDuration())
		}
		t.row(p.GetPeerId(), state, p.GetDirection(), addr, rtt, strconv.FormatInt(p.GetStreams(), 10), sinceText(p.GetSince()),
			p.GetSource(), p.GetAgent())
	}
	return t.flush()
}

func (a *app) dialCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "dial ADDRESS",
		Short: "Connect to a peer and remember its address",
		Long: `Connect to the peer at an address that ends in /p2p/<peer ID>, or, if its address
is known, of that peer ID. The address is remembered while the node runs; that of
a peer that exchanges messages with this node goes into the address book. Of what
a /dnsaddr name alone stands for, only the address that answered does.`,
		Example: "  kith dial /ip4/192.168.1.7/tcp/4001/p2p/12D3KooWFw4...\n  kith dial 12D3KooWFw4... --timeout 5s",
		Args:    takes(1, 1, "an ADDRESS"),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, args []string) error {
			if timeout <= 0 {
				return usagef("--timeout is %s; give a time such as 30s", timeout)
			}
			stop := a.working("dialling %s", args[0])
			res, err := c.DialPeer(ctx, &controlv1.DialPeerRequest{Peer: args[0], Timeout: durationpb.New(timeout)})
			stop()
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			p := res.GetPeer()
			_, err = fmt.Fprintf(a.stdout, "connected to %s at %s\n", p.GetPeerId(), clean(via(p.GetAddress(), p.GetRelayed())))
			return err
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to try")
	cmd.ValidArgsFunction = a.completePeer
	return cmd
}
