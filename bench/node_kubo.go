package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kuboConfig is kubo at its best for a tunnel: only the transport that is
// compared, and nothing running that a tunnel does not need.
var kuboConfig = map[string]any{
	"Addresses.API":                         "/ip4/127.0.0.1/tcp/0",
	"Addresses.Gateway":                     []string{},
	"Addresses.Swarm":                       []string{"/ip4/127.0.0.1/tcp/0"},
	"AutoConf.Enabled":                      false,
	"AutoNAT.ServiceMode":                   "disabled",
	"AutoTLS.Enabled":                       false,
	"Bitswap.Libp2pEnabled":                 false,
	"Bitswap.ServerEnabled":                 false,
	"Bootstrap":                             []string{},
	"DNS.Resolvers":                         map[string]string{},
	"Discovery.MDNS.Enabled":                false,
	"Experimental.Libp2pStreamMounting":     true,
	"Ipns.DelegatedPublishers":              []string{},
	"Plugins.Plugins":                       map[string]any{"telemetry": map[string]any{"Config": map[string]any{"Mode": "off"}}},
	"Provide.Enabled":                       false,
	"Routing.DelegatedRouters":              []string{},
	"Routing.Type":                          "none",
	"Swarm.DisableNatPortMap":               true,
	"Swarm.EnableHolePunching":              false,
	"Swarm.RelayClient.Enabled":             false,
	"Swarm.RelayService.Enabled":            false,
	"Swarm.Transports.Network.QUIC":         false,
	"Swarm.Transports.Network.Relay":        false,
	"Swarm.Transports.Network.WebRTCDirect": false,
	"Swarm.Transports.Network.WebTransport": false,
	"Swarm.Transports.Network.Websocket":    false,
	"Version.SwarmCheckEnabled":             false,
}

// kuboNode is one daemon and its commands.
type kuboNode struct {
	*process
	bin  string
	env  []string
	addr string // multiaddr with the peer ID
	id   string
}

// run is one ipfs command on the node; it returns what it printed.
func (n *kuboNode) run(ctx context.Context, args ...string) ([]byte, error) {
	return command(ctx, n.env, n.bin, args...)
}

// startKubo runs two kubo daemons with a tunnel to the service. extra is added
// to their configuration.
func (b *bench) startKubo(ctx context.Context, name string, extra map[string]any) (*daemons, error) {
	bin, err := kuboBinary(ctx)
	if err != nil {
		return nil, err
	}
	config := maps.Clone(kuboConfig)
	maps.Copy(config, extra)
	far, err := b.upKubo(ctx, bin, config)
	if err != nil {
		return nil, err
	}
	near, err := b.upKubo(ctx, bin, config)
	if err != nil {
		return nil, err
	}
	if _, err := near.run(ctx, "swarm", "connect", far.addr); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(b.service.addr())
	if err != nil {
		return nil, err
	}
	if _, err := far.run(ctx, "p2p", "listen", "/x/bench", fmt.Sprintf("/ip4/%s/tcp/%s", host, port)); err != nil {
		return nil, err
	}
	if _, err := near.run(ctx, "p2p", "forward", "/x/bench", "/ip4/127.0.0.1/tcp/0", "/p2p/"+far.id); err != nil {
		return nil, err
	}
	out, err := near.run(ctx, "p2p", "ls")
	if err != nil {
		return nil, err
	}
	// It prints protocol, listen address and target.
	_, local, _ := strings.Cut(string(out), "/ip4/127.0.0.1/tcp/")
	if local, _, _ = strings.Cut(local, " "); local == "" || local == "0" {
		return nil, fmt.Errorf("ipfs p2p ls printed %q", out)
	}
	version, err := near.run(ctx, "version")
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("two `ipfs daemon` processes, %s, built with the same Go, profile test, TCP, TLS, yamux, with %s",
		strings.TrimSpace(string(version)), settingsText(config))
	if len(extra) > 0 {
		text = "as kubo, but with " + settingsText(extra)
	}
	return &daemons{name: name, config: text, near: near.process, far: far.process, dial: dialTCP("127.0.0.1:" + local)}, nil
}

// upKubo makes a node and returns when it listens.
func (b *bench) upKubo(ctx context.Context, bin string, config map[string]any) (*kuboNode, error) {
	home, err := b.nodeDir()
	if err != nil {
		return nil, err
	}
	n := &kuboNode{bin: bin, env: []string{"IPFS_PATH=" + home, "IPFS_TELEMETRY=off"}}
	if _, err := n.run(ctx, "init", "--profile=test"); err != nil {
		return nil, err
	}
	if err := configure(filepath.Join(home, "config"), config); err != nil {
		return nil, err
	}
	p, err := start(home, n.env, bin, "daemon", "--migrate=false")
	if err != nil {
		return nil, err
	}
	n.process = p
	b.stops.add(p.stop)
	return n, p.waitReady(ctx, func() error {
		if _, err := os.Stat(filepath.Join(home, "api")); err != nil {
			return err
		}
		out, err := n.run(ctx, "id")
		if err != nil {
			return err
		}
		var said struct {
			ID        string
			Addresses []string
		}
		if err := json.Unmarshal(out, &said); err != nil {
			return err
		}
		if len(said.Addresses) == 0 {
			return errors.New("it does not listen yet")
		}
		n.id, n.addr = said.ID, said.Addresses[0]
		return nil
	})
}

// configure changes a configuration file that ipfs init made. The keys are
// paths.
func configure(path string, changes map[string]any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		return fmt.Errorf("kubo's config: %w", err)
	}
	for key, value := range changes {
		table, parts := config, strings.Split(key, ".")
		for _, part := range parts[:len(parts)-1] {
			inner, ok := table[part].(map[string]any)
			if !ok {
				inner = map[string]any{}
				table[part] = inner
			}
			table = inner
		}
		table[parts[len(parts)-1]] = value
	}
	if data, err = json.MarshalIndent(config, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// settingsText is a configuration in one line.
func settingsText(config map[string]any) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(config)) {
		value, _ := json.Marshal(config[key]) // plain maps, slices, strings and bools
		parts = append(parts, fmt.Sprintf("%s %s", key, value))
	}
	return strings.Join(parts, ", ")
}
