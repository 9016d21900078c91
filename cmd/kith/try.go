package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/spf13/cobra"
)

const (
	// tryConnections is how many new connections are timed.
	tryConnections = 300
	// tryStep bounds one step, so that a tunnel that hangs is an error; the
	// bulk steps get one second more a MiB.
	tryStep = time.Minute
	// somebodyElse is a peer that is not there.
	somebodyElse = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
)

func (a *app) tryCommand() *cobra.Command {
	var keep bool
	size := "256MiB"
	cmd := &cobra.Command{
		Use:   "try",
		Short: "See it work: two nodes on this machine, checked and measured",
		Long: `Start two complete nodes with homes of their own on 127.0.0.1, serve a web site
on one, expose it, forward it on the other, and use it: every byte is checked,
latency and throughput are measured, and what is meant for another peer is
refused. Needs nothing prepared, touches neither ~/.kith nor the network, and
cleans up after itself.`,
		Example: "  kith try\n  kith try --keep\n  kith try --size 1GiB --json",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := parseBytes(size)
			if err != nil {
				return usagef("--size: %v; see `kith try --help`", err)
			}
			return a.try(cmd.Context(), n, keep)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave it running until Ctrl-C and print the URL to open")
	cmd.Flags().StringVar(&size, "size", size, "bytes to send each way")
	return cmd
}

// trial is one run of kith try. It is used by one goroutine.
type trial struct {
	size  int64
	steps *steps

	dir                  string
	server, client       *tryNode
	site                 *site
	bulk                 *bulkService
	siteLocal, bulkLocal string // where the client's node forwards them
	private              string // the service that is for somebody else
	url                  string
}

// try runs the trial, prints its table and, with keep, waits for ctx.
func (a *app) try(ctx context.Context, size int64, keep bool) (err error) {
	t := &trial{size: size, steps: newSteps(a)}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := t.run(ctx); err != nil {
		t.steps.abandon()
		if ctx.Err() != nil {
			return errInterrupted
		}
		return err
	}
	if err := t.steps.print(t.url, keep); err != nil || !keep {
		return err
	}
	<-ctx.Done()
	return nil
}

// run does the steps in order and stops at the first that fails.
func (t *trial) run(ctx context.Context) error {
	bulkTime := tryStep + time.Duration(t.size>>20)*time.Second
	for _, step := range []struct {
		name  string
		limit time.Duration
		do    func(context.Context) (string, error)
	}{
		{"start two nodes", tryStep, t.start},
		{"expose a web site on one, forward it on another", tryStep, t.tunnel},
		{"fetch the site, compare SHA-256", tryStep, t.fetch},
		{fmt.Sprintf("%d new connections, one request each", tryConnections), tryStep, t.latency},
		{"send " + bytesText(uint64(t.size)), bulkTime, t.send},
		{"receive " + bytesText(uint64(t.size)), bulkTime, t.receive},
		{"shut one direction, read 1.0 MiB after it", tryStep, t.halfClose},
		{"ask for what is for another peer only", tryStep, t.refused},
	} {
		limited, cancel := context.WithTimeout(ctx, step.limit)
		t.steps.begin(step.name)
		detail, err := step.do(limited)
		if errors.Is(limited.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("no end after %s", step.limit)
		}
		cancel()
		t.steps.end(detail, err)
		if err != nil {
			return fmt.Errorf("the step %q failed: %w; run `kith try --log-level debug` and report it", step.name, err)
		}
	}
	return nil
}

// tryNode is a running node.
type tryNode struct {
	*kith.Node
	ran chan error
}

// startNode runs a node on 127.0.0.1 with a home of its own.
func (t *trial) startNode(name string) (*tryNode, error) {
	n, err := kith.New(kith.Config{
		Home: filepath.Join(t.dir, name), LocalOnly: true, NoMDNS: true, Version: version(),
		Logger: t.steps.app.log.With("node", name),
	})
	if err != nil {
		return nil, err
	}
	node := &tryNode{Node: n, ran: make(chan error, 1)}
	go func() { node.ran <- n.Run(context.Background()) }() // close ends it
	return node, nil
}

// close ends the node and waits for it.
func (n *tryNode) close() error {
	if n == nil {
		return nil
	}
	return errors.Join(n.Close(), <-n.ran)
}

func (t *trial) start(context.Context) (string, error) {
	var err error
	if t.dir, err = os.MkdirTemp("", "kith-try-"); err != nil {
		return "", err
	}
	if t.server, err = t.startNode("server"); err != nil {
		return "", err
	}
	if t.client, err = t.startNode("client"); err != nil {
		return "", err
	}
	return "each with its own key and home", nil
}

// tunnel serves the site and the bulk service beside the server's node, exposes
// both to the client's node only, and forwards both there. It exposes the site once
// more, to a peer that is not the client.
func (t *trial) tunnel(ctx context.Context) (string, error) {
	var err error
	if t.site, err = serveSite(); err != nil {
		return "", err
	}
	if t.bulk, err = serveBulk(); err != nil {
		return "", err
	}
	for _, s := range []struct {
		name, target string
		local        *string
	}{{"site", t.site.addr(), &t.siteLocal}, {"bulk", t.bulk.addr(), &t.bulkLocal}} {
		if _, err := t.server.Expose(ctx, kith.Expose{Target: s.target, Name: s.name, Allow: []string{t.client.ID().String()}}); err != nil {
			return "", err
		}
		m, err := t.client.Forward(ctx, kith.Forward{Peer: t.server.Addrs()[0], Name: s.name})
		if err != nil {
			return "", err
		}
		if m.Warning != "" {
			return "", errors.New(m.Warning)
		}
		*s.local = m.Local
	}
	t.private = "private"
	if _, err := t.server.Expose(ctx, kith.Expose{Target: t.site.addr(), Name: t.private, Allow: []string{somebodyElse}}); err != nil {
		return "", err
	}
	t.url = "http://" + t.siteLocal + "/"
	return t.site.addr() + " is at " + t.siteLocal, nil
}

// refused has the client ask for what is exposed to somebody else.
func (t *trial) refused(ctx context.Context) (string, error) {
	c, err := t.client.Dial(ctx, t.server.Addrs()[0], t.private)
	if err == nil {
		c.Close()
		return "", errors.New("it got in")
	}
	for _, m := range t.server.Mounts() {
		if m.Name == t.private && m.Refused > 0 {
			return "refused: " + oneLine(err.Error()), nil
		}
	}
	return "", fmt.Errorf("it failed for another reason: %w", err)
}

// close ends everything that start and tunnel made.
func (t *trial) close() error {
	errs := []error{t.client.close(), t.server.close()}
	if t.site != nil {
		errs = append(errs, t.site.close())
	}
	if t.bulk != nil {
		errs = append(errs, t.bulk.close())
	}
	if t.dir != "" {
		errs = append(errs, os.RemoveAll(t.dir))
	}
	return errors.Join(errs...)
}

// dialLocal connects to a forwarded port; the connection ends with ctx.
func dialLocal(ctx context.Context, addr string) (*net.TCPConn, func(), error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	return c.(*net.TCPConn), func() { stop(); c.Close() }, nil
}
