package kubo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// peerIDPattern finds the peer ID of an Ed25519 key in what a command prints.
var peerIDPattern = regexp.MustCompile(`12D3KooW[1-9A-HJ-NP-Za-km-z]{44}`)

// kithNode is a running kith node that only this test knows.
type kithNode struct {
	*process
	id   string // peer ID
	addr string // multiaddr with the peer ID
	home string
}

// startKith makes a new node and returns when it answers. Each of config is a
// line for its configuration file.
func startKith(t *testing.T, name string, config ...string) *kithNode {
	t.Helper()
	bin := must(t, kithBinary)
	// Not t.TempDir: its path can outgrow what a unix socket's address holds.
	home, err := os.MkdirTemp("", "kith-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	// Peers are named by the tests; nothing is to be announced to the network.
	text := strings.Join(append(config, "mdns = false"), "\n") + "\n"
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := &kithNode{home: home}
	listen := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", freePort(t))
	n.process = start(t, name, exec.Command(bin, "--home", home, "up", "--listen", listen, "--json"))
	n.waitReady(t, name, func(context.Context) error {
		line, _, ended := bytes.Cut(n.output(), []byte("\n"))
		if !ended {
			return fmt.Errorf("it has said %q so far", line)
		}
		return nil
	})
	n.waitReady(t, name, func(context.Context) error {
		r := n.run(t, "id")
		if n.id = peerIDPattern.FindString(r.stdout); r.code != 0 || n.id == "" {
			return errors.New("kith id: " + r.stdout + r.stderr)
		}
		return nil
	})
	n.addr = listen + "/p2p/" + n.id
	return n
}

// run is one kith command on this node, however it ends.
func (n *kithNode) run(t *testing.T, args ...string) result {
	t.Helper()
	return command(t, nil, must(t, kithBinary), append([]string{"--home", n.home}, args...)...)
}

// do is one kith command that must succeed; it returns what it printed.
func (n *kithNode) do(t *testing.T, args ...string) string {
	t.Helper()
	r := n.run(t, args...)
	if r.code != 0 {
		t.Fatalf("kith %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}
