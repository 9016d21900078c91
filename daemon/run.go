package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// Options is what [Run] needs to know.
type Options struct {
	// Home is the directory with the node's key, state, configuration and
	// control socket; created with mode 0700 when it is not there. Required.
	Home string
	// Override, if set, changes the configuration that was read from the home,
	// as the flags of `kith up` do.
	Override func(*Config)
	// Log gets the log messages, in the form and from the level that the
	// configuration says. Default: none are written.
	Log io.Writer
	// Version is what the node says its version is.
	Version string
	// Ready, if set, is called once, when the node listens and the control API
	// answers. Run goes on meanwhile; Ready should not block for long.
	Ready func(*controlv1.StatusResponse)
}

// Run runs the node of a home and its control API until ctx ends or a client
// asks for the end; then it stops accepting calls, ends the streaming ones,
// closes the node and returns nil, all within two seconds.
//
// At the first start of a home it writes a commented config.toml there; an
// existing one is never changed.
//
// Errors: what [LoadConfig] and [kith.New] return (among them
// [kith.ErrHomeInUse] when another node runs in the home), a control socket
// that cannot be opened, and failures of the running node. Errors that match
// [kith.ErrUsage] are the caller's own.
func Run(ctx context.Context, o Options) error {
	home, err := filepath.Abs(o.Home)
	if err != nil {
		return fmt.Errorf("cannot tell where the home is: %w; say --home with a full path", err)
	}
	if o.Home == "" {
		return &usageError{"no home was named; say --home DIR"}
	}
	if _, err := socketPath(home); err != nil {
		return err
	}
	config, err := LoadConfig(home)
	if err != nil {
		return err
	}
	if o.Override != nil {
		o.Override(&config)
	}
	log := newLogger(o.Log, config)

	node, err := kith.New(kith.Config{
		Home: home, Listen: config.Listen, LocalOnly: config.LocalOnly, NoMDNS: !config.MDNS,
		Network: config.Network, Moniker: config.Moniker, MaxPeers: config.MaxPeers, MaxOutgoing: config.MaxOut,
		PersistentPeers: config.Peers, Bootstrap: config.Bootstrap, DNSSeeds: config.DNSSeeds, DHT: config.DHT, NoPEX: !config.PEX,
		Topics: config.Topics, TopicPeers: config.TopicPeer,
		DNSServer: config.DNSServer, Wait: config.Wait, Logger: log, Version: o.Version,
	})
	if err != nil {
		return err
	}
	if err := writeTemplate(home); err != nil {
		log.Warn("could not write the commented configuration", "file", filepath.Join(home, ConfigFile), "error", err)
	}
	ln, err := listenSocket(home)
	if err != nil {
		return errors.Join(err, node.Close())
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := newServer(node, stop, log)
	served := make(chan error, 1)
	go func() {
		served <- s.http.Serve(ln)
		stop()
	}()
	running, endNode := context.WithCancel(context.WithoutCancel(ctx))
	defer endNode()
	ran := make(chan error, 1)
	go func() {
		ran <- node.Run(running)
		stop()
	}()

	log.Info("node is up", "peer", node.ID(), "home", home)
	if o.Ready != nil {
		o.Ready(statusOf(node))
	}
	<-ctx.Done()
	log.Info("node is shutting down")

	var nodeErr error
	closeNode := func() {
		endNode()
		nodeErr = <-ran
		nodeErr = errors.Join(nodeErr, node.Close())
	}
	var serveErr error
	select {
	case serveErr = <-served: // before the stop: the listener failed
		s.stop(ln, closeNode)
	default:
		s.stop(ln, closeNode)
		<-served
	}
	if serveErr != nil && !errors.Is(serveErr, http.ErrServerClosed) {
		nodeErr = errors.Join(nodeErr, fmt.Errorf("the control API failed: %w; start the node again", serveErr))
	}
	if errors.Is(nodeErr, context.Canceled) {
		nodeErr = nil
	}
	return nodeErr
}

// newLogger returns the log that config describes.
func newLogger(w io.Writer, config Config) *slog.Logger {
	if w == nil {
		return slog.New(slog.DiscardHandler)
	}
	options := &slog.HandlerOptions{Level: config.LogLevel}
	if config.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
