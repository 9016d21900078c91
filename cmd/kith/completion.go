package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kith-p2p/kith/daemon"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print the script that makes a shell complete kith's words",
		Example: `  source <(kith completion bash)
  kith completion zsh > "${fpath[1]}/_kith"
  kith completion fish > ~/.config/fish/completions/kith.fish
  kith completion powershell | Out-String | Invoke-Expression`,
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		Args:      takes(1, 1, "the name of a shell"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			return usagef("there is no completion for %q; the shells are bash, zsh, fish and powershell", args[0])
		},
	}
}

// completeTime bounds what a Tab key may wait for the node.
const completeTime = time.Second

// ask runs a question of shell completion; without a node there is no answer.
func (a *app) ask(question func(ctx context.Context, c *daemon.Client) ([]cobra.Completion, error)) ([]cobra.Completion, cobra.ShellCompDirective) {
	if a.home == "" { // completion does not run prepare
		home, err := daemon.DefaultHome()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		a.home = home
	}
	c, err := a.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), completeTime)
	defer cancel()
	words, err := question(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// completeMounts offers the names and local sockets of mounts.
func (a *app) completeMounts(_ *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.ask(func(ctx context.Context, c *daemon.Client) ([]cobra.Completion, error) {
		res, err := c.ListMounts(ctx)
		var words []cobra.Completion
		for _, m := range res.GetMounts() {
			for _, w := range []string{m.GetName(), m.GetLocal()} {
				if w != "" && strings.HasPrefix(w, word) {
					words = append(words, cobra.CompletionWithDesc(w, clean(fmt.Sprintf("%s %s", kindText(m.GetKind()), m.GetName()))))
				}
			}
		}
		return words, err
	})
}

// completeStreams offers the IDs of open connections.
func (a *app) completeStreams(_ *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.ask(func(ctx context.Context, c *daemon.Client) ([]cobra.Completion, error) {
		res, err := c.ListStreams(ctx)
		var words []cobra.Completion
		for _, s := range res.GetStreams() {
			if id := strconv.FormatUint(s.GetId(), 10); strings.HasPrefix(id, word) {
				words = append(words, cobra.CompletionWithDesc(id, clean(s.GetName()+" with "+s.GetRemotePeer())))
			}
		}
		return words, err
	})
}

// peerIDs offers the peers that the node knows, each with an ending.
func (a *app) peerIDs(word, ending string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.ask(func(ctx context.Context, c *daemon.Client) ([]cobra.Completion, error) {
		res, err := c.ListPeers(ctx)
		var words []cobra.Completion
		for _, p := range res.GetPeers() {
			if strings.HasPrefix(p.GetPeerId(), word) {
				words = append(words, cobra.CompletionWithDesc(p.GetPeerId()+ending, clean(p.GetAddress())))
			}
		}
		return words, err
	})
}

// completePeer offers peers for the first argument.
func (a *app) completePeer(_ *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.peerIDs(word, "")
}

// completeCall offers peers, and then the services of the one that was chosen.
func (a *app) completeCall(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completePeer(cmd, args, word)
	}
	return a.ask(func(ctx context.Context, c *daemon.Client) ([]cobra.Completion, error) {
		res, err := c.ListServices(ctx, &controlv1.ListServicesRequest{Peer: args[0]})
		var words []cobra.Completion
		for _, s := range res.GetServices() {
			name := s.GetName()
			if s.GetBuiltIn() {
				name = name[strings.LastIndexByte(name, '/')+1:]
			}
			if strings.HasPrefix(name, word) {
				words = append(words, clean(name))
			}
		}
		return words, err
	})
}

// completeBootstrap offers the lines of the list that can be removed.
func (a *app) completeBootstrap(_ *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.ask(func(ctx context.Context, c *daemon.Client) ([]cobra.Completion, error) {
		res, err := c.ListBootstrap(ctx)
		var words []cobra.Completion
		for _, e := range res.GetEntries() {
			if !e.GetConfigured() && strings.HasPrefix(e.GetLine(), word) {
				words = append(words, clean(e.GetLine()))
			}
		}
		return words, err
	})
}

// completeTopic offers the topics that the node has subscriptions of, for the
// first argument.
func (a *app) completeTopic(_ *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.ask(func(ctx context.Context, c *daemon.Client) ([]cobra.Completion, error) {
		res, err := c.Router(ctx)
		var words []cobra.Completion
		for _, t := range res.GetTopics() {
			if strings.HasPrefix(t.GetName(), word) {
				words = append(words, clean(t.GetName()))
			}
		}
		return words, err
	})
}

// completePeerService offers peers for PEER/NAME; the name is not known here.
func (a *app) completePeerService(_ *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault // a unix socket's path
	}
	words, directive := a.peerIDs(word, "/")
	return words, directive | cobra.ShellCompDirectiveNoSpace
}

// completePeers offers peers for a flag.
func (a *app) completePeers(cmd *cobra.Command, flag string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.peerIDs(word, "")
	})
	if err != nil {
		panic(err) // the flag is not defined: a fault of this program
	}
}
