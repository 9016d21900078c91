package js

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/libp2p/go-libp2p/core/peer"
)

const patience = 60 * time.Second // for what must happen; far beyond what it takes

// jsPeer is a running peer.mjs. Its reader goroutine ends with the program, and
// stop waits for both.
type jsPeer struct {
	t     *testing.T
	id    peer.ID
	addrs []string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{} // closed when its output has ended

	mu       sync.Mutex // guards the fields below, and writes
	last     int
	waiting  map[int]chan []byte // by the number of the command
	messages []message
	more     chan struct{} // closed when messages grows
}

// message is what came on a topic, as the peer tells it.
type message struct {
	Topic, Author, By, Kind string
	Data                    []byte
}

// startJS runs a peer until the test ends.
func startJS(t *testing.T) *jsPeer {
	t.Helper()
	if err := install(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "peer.mjs")
	dieWithParent(cmd)
	var stderr strings.Builder // read after Wait
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start node: %v", err)
	}
	p := &jsPeer{t: t, cmd: cmd, stdin: stdin, ended: make(chan struct{}), waiting: map[int]chan []byte{}, more: make(chan struct{})}
	hello := make(chan []byte, 1)
	p.waiting[0] = hello
	go func() {
		defer close(p.ended)
		p.read(stdout)
	}()
	t.Cleanup(func() {
		stdin.Close() // it stops, and ends
		kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		<-p.ended
		err := cmd.Wait()
		kill.Stop()
		if err != nil {
			t.Errorf("peer.mjs ended with %v", err)
		}
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("peer.mjs wrote:\n%s", stderr.String())
		}
	})
	var is struct {
		Peer      string
		Addresses []string
	}
	p.answer(hello, &is)
	if p.id, err = peer.Decode(is.Peer); err != nil {
		t.Fatal(err)
	}
	p.addrs = is.Addresses
	return p
}

// read hands what the peer says to who waits for it.
func (p *jsPeer) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := slices.Clone(lines.Bytes())
		var is struct {
			ID    int
			Topic string
		}
		if err := json.Unmarshal(line, &is); err != nil {
			p.t.Errorf("peer.mjs said %.200q: %v", line, err)
			continue
		}
		p.mu.Lock()
		if is.Topic != "" {
			var m message
			if err := json.Unmarshal(line, &m); err != nil {
				p.t.Errorf("peer.mjs said %.200q: %v", line, err)
			}
			p.messages = append(p.messages, m)
			close(p.more)
			p.more = make(chan struct{})
		} else if c := p.waiting[is.ID]; c != nil {
			delete(p.waiting, is.ID)
			c <- line // there is room for one
		}
		p.mu.Unlock()
	}
	if err := lines.Err(); err != nil {
		p.t.Errorf("output of peer.mjs: %v", err)
	}
}

// try sends a command and stores the answer in result, if it is not nil.
func (p *jsPeer) try(do string, args map[string]any, result any) error {
	p.t.Helper()
	c := make(chan []byte, 1)
	p.mu.Lock()
	p.last++
	p.waiting[p.last] = c
	line := map[string]any{"id": p.last, "do": do}
	for k, v := range args {
		line[k] = v
	}
	err := json.NewEncoder(p.stdin).Encode(line)
	p.mu.Unlock()
	if err != nil {
		p.t.Fatalf("%s: %v", do, err)
	}
	return p.answer(c, result)
}

// do is try for what must succeed.
func (p *jsPeer) do(do string, args map[string]any, result any) {
	p.t.Helper()
	if err := p.try(do, args, result); err != nil {
		p.t.Fatalf("%s: %v", do, err)
	}
}

func (p *jsPeer) answer(c chan []byte, result any) error {
	p.t.Helper()
	var line []byte
	select {
	case line = <-c:
	case <-p.ended:
		p.t.Fatal("peer.mjs has ended")
	case <-time.After(2 * patience): // a command has patience of its own
		p.t.Fatal("no answer from peer.mjs")
	}
	var failed struct{ Error string }
	if err := json.Unmarshal(line, &failed); err != nil {
		p.t.Fatal(err)
	}
	if failed.Error != "" {
		return errors.New(failed.Error)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(line, result)
}

// call makes requests and returns the answers.
func (p *jsPeer) call(address, method string, together bool, bodies ...[]byte) ([][]byte, error) {
	p.t.Helper()
	var is struct{ Answers [][]byte }
	err := p.try("call", map[string]any{"address": address, "method": method, "together": together, "bodies": bodies}, &is)
	return is.Answers, err
}

// heard waits for a message with the data.
func (p *jsPeer) heard(data string) message {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		i := slices.IndexFunc(p.messages, func(m message) bool { return string(m.Data) == data })
		more := p.more
		if i >= 0 {
			defer p.mu.Unlock()
			return p.messages[i]
		}
		p.mu.Unlock()
		select {
		case <-more:
		case <-p.ended:
			p.t.Fatal("peer.mjs has ended")
		case <-timeout:
			p.t.Fatalf("peer.mjs did not get %.64q, of %d bytes", data, len(data))
		}
	}
}

// startKith runs a node on 127.0.0.1 until the test ends.
func startKith(t *testing.T) *kith.Node {
	t.Helper()
	n, err := kith.New(kith.Config{Home: t.TempDir(), LocalOnly: true, Version: "interop"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return n
}

// noLeaks has the test fail if it leaves goroutines. Call it first.
func noLeaks(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	})
}

// eventually calls check until it returns nil; after patience it fails the
// test with what check said last.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(fmt.Errorf("%s: %w", what, err))
		}
	}
}
