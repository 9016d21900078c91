package cometbft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

const (
	patience    = 90 * time.Second // for anything a node does in moments; others load the machine
	stopTimeout = 15 * time.Second // from SIGTERM to SIGKILL
)

// A node is a running CometBFT node, a single validator that makes blocks, or
// another node of such a one's chain.
type node struct {
	home     string
	id       p2p.NodeID
	network  string
	endpoint p2p.Endpoint
	rpc      string
	log      string
	exited   chan struct{}
}

// A setup is what is special about a node.
type setup struct {
	config map[string]string // values of config.toml, as they stand there
	flags  []string          // of cometbft start
	chain  *node             // whose chain it joins; nil: it makes its own
}

// startNode starts a node of a new chain and returns when it has a block. A node
// that joins a chain may have to wait for peers, so there it returns when it
// answers.
func startNode(t *testing.T, r release, s setup) *node {
	t.Helper()
	bin, err := r.binary()
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(t.TempDir(), "home")
	if out, err := exec.Command(bin, "init", "--home", home).CombinedOutput(); err != nil {
		t.Fatalf("cometbft init: %v\n%s", err, out)
	}
	configure(t, filepath.Join(home, "config", "config.toml"), s.config)
	if s.chain != nil {
		genesis, err := os.ReadFile(filepath.Join(s.chain.home, "config", "genesis.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, "config", "genesis.json"), genesis, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p2pPort, rpcPort := freePort(t), freePort(t)
	n := &node{
		home:     home,
		endpoint: p2p.Endpoint{Protocol: "mconn", IP: net.IPv4(127, 0, 0, 1).To4(), Port: uint16(p2pPort)},
		rpc:      fmt.Sprintf("http://127.0.0.1:%d", rpcPort),
		log:      filepath.Join(t.TempDir(), "node.log"),
		exited:   make(chan struct{}),
	}
	out, err := os.Create(n.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(bin, append([]string{"start", "--home", home, "--proxy_app=kvstore",
		"--p2p.laddr", fmt.Sprintf("tcp://127.0.0.1:%d", p2pPort), "--rpc.laddr", fmt.Sprintf("tcp://127.0.0.1:%d", rpcPort)}, s.flags...)...)
	cmd.Stdout, cmd.Stderr = out, out
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(n.exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-n.exited:
		case <-time.After(stopTimeout):
			_ = cmd.Process.Kill()
			<-n.exited
		}
		if t.Failed() {
			t.Logf("log of the %s node:\n%s", r.name, n.output())
		}
	})
	poll(t, "the node's first block", func() error {
		select {
		case <-n.exited:
			t.Fatal("the node ended")
		default:
		}
		var status struct {
			NodeInfo struct {
				ID      p2p.NodeID `json:"id"`
				Network string     `json:"network"`
			} `json:"node_info"`
			SyncInfo struct {
				Height int64 `json:"latest_block_height,string"`
			} `json:"sync_info"`
		}
		if err := n.ask("/status", &status); err != nil {
			return err
		}
		n.id, n.network = status.NodeInfo.ID, status.NodeInfo.Network
		if status.SyncInfo.Height < 1 && s.chain == nil {
			return errors.New("no block yet")
		}
		return nil
	})
	return n
}

// configure lets the node take peers of this machine, and make blocks fast.
func configure(t *testing.T, path string, more map[string]string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"addr_book_strict": "false", "allow_duplicate_ip": "true", "timeout_commit": `"200ms"`}
	maps.Copy(values, more)
	for key, value := range values {
		line := regexp.MustCompile(`(?m)^` + key + ` *=.*$`)
		if !line.Match(data) {
			t.Fatalf("no %s in %s", key, path)
		}
		data = line.ReplaceAll(data, []byte(key+" = "+value))
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// output is the end of what the node wrote.
func (n *node) output() string {
	data, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-32<<10):])
}

// waitLog waits until the node wrote something.
func (n *node) waitLog(t *testing.T, text string) {
	t.Helper()
	poll(t, fmt.Sprintf("%q in the node's log", text), func() error {
		if !strings.Contains(n.output(), text) {
			return errors.New("not there")
		}
		return nil
	})
}

// ask is one question over the node's RPC.
func (n *node) ask(path string, result any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.rpc+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Result json.RawMessage
		Error  json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if len(answer.Error) > 0 {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Result, result)
}

// address is where and who the node is, as in persistent_peers.
func (n *node) address() string { return fmt.Sprintf("%s@127.0.0.1:%d", n.id, n.endpoint.Port) }

// listed is what a node says of a peer.
type listed struct {
	moniker  string
	outbound bool // the node dialled it
}

// peers are the node's peers.
func (n *node) peers() (map[p2p.NodeID]listed, error) {
	var info struct {
		Peers []struct {
			NodeInfo struct {
				ID      p2p.NodeID `json:"id"`
				Moniker string     `json:"moniker"`
			} `json:"node_info"`
			Outbound bool `json:"is_outbound"`
		} `json:"peers"`
	}
	err := n.ask("/net_info", &info)
	peers := make(map[p2p.NodeID]listed)
	for _, p := range info.Peers {
		peers[p.NodeInfo.ID] = listed{p.NodeInfo.Moniker, p.Outbound}
	}
	return peers, err
}

// blockHash is what the node's RPC says the hash of a block is.
func (n *node) blockHash(t *testing.T, height int64) string {
	t.Helper()
	var said struct {
		BlockID struct {
			Hash string `json:"hash"`
		} `json:"block_id"`
	}
	if err := n.ask(fmt.Sprintf("/block?height=%d", height), &said); err != nil {
		t.Fatal(err)
	}
	return said.BlockID.Hash
}

// waitHeight waits until the node has a block.
func (n *node) waitHeight(t *testing.T, height int64) {
	t.Helper()
	poll(t, fmt.Sprintf("block %d", height), func() error {
		var said struct {
			BlockID struct {
				Hash string `json:"hash"`
			} `json:"block_id"`
		}
		return n.ask(fmt.Sprintf("/block?height=%d", height), &said)
	})
}

// query is what the application has under a key; "" for nothing.
func (n *node) query(key string) (string, error) {
	var result struct {
		Response struct {
			Value []byte `json:"value"`
		} `json:"response"`
	}
	err := n.ask("/abci_query?data="+url.QueryEscape(`"`+key+`"`), &result)
	return string(result.Response.Value), err
}

// poll asks until there is no error.
func poll(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s: %v", patience, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

var ports struct {
	sync.Mutex
	next int
}

// Ports lie below 32768, where Linux takes those of outgoing connections from.
// Each process begins elsewhere, so that two seldom meet.
const firstPort, manyPorts = 12101, 20_000

// freePort finds a port of 127.0.0.1 that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.next == 0 {
		ports.next = rand.IntN(manyPorts)
	}
	for range 200 {
		ports.next++
		port := firstPort + ports.next%manyPorts
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port above 12100 on 127.0.0.1")
	return 0
}
