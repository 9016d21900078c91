package main

import (
	"context"
	"io"
	"strconv"
	"strings"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

func (a *app) lsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List what is exposed and connected",
		Example: "  kith ls\n  kith ls --json",
		Args:    takes(0, 0, ""),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			res, err := c.ListMounts(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			}
			return printMounts(a.stdout, res.GetMounts())
		}),
	}
}

// printMounts prints one row a mount.
func printMounts(w io.Writer, mounts []*controlv1.Mount) error {
	t := newTable(w, "KIND", "NAME", "LOCAL", "PEER", "OPEN", "TOTAL", "REFUSED", "IN", "OUT", "AGE", "LAST ERROR")
	for _, m := range mounts {
		peer := peerOf(m)
		if m.GetKind() == controlv1.Mount_KIND_EXPOSE {
			peer = allowed(m)
		}
		open := strconv.FormatInt(m.GetConnections(), 10)
		if n := m.GetWaiting(); n > 0 {
			open += " and " + strconv.FormatInt(n, 10) + " waiting"
		}
		t.row(kindText(m.GetKind()), m.GetName(), m.GetLocal(), peer, open, strconv.FormatUint(m.GetAccepted(), 10), strconv.FormatUint(m.GetRefused(), 10),
			bytesText(m.GetBytesIn()), bytesText(m.GetBytesOut()), sinceText(m.GetSince()), oneLine(m.GetLastError()))
	}
	return t.flush()
}

// allowed says in a cell who may use a service.
func allowed(m *controlv1.Mount) string {
	switch list := m.GetAllow(); {
	case m.GetAllowAny():
		return "any"
	case len(list) == 0:
		return "nobody"
	case len(list) == 1:
		return list[0]
	default:
		return list[0] + " and " + strconv.Itoa(len(list)-1) + " more"
	}
}

// kindText is "expose" or "connect".
func kindText(k controlv1.Mount_Kind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "KIND_"))
}
