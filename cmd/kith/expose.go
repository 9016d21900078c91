package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

// exposeFlags are the flags of expose that are no field of the request.
type exposeFlags struct {
	bandwidth     string
	idle, connect time.Duration
	foreground    bool
}

func (a *app) exposeCommand() *cobra.Command {
	req := &controlv1.ExposeRequest{Limits: &controlv1.Limits{}}
	var f exposeFlags
	cmd := &cobra.Command{
		Use:   "expose TARGET",
		Short: "Let chosen peers use a local service",
		Long: `Bind a service name to a local socket. TARGET is a port (3000), tcp:HOST:PORT,
unix:/PATH or a multiaddr (/ip4/127.0.0.1/tcp/3000). Nobody may use the service
but the peers named with --allow (or everybody, with --allow-any). Prints the
command to run on the other machine. The service is kept until kith close or the
node's end or, with --foreground, until this command's.`,
		Example: `  kith expose 3000 --allow 12D3KooWFw4...
  kith expose tcp:192.168.1.20:5432 --name db --allow 12D3KooWFw4... --allow 12D3KooWQ9v...
  kith expose unix:/run/app.sock --allow-any --max-connections 100 --bandwidth 10MiB
  kith expose 8080 --name /x/web --allow 12D3KooWFw4...      kubo can use it too`,
		Args: takes(1, 1, "a TARGET such as 3000"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.fill(cmd, req, args[0]); err != nil {
				return err
			}
			if len(req.GetAllow()) == 0 && !req.GetAllowAny() {
				return a.defaultDeny()
			}
			return a.withNode(func(ctx context.Context, c *daemon.Client, _ []string) error {
				return a.expose(ctx, c, req, f.foreground)
			})(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Name, "name", "", "service name (default: the port, or the file name of the socket)")
	flags.StringArrayVar(&req.Allow, "allow", nil, "peer that may use the service: a peer ID or address (repeatable)")
	flags.BoolVar(&req.AllowAny, "allow-any", false, "let every peer use the service")
	flags.BoolVarP(&req.ReportPeerId, "report-peer-id", "r", false, "send \"<peer id>\\n\" to the target before the peer's bytes")
	flags.Int32Var(&req.ProxyProtocol, "proxy-protocol", 0, "send a PROXY protocol header of version 1 or 2 to the target first")
	flags.BoolVar(&req.Http, "http", false, "the target speaks HTTP: requests get an X-Kith-Peer header, failures a 502 page")
	flags.BoolVar(&req.AllowCustomProtocol, "allow-custom-protocol", false, "permit a name that begins with / but not with /x/")
	flags.Int64Var(&req.Limits.MaxConnections, "max-connections", 0, "connections at once (default 4096)")
	flags.Float64Var(&req.Limits.ConnectionRate, "rate", 0, "new connections a second (default: no limit)")
	flags.StringVar(&f.bandwidth, "bandwidth", "", "bytes a second in each direction for all connections together, such as 10MiB (default: no limit)")
	flags.DurationVar(&f.idle, "idle-timeout", 0, "reset a connection without traffic for this long (default: never)")
	flags.DurationVar(&f.connect, "connect-timeout", 0, "how long the target may take to accept (default 10s)")
	flags.BoolVarP(&f.foreground, "foreground", "f", false, "keep the service until Ctrl-C only")
	complete(cmd, "proxy-protocol", "1", "2")
	a.completePeers(cmd, "allow")
	return cmd
}

// fill completes and checks the request.
func (f *exposeFlags) fill(cmd *cobra.Command, req *controlv1.ExposeRequest, target string) error {
	var err error
	if req.Target, err = absolute(target); err != nil {
		return err
	}
	if f.bandwidth != "" {
		if req.Limits.Bandwidth, err = parseBytes(f.bandwidth); err != nil {
			return usagef("--bandwidth: %v; see `kith expose --help`", err)
		}
	}
	switch flags := cmd.Flags(); {
	case flags.Changed("proxy-protocol") && req.GetProxyProtocol() != 1 && req.GetProxyProtocol() != 2:
		return usagef("--proxy-protocol is %d, but there are only versions 1 and 2; give one of them", req.GetProxyProtocol())
	case flags.Changed("max-connections") && req.Limits.GetMaxConnections() < 1:
		return usagef("--max-connections is %d; give a number from 1", req.Limits.GetMaxConnections())
	case flags.Changed("rate") && !(req.Limits.GetConnectionRate() > 0):
		return usagef("--rate is %v; give a number above 0", req.Limits.GetConnectionRate())
	case flags.Changed("idle-timeout") && f.idle <= 0:
		return usagef("--idle-timeout is %s; give a time such as 5m", f.idle)
	case flags.Changed("connect-timeout") && f.connect <= 0:
		return usagef("--connect-timeout is %s; give a time such as 5s", f.connect)
	case len(req.GetAllow()) > 0 && req.GetAllowAny():
		return usagef("--allow and --allow-any contradict each other; give one of them")
	}
	if f.idle > 0 {
		req.Limits.IdleTimeout = durationpb.New(f.idle)
	}
	if f.connect > 0 {
		req.Limits.ConnectTimeout = durationpb.New(f.connect)
	}
	return nil
}

// defaultDeny refuses a service that nobody could use, with the command to run: the
// one that was given, and more.
func (a *app) defaultDeny() error {
	words := "kith"
	for _, arg := range a.args {
		words += " " + daemon.ShellQuote(arg)
	}
	return usagef("nobody could use this service, because a service is closed to every peer that is not named; "+
		"run `%s --allow PEER`, where PEER is what `kith id` prints on the other machine (or --allow-any for everybody)", words)
}

// expose asks for the service and says how to reach it.
func (a *app) expose(ctx context.Context, c *daemon.Client, req *controlv1.ExposeRequest, foreground bool) error {
	res, err := c.Expose(ctx, req)
	if err != nil {
		return err
	}
	say := func() error {
		if a.json {
			if foreground {
				return a.printLine(res)
			}
			return a.printJSON(res)
		}
		return printExposed(a.stdout, res)
	}
	if foreground {
		return a.hold(ctx, c, res.GetMount(), say)
	}
	return say()
}

// printExposed says what is served to whom, and the commands for the others.
func printExposed(w io.Writer, res *controlv1.ExposeResponse) error {
	var b strings.Builder
	m := res.GetMount()
	who := strings.Join(m.GetAllow(), ", ")
	if m.GetAllowAny() {
		who = "every peer"
	}
	fmt.Fprintf(&b, "%s is served from %s to %s\n", clean(m.GetName()), clean(m.GetLocal()), clean(who))
	byReach := make(map[daemon.Reach][]string)
	for _, command := range res.GetConnectCommands() {
		words := strings.Fields(command)
		reach := daemon.ReachOf(strings.Trim(words[len(words)-1], "'"))
		byReach[reach] = append(byReach[reach], command)
	}
	if len(byReach) == 0 {
		b.WriteString("No address of this node is known to others yet; see `kith status`\n")
	}
	for reach := daemon.ReachAnywhere; reach <= daemon.ReachMachine; reach++ {
		if len(byReach[reach]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "To use it from %s:\n", reach)
		for _, command := range byReach[reach] {
			fmt.Fprintf(&b, "  %s\n", clean(command))
		}
		if reach == daemon.ReachMachine {
			b.WriteString("(with the --home of the node that is to use it, if that is not the default one)\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
