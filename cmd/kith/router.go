package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

func (a *app) routerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "router",
		Short: "Show the message router: peers, channels, queues, drops",
		Long: `Show what carries messages between peers: the peers that are up, with what waits
for each and what was dropped and why; the channels; the topics; and the sources
that addresses come from.`,
		Example: "  kith router\n  kith router --json",
		Args:    takes(0, 0, ""),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			res, err := c.Router(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			return printRouter(a.stdout, res)
		}),
	}
}

func printRouter(w io.Writer, res *controlv1.RouterResponse) error {
	num := func(n uint64) string { return strconv.FormatUint(n, 10) }
	fmt.Fprintf(w, "network %s, as %s; %d inbound, %d outbound, %d being dialled; refused: %s\n\n", clean(res.GetNetwork()), clean(res.GetMoniker()),
		res.GetInbound(), res.GetOutbound(), res.GetDialling(), counts(res.GetRefused()))
	t := newTable(w, "PEER", "NAME", "DIRECTION", "ENDPOINT", "AGE", "SCORE", "SENT", "RECEIVED", "QUEUED", "DROPPED")
	for _, p := range res.GetPeers() {
		t.row(p.GetNodeId(), p.GetMoniker(), p.GetDirection(), p.GetEndpoint(), sinceText(p.GetSince()), strconv.Itoa(int(p.GetScore())),
			num(p.GetSent())+" / "+bytesText(p.GetSentBytes()), num(p.GetReceived())+" / "+bytesText(p.GetReceivedBytes()),
			fmt.Sprintf("%d / %s", p.GetQueued(), bytesText(uint64(p.GetQueuedBytes()))), counts(p.GetDropped()))
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "CHANNEL", "NAME", "SENT", "RECEIVED", "QUEUED", "UNREAD", "DROPPED", "DROPPED HERE")
	for _, c := range res.GetChannels() {
		t.row(fmt.Sprintf("0x%02x", c.GetId()), c.GetName(), num(c.GetWritten()), num(c.GetReceived()), strconv.FormatInt(c.GetQueued(), 10),
			strconv.FormatInt(c.GetUnread(), 10), counts(c.GetDropped()), counts(c.GetDroppedReceived()))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(res.GetTopics()) > 0 {
		fmt.Fprintln(w)
		t = newTable(w, "TOPIC", "PEERS", "RECEIVED", "DUPLICATES", "DROPPED")
		for _, c := range res.GetTopics() {
			t.row(c.GetName(), strconv.FormatInt(c.GetPeers(), 10), num(c.GetReceived())+" / "+bytesText(c.GetBytes()), num(c.GetDuplicates()), num(c.GetDropped()))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	t = newTable(w, "ADDRESSES FROM", "STATE", "OFFERED", "NEW", "KNOWN", "REFUSED", "DIALLED", "FAILED", "LAST ERROR")
	for _, s := range res.GetSources() {
		t.row(s.GetName(), s.GetState(), num(s.GetOffered()), num(s.GetAdded()), num(s.GetKnown()), counts(s.GetRefused()),
			num(s.GetDials()), num(s.GetFailedDials()), oneLine(s.GetLastError()))
	}
	return t.flush()
}

// counts is "full=3 cut=1", or "none".
func counts(m map[string]uint64) string {
	if len(m) == 0 {
		return "none"
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s=%d", k, m[k]))
	}
	return strings.Join(out, " ")
}
