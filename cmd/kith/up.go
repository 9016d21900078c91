package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

func (a *app) upCommand() *cobra.Command {
	var listen []string
	var local, noMDNS bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the node until Ctrl-C or kith down",
		Long: `Run the node of the home. The first start makes its key, picks a free port and
keeps both. Flags go before what config.toml in the home says. Log messages go to
standard error.`,
		Example: `  kith up
  kith up --local --home /tmp/kith-a
  kith up --listen /ip4/0.0.0.0/tcp/4001 --listen /ip4/0.0.0.0/udp/4001/quic-v1
  kith up --json | head -1`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if local && len(listen) > 0 {
				return usagef("--local and --listen contradict each other; give one of them")
			}
			return a.up(cmd.Context(), func(c *daemon.Config) {
				if len(listen) > 0 {
					c.Listen, c.LocalOnly = listen, false
				}
				if local {
					c.Listen, c.LocalOnly = nil, true
				}
				if noMDNS || local {
					c.MDNS = false
				}
				if a.logLevel != "" {
					c.LogLevel, _ = daemon.ParseLogLevel(a.logLevel) // checked by prepare
				}
			})
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&listen, "listen", nil, "multiaddr to listen on for peers (repeatable; default: TCP and QUIC on all interfaces, on the port picked at the first start)")
	flags.BoolVar(&local, "local", false, "listen on 127.0.0.1 only and do not look for peers on the local network")
	flags.BoolVar(&noMDNS, "no-mdns", false, "do not look for peers on the local network")
	complete(cmd, "listen")
	return cmd
}

// up runs the node until ctx ends.
func (a *app) up(ctx context.Context, override func(*daemon.Config)) error {
	if os.Getenv("GOGC") == "" {
		// A node carries bytes and keeps little: collecting twice as often saves a
		// seventh of its memory and cost no throughput that could be measured.
		debug.SetGCPercent(50)
	}
	var printErr error
	err := daemon.Run(ctx, daemon.Options{
		Home: a.home, Override: override, Log: a.stderr, Version: version(),
		Ready: func(st *controlv1.StatusResponse) {
			if a.json {
				printErr = a.printLine(st)
				return
			}
			printErr = printUp(a.stdout, st, a.homeFlag())
		},
	})
	if errors.Is(err, kith.ErrHomeInUse) {
		return a.namePID(ctx, err)
	}
	return errors.Join(err, printErr)
}

// namePID adds the process that holds the home, which the node there knows.
func (a *app) namePID(ctx context.Context, err error) error {
	node, derr := a.dial()
	if derr != nil {
		return err
	}
	defer node.Close()
	st, serr := node.Status(ctx)
	if serr != nil || strings.Contains(err.Error(), fmt.Sprint(st.GetPid())) {
		return err
	}
	return fmt.Errorf("%w (it is process %d)", err, st.GetPid())
}

// homeFlag is what commands that are printed need so that they reach this home.
func (a *app) homeFlag() string {
	if def, err := daemon.DefaultHome(); err == nil && def == a.home {
		return ""
	}
	return " --home " + daemon.ShellQuote(a.home)
}

// printUp says who the node is, where it listens and what to do next.
func printUp(w io.Writer, st *controlv1.StatusResponse, home string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "kith is up: %s\n", st.GetPeerId())
	fmt.Fprintf(&b, "  node ID    %s\n", st.GetNodeId())
	fmt.Fprintf(&b, "  home       %s (process %d)\n", clean(st.GetHome()), st.GetPid())
	list(&b, "listening", st.GetListen())
	list(&b, "reachable", st.GetAddresses())
	if st.GetMdns() {
		b.WriteString("  mDNS       on: peers on the local network find each other\n")
	} else {
		b.WriteString("  mDNS       off\n")
	}
	list(&b, "notice", st.GetNotices())
	fmt.Fprintf(&b, `Next, in another terminal:
  kith%[1]s expose 3000 --allow PEER     let a peer use local port 3000 (its ID: %[2]skith id%[2]s there)
  kith%[1]s connect PEER/NAME 8080       use a peer's service at 127.0.0.1:8080
  kith%[1]s status                       see what the node does
  kith%[1]s down                         stop it (or Ctrl-C here)
`, home, "`")
	_, err := io.WriteString(w, b.String())
	return err
}

// list writes values under a label, which stands before the first one only.
func list(w io.Writer, label string, values []string) {
	for i, v := range values {
		if i > 0 {
			label = ""
		}
		fmt.Fprintf(w, "  %-10s %s\n", label, clean(v))
	}
}
