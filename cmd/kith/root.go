package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kith-p2p/kith/daemon"
	"github.com/spf13/cobra"
)

// app is one run of the program. Its fields are set before the command runs and
// do not change while it does.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	args           []string // of the command line

	// The global flags.
	home     string
	json     bool
	logLevel string

	log *slog.Logger

	errorPrefix string // of an error's line
	helpError   error  // --help was asked for a command that does not exist
}

// run parses and runs one command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	a.args = args
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	// A line that does not parse must still be answered in the form asked for.
	a.json = slices.Contains(args, "--json")
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = a.helpError
	}
	if cmd != nil && strings.HasPrefix(cmd.CommandPath(), "kith p2p") {
		a.errorPrefix = "Error: " // scripts made for ipfs p2p look for it
	}
	return a.report(ctx, err)
}

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kith",
		Short: "Reach the services of peers by who they are",
		Long: `kith runs a peer-to-peer node and forwards ports over it: bind a local service
to a name for chosen peers, and bind a peer's service to a local port. Peers are
addressed by who they are; traffic is encrypted and authenticated by their keys.`,
		Example: `  kith try                           see it work on this machine
  kith up                            run the node
  kith expose 3000 --allow PEER      serve local port 3000 to one peer
  kith connect PEER/3000 8080        use a peer's service at 127.0.0.1:8080`,
		Args:              unknownCommand,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: a.prepare,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	// cobra answers --help before it looks at the words: `kith nosuch --help`
	// would print the help of kith.
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
			a.helpError = unknownCommand(cmd, words)
			return
		}
		help(cmd, args)
	})
	// Not cobra's own: its template calls methods by name, for which the linker
	// keeps every exported method of the program, a sixth of it.
	printVersion := root.Flags().BoolP("version", "v", false, "version for kith")
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if *printVersion {
			_, err := fmt.Fprintf(a.stdout, "kith %s\n", version())
			return err
		}
		return showHelp(cmd, args)
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; see `%s --help`", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.home, "home", "", "directory of the node's key, state and control socket (default $KITH_HOME or ~/.kith)")
	flags.BoolVar(&a.json, "json", false, "print the control API's own response as JSON")
	flags.StringVar(&a.logLevel, "log-level", "", "least important messages to log: debug, info, warn or error (default: the node's configuration, else warn)")
	complete(root, "log-level", "debug", "info", "warn", "error")
	if err := root.MarkPersistentFlagDirname("home"); err != nil {
		panic(err) // the flag is defined three lines up
	}

	root.AddCommand(
		a.upCommand(), a.tryCommand(), a.idCommand(), a.exposeCommand(), a.connectCommand(), a.lsCommand(),
		a.streamsCommand(), a.closeCommand(), a.p2pCommand(), a.peersCommand(), a.dialCommand(), a.pingCommand(),
		a.statusCommand(), a.findCommand(), a.bookCommand(), a.bootstrapCommand(), a.routerCommand(), a.callCommand(), a.servicesCommand(),
		a.pubCommand(), a.subCommand(), a.cometCommand(), a.downCommand(), a.completionCommand(), a.versionCommand(),
	)
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Short, help.Long = "Say what a command does and how it is used", "Say what a command does and how it is used, as --help behind it does."
		help.Example = "  kith help expose\n  kith help book ban"
		help.RunE, help.Run = func(c *cobra.Command, args []string) error {
			topic, rest, err := root.Find(args)
			if topic == nil || err != nil || len(rest) > 0 {
				return usagef("there is no help on %q; see `kith help`", strings.Join(args, " "))
			}
			return topic.Help()
		}, nil
	}
	return root
}

// prepare reads the global flags.
func (a *app) prepare(cmd *cobra.Command, _ []string) error {
	level := slog.LevelWarn
	if a.logLevel != "" {
		var err error
		if level, err = daemon.ParseLogLevel(a.logLevel); err != nil {
			return usagef("--log-level: %v; see `kith --help`", err)
		}
	}
	a.log = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	var err error
	if a.home == "" {
		a.home, err = daemon.DefaultHome()
	} else {
		a.home, err = filepath.Abs(a.home)
	}
	if err != nil {
		return err
	}
	a.log.Debug("running", "command", cmd.CommandPath(), "home", a.home)
	return nil
}

// dial returns a client of the node in the home.
func (a *app) dial() (*daemon.Client, error) { return daemon.Dial(a.home) }

// withNode is the body of a command that talks to the node.
func (a *app) withNode(do func(ctx context.Context, node *daemon.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		node, err := a.dial()
		if err != nil {
			return err
		}
		defer node.Close()
		return do(cmd.Context(), node, args)
	}
}

// showHelp is the body of a command that only has subcommands.
func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// unknownCommand refuses words after a command that only has subcommands.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(", did you mean `%s %s`", cmd.CommandPath(), near[0])
	}
	return usagef("%s has no command %q%s; see `%s --help`", cmd.CommandPath(), args[0], hint, cmd.CommandPath())
}

// takes checks the number of arguments; what names them, as in "PEER/NAME [LOCAL]".
func takes(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("`%s` needs %s; see `%s --help`", cmd.CommandPath(), what, cmd.CommandPath())
		case len(args) <= most:
			return nil
		case most == 0:
			return usagef("`%s` takes no arguments, but %q was given; see `%s --help`", cmd.CommandPath(), strings.Join(args, " "), cmd.CommandPath())
		}
		return usagef("`%s` takes %s and no more, but %q was given too; see `%s --help`", cmd.CommandPath(), what,
			strings.Join(args[most:], " "), cmd.CommandPath())
	}
}

// complete gives a flag's values to shell completion.
func complete(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is not defined: a fault of this program
	}
}
