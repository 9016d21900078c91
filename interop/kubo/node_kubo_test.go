package kubo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kuboNode is a running kubo daemon that only this test knows.
type kuboNode struct {
	*process
	id   string // peer ID
	addr string // multiaddr with the peer ID
	home string
	env  []string
}

// startKubo makes a new node and returns when it answers. With mounting false
// the switch that `ipfs p2p` needs stays off, as after a fresh install.
func startKubo(t *testing.T, name string, mounting bool) *kuboNode {
	t.Helper()
	bin := must(t, ipfsBinary)
	home := filepath.Join(t.TempDir(), "repo")
	n := &kuboNode{home: home, env: []string{"IPFS_PATH=" + home, "IPFS_TELEMETRY=off"}}
	if r := command(t, n.env, bin, "init", "--profile=test"); r.code != 0 {
		t.Fatalf("ipfs init: %s", r.stderr)
	}
	swarm := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", freePort(t))
	api := freePort(t)
	n.id = configure(t, filepath.Join(home, "config"), swarm, api, mounting)
	n.addr = swarm + "/p2p/" + n.id

	cmd := exec.Command(bin, "daemon", "--migrate=false")
	cmd.Env = append(os.Environ(), n.env...)
	n.process = start(t, name, cmd)
	n.waitReady(t, name, func(ctx context.Context) error {
		if _, err := os.Stat(filepath.Join(home, "api")); err != nil {
			return err
		}
		return answers(ctx, fmt.Sprintf("http://127.0.0.1:%d/api/v0/id", api), n.id)
	})
	return n
}

// configure turns off all that would look beyond the machine, sets the
// addresses, and returns the peer ID that init made.
func configure(t *testing.T, path, swarm string, apiPort int, mounting bool) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatalf("kubo's config: %v", err)
	}
	for key, value := range map[string]any{
		"Addresses.API":                     fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", apiPort),
		"Addresses.Gateway":                 []string{},
		"Addresses.Swarm":                   []string{swarm},
		"AutoConf.Enabled":                  false,
		"AutoNAT.ServiceMode":               "disabled",
		"AutoTLS.Enabled":                   false,
		"Bootstrap":                         []string{},
		"DNS.Resolvers":                     map[string]string{},
		"Discovery.MDNS.Enabled":            false,
		"Experimental.Libp2pStreamMounting": mounting,
		"Ipns.DelegatedPublishers":          []string{},
		"Plugins.Plugins":                   map[string]any{"telemetry": map[string]any{"Config": map[string]any{"Mode": "off"}}},
		"Provide.Enabled":                   false,
		"Routing.DelegatedRouters":          []string{},
		"Routing.Type":                      "none",
		"Swarm.DisableNatPortMap":           true,
		"Swarm.EnableHolePunching":          false,
		"Swarm.RelayClient.Enabled":         false,
		"Swarm.RelayService.Enabled":        false,
		"Version.SwarmCheckEnabled":         false,
	} {
		table := config
		parts := strings.Split(key, ".")
		for _, part := range parts[:len(parts)-1] {
			inner, ok := table[part].(map[string]any)
			if !ok {
				inner = make(map[string]any)
				table[part] = inner
			}
			table = inner
		}
		table[parts[len(parts)-1]] = value
	}
	identity, _ := config["Identity"].(map[string]any)
	id, _ := identity["PeerID"].(string)
	if id == "" {
		t.Fatalf("no peer ID in %s", path)
	}
	if data, err = json.MarshalIndent(config, "", "  "); err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// answers reports whether the node behind url is up, listens and is the
// expected one.
func answers(ctx context.Context, url, id string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var said struct {
		ID        string
		Addresses []string
	}
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		return err
	}
	switch {
	case said.ID != id:
		return fmt.Errorf("%s answers as %q, want %s", url, said.ID, id)
	case len(said.Addresses) == 0:
		return errors.New("it does not listen yet")
	}
	return nil
}

// run is one ipfs command on this node, however it ends.
func (n *kuboNode) run(t *testing.T, args ...string) result {
	t.Helper()
	return command(t, n.env, must(t, ipfsBinary), args...)
}

// do is one ipfs command that must succeed; it returns what it printed.
func (n *kuboNode) do(t *testing.T, args ...string) string {
	t.Helper()
	r := n.run(t, args...)
	if r.code != 0 {
		t.Fatalf("ipfs %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}
