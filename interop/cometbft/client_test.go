package cometbft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith/comet"
	"github.com/kith-p2p/kith/p2p"
)

// The client that `kith comet` runs on.
func TestClient(t *testing.T) {
	t.Parallel()
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, r, setup{})
			n.waitHeight(t, 10)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c, err := comet.Dial(ctx, n.address(), comet.Options{Network: n.network, Poll: 50 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if info := c.Info(); info.NodeID != n.id || info.Network != n.network || info.Moniker == "" || !slices.Contains(info.Channels, blockChannel) {
				t.Errorf("%+v", info)
			}
			if s, err := c.Status(ctx); err != nil || s.Height < 10 || s.Base != 1 {
				t.Errorf("%+v, %v", s, err)
			}
			// Ten blocks and, while the chain grows, those after them.
			height := int64(1)
			for b, err := range c.Blocks(ctx, 1) {
				if err != nil {
					t.Fatal(err)
				}
				if want := n.blockHash(t, height); b.Height != height || b.Network != n.network || b.Hash.String() != want || time.Since(b.Time) > time.Hour {
					t.Errorf("block %d is %+v, its hash by the RPC %s", height, b, want)
				}
				if height++; height > 30 {
					break
				}
			}
			if _, err := c.Block(ctx, 1<<40); !errors.Is(err, comet.ErrNoBlock) {
				t.Error(err)
			}
			// A transaction: the application has it, and a block.
			name, value := fmt.Sprintf("kith%d", rand.Uint32()), "client"
			if err := c.SubmitTx(ctx, []byte(name+"="+value)); err != nil {
				t.Fatal(err)
			}
			n.waitQuery(t, name, value)
			found := false
			for b, err := range c.Blocks(ctx, height) {
				if err != nil {
					t.Fatal(err)
				}
				if found = slices.ContainsFunc(b.Txs, func(tx []byte) bool { return string(tx) == name+"="+value }); found {
					if want := n.blockHash(t, b.Height); b.Hash.String() != want {
						t.Errorf("block %d has hash %s, by the RPC %s", b.Height, b.Hash, want)
					}
					break
				}
			}
			if !found {
				t.Error("no block has the transaction")
			}
			// What is refused.
			mismatch, ok := errors.AsType[*p2p.IncompatibleError](second(comet.Dial(ctx, n.address(), comet.Options{Network: "elsewhere"})))
			if !ok || mismatch.Mismatch != p2p.MismatchNetwork {
				t.Error(mismatch)
			}
			stranger := fmt.Sprintf("%s@127.0.0.1:%d", newKey(t).Public().NodeID(), n.endpoint.Port)
			if err := second(comet.Dial(ctx, stranger, comet.Options{})); !errors.Is(err, p2p.ErrWrongPeer) {
				t.Error(err)
			}
			// Two with one key: the node has us already.
			key := newKey(t)
			first, err := comet.Dial(ctx, n.address(), comet.Options{Key: key})
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			if err := second(comet.Dial(ctx, n.address(), comet.Options{Key: key})); !errors.Is(err, comet.ErrRefused) {
				t.Error(err)
			}
		})
	}
}

func second(c *comet.Client, err error) error {
	if err == nil {
		c.Close()
		return errors.New("it connected")
	}
	return err
}

// waitQuery waits until the application has a value under a key.
func (n *node) waitQuery(t *testing.T, key, value string) {
	t.Helper()
	poll(t, "the transaction to be committed", func() error {
		if got, err := n.query(key); err != nil || got != value {
			return fmt.Errorf("the application has %q, %v", got, err)
		}
		return nil
	})
}

// scratch holds the program under test; TestMain removes it.
var scratch string

// kith builds the command, once.
var kith = sync.OnceValues(func() (string, error) {
	var err error
	if scratch, err = os.MkdirTemp("", "kith-cometbft"); err != nil {
		return "", err
	}
	path := filepath.Join(scratch, "kith")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/kith")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kith: %w\n%s", err, out)
	}
	return path, nil
})

// runKith runs `kith comet` and returns what it prints.
func runKith(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	path, err := kith()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"comet"}, args...)...)
	cmd.Env = append(os.Environ(), "KITH_HOME="+t.TempDir())
	cmd.Stdin = strings.NewReader(stdin)
	var out, faults strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &faults
	dieWithParent(cmd)
	err = cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return out.String(), faults.String(), cmd.ProcessState.ExitCode()
}

// mustKith is runKith of a command that has to succeed.
func mustKith(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	stdout, stderr, code := runKith(t, stdin, args...)
	if code != 0 || stderr != "" {
		t.Fatalf("kith comet %q: exit code %d: %s", args, code, stderr)
	}
	return stdout
}

// What a person sees: the built program against both releases.
func TestCommand(t *testing.T) {
	t.Parallel()
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, r, setup{})
			n.waitHeight(t, 10)
			version := strings.TrimPrefix(r.name, "v")

			text := mustKith(t, "", "status", n.address())
			for _, piece := range []string{string(n.id), n.network, version, "0x40", "(from 1 on)"} {
				if !strings.Contains(text, piece) {
					t.Errorf("no %q in\n%s", piece, text)
				}
			}
			var status struct {
				ID, Moniker, Network, Version, Listen string
				Channels                              []string
				Height, Base                          int64
			}
			// Without an ID: whoever answers.
			line := mustKith(t, "", "status", "--json", fmt.Sprintf("127.0.0.1:%d", n.endpoint.Port))
			if err := json.Unmarshal([]byte(line), &status); err != nil || status.ID != string(n.id) || status.Moniker == "" || status.Network != n.network ||
				status.Version != version || status.Height < 10 || status.Base != 1 || !slices.Contains(status.Channels, "0x30") {
				t.Errorf("%+v, %v in %s", status, err, line)
			}

			// Ten blocks, and then as many new ones as it takes to get to 15.
			lines := strings.Split(strings.TrimSuffix(mustKith(t, "", "blocks", n.address(), "--from", "6", "-n", "10", "--json"), "\n"), "\n")
			if len(lines) != 10 {
				t.Errorf("%d lines", len(lines))
			}
			for i, line := range lines {
				var b struct {
					Height                  int64
					Network, Hash, Previous string
				}
				height := int64(6 + i)
				if err := json.Unmarshal([]byte(line), &b); err != nil || b.Height != height || b.Network != n.network ||
					b.Hash != n.blockHash(t, height) || b.Previous != n.blockHash(t, height-1) {
					t.Errorf("%v in %s", err, line)
				}
			}
			text = mustKith(t, "", "blocks", n.address(), "-n", "2")
			if lines := strings.Split(text, "\n"); len(lines) != 3 || !strings.Contains(lines[0], "transaction") {
				t.Errorf("%q", text)
			}

			name := fmt.Sprintf("kith%d", rand.Uint32())
			if text := mustKith(t, "", "tx", n.address(), name+"=word"); !strings.Contains(text, n.network) {
				t.Errorf("%q", text)
			}
			n.waitQuery(t, name, "word")
			name += "x"
			if line := mustKith(t, name+"=input", "tx", n.address(), "-", "--json"); !strings.Contains(line, fmt.Sprintf(`"bytes":%d`, len(name)+6)) {
				t.Errorf("%q", line)
			}
			n.waitQuery(t, name, "input")

			for _, c := range []struct {
				args   []string
				code   int
				pieces []string
			}{
				{[]string{"status", n.address(), "--network", "elsewhere"}, 1, []string{"network differs", "elsewhere", n.network}},
				{[]string{"status", fmt.Sprintf("%s@127.0.0.1:%d", newKey(t).Public().NodeID(), n.endpoint.Port)}, 1, []string{string(n.id), "another node answered"}},
				{[]string{"blocks", n.address(), "--from", "99999999", "-n", "1", "--timeout", "1s"}, 1, []string{"99999999"}},
			} {
				stdout, stderr, code := runKith(t, "", c.args...)
				if code != c.code || stdout != "" {
					t.Errorf("kith comet %q: exit code %d, printed %q", c.args, code, stdout)
				}
				for _, piece := range c.pieces {
					if !strings.Contains(stderr, piece) {
						t.Errorf("kith comet %q: no %q in %q", c.args, piece, stderr)
					}
				}
			}
		})
	}
}
