package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show who the node is, what it carries and how it fares",
		Example: `  kith status
  kith status --watch
  kith status --json`,
		Args: takes(0, 0, ""),
		RunE: a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
			if interval < 100*time.Millisecond {
				return usagef("--interval is %s; give a time from 100ms", interval)
			}
			if watch {
				return a.watch(ctx, c, interval)
			}
			if a.json {
				st, err := c.Status(ctx)
				if err != nil {
					return err
				}
				return a.printJSON(st)
			}
			screen, err := statusScreen(ctx, c, nil)
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.stdout, screen.text)
			return err
		}),
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again until Ctrl-C")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "time between two looks with --watch")
	return cmd
}

// watch shows the status until ctx ends: in place on a terminal, else one after
// the other, with --json one line each.
func (a *app) watch(ctx context.Context, c *daemon.Client, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	rewrite := inPlace(a.stdout)
	var last *screen
	for {
		var err error
		if a.json {
			var st *controlv1.StatusResponse
			if st, err = c.Status(ctx); err == nil {
				err = a.printLine(st)
			}
		} else {
			var now *screen
			if now, err = statusScreen(ctx, c, last); err == nil {
				text := now.text
				if rewrite {
					text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
					if last == nil {
						text = "\x1b[2J" + text
					}
				} else if last != nil {
					text = "\n" + text
				}
				_, err = io.WriteString(a.stdout, text)
				last = now
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// screen is one look at a node.
type screen struct {
	at      time.Time
	in, out uint64
	text    string
}

// statusScreen asks the node and lays out the answer; with the look before it,
// it shows rates.
func statusScreen(ctx context.Context, c *daemon.Client, last *screen) (*screen, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := c.ListMounts(ctx)
	if err != nil {
		return nil, err
	}
	peers, err := c.ListPeers(ctx)
	if err != nil {
		return nil, err
	}
	now := &screen{at: time.Now(), in: st.GetCounters().GetBytesIn(), out: st.GetCounters().GetBytesOut()}
	var b strings.Builder
	printStatus(&b, st, now, last)
	if len(mounts.GetMounts()) > 0 {
		b.WriteString("\n")
		if err := printMounts(&b, mounts.GetMounts()); err != nil {
			return nil, err
		}
	}
	connected := slices.DeleteFunc(peers.GetPeers(), func(p *controlv1.Peer) bool { return !p.GetConnected() })
	if len(connected) > 0 {
		b.WriteString("\n")
		if err := printPeers(&b, connected); err != nil {
			return nil, err
		}
	}
	now.text = b.String()
	return now, nil
}

// printStatus prints the head of the screen.
func printStatus(w io.Writer, st *controlv1.StatusResponse, now, last *screen) {
	list(w, "peer ID", []string{st.GetPeerId()})
	list(w, "node ID", []string{st.GetNodeId()})
	list(w, "home", []string{st.GetHome()})
	list(w, "up", []string{fmt.Sprintf("%s (process %d, version %s)", sinceText(st.GetStarted()), st.GetPid(), st.GetVersion())})
	list(w, "listening", st.GetListen())
	list(w, "reachable", st.GetAddresses())
	mdns := "off"
	if st.GetMdns() {
		mdns = "on"
	}
	list(w, "mDNS", []string{mdns})
	list(w, "carries", []string{fmt.Sprintf("%s, %s, %s", plural(st.GetMounts(), "mount"), plural(st.GetStreams(), "stream"), plural(st.GetPeers(), "peer"))})
	counters := st.GetCounters()
	traffic := fmt.Sprintf("%s in, %s out", bytesText(now.in), bytesText(now.out))
	if last != nil && now.in >= last.in && now.out >= last.out {
		seconds := now.at.Sub(last.at).Seconds()
		traffic += fmt.Sprintf(" (now %s/s in, %s/s out)", bytesText(uint64(float64(now.in-last.in)/seconds)), bytesText(uint64(float64(now.out-last.out)/seconds)))
	}
	list(w, "traffic", []string{traffic})
	list(w, "since up", []string{fmt.Sprintf("%d connections opened, %d served", counters.GetConnectionsOpened(), counters.GetConnectionsServed())})
	var cut []string
	for _, reason := range slices.Sorted(maps.Keys(counters.GetRefused())) {
		cut = append(cut, fmt.Sprintf("%d %s", counters.GetRefused()[reason], reason))
	}
	if len(cut) > 0 {
		list(w, "cut short", []string{strings.Join(cut, ", ")})
	}
	list(w, "notice", st.GetNotices())
}
