package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-p2p/kith/comet"
	"github.com/kith-p2p/kith/comet/comettest"
)

// cometHome is newHome after the program is built: the deadlines of commands are
// theirs.
func cometHome(t *testing.T) string {
	t.Helper()
	if _, err := program(); err != nil {
		t.Fatal(err)
	}
	return newHome(t)
}

// TestComet: the commands against a stand-in for a CometBFT node; interop/cometbft
// has real ones.
func TestComet(t *testing.T) {
	home := cometHome(t)
	n := comettest.Start(t, comettest.Options{Blocks: 3})
	n.AddBlock([]byte("name=satoshi"))
	hash := func(height int64) string {
		_, h := n.Block(height)
		return fmt.Sprintf("%X", h)
	}

	want := fmt.Sprintf(`ID        %s
MONIKER   stand-in
NETWORK   test-chain
VERSION   1.0.0
LISTENS   tcp://%s
CHANNELS  [0x30 0x40]
HEIGHT    4 (from 1 on)
`, n.ID(), n.HostPort())
	for _, at := range []string{n.Address(), n.HostPort(), "mconn://" + n.Address()} {
		if out := ok(t, home, "comet", "status", at); out != want {
			t.Errorf("%s:\n%s\nwant\n%s", at, out, want)
		}
	}
	want = fmt.Sprintf(`{"base":1,"channels":["0x30","0x40"],"height":4,"id":"%s","listen":"tcp://%s","moniker":"stand-in","network":"test-chain","version":"1.0.0"}`+"\n", n.ID(), n.HostPort())
	if out := ok(t, home, "comet", "status", n.Address(), "--network", "test-chain", "--json"); out != want {
		t.Errorf("%s\nwant\n%s", out, want)
	}

	want = fmt.Sprintf("3  2026-01-02T03:04:08Z  %s  0 transactions\n4  2026-01-02T03:04:09Z  %s  1 transaction\n", hash(3), hash(4))
	if out := ok(t, home, "comet", "blocks", n.Address(), "--from", "3", "-n", "2"); out != want {
		t.Errorf("%s\nwant\n%s", out, want)
	}
	var block struct {
		Height                            int64
		Time                              time.Time
		Network, Hash, Previous, Proposer string
		AppHash                           string
		Txs                               []string
	}
	out := ok(t, home, "comet", "blocks", n.Address(), "-n", "1", "--json")
	if err := json.Unmarshal([]byte(out), &block); err != nil || block.Height != 4 || block.Hash != hash(4) || block.Previous != hash(3) ||
		block.Network != "test-chain" || block.AppHash != "0004" || len(block.Proposer) != 40 || !block.Time.Equal(time.Date(2026, 1, 2, 3, 4, 9, 0, time.UTC)) ||
		len(block.Txs) != 1 || block.Txs[0] != base64.StdEncoding.EncodeToString([]byte("name=satoshi")) {
		t.Errorf("%v in %s", err, out)
	}

	if out := ok(t, home, "comet", "tx", n.Address(), "a=b"); out != "sent 3 bytes to the mempool of test-chain\n" {
		t.Errorf("%q", out)
	}
	if out := ok(t, home, "comet", "tx", n.Address(), "AP8=", "--base64", "--json"); out != `{"bytes":2,"network":"test-chain"}`+"\n" {
		t.Errorf("%q", out)
	}
	longest := strings.Repeat("x", comet.MaxTx)
	for _, input := range []struct{ text, flag string }{{"c=d\n", ""}, {base64.StdEncoding.EncodeToString([]byte(longest)) + "\n", "--base64"}} {
		args := []string{"comet", "tx", n.Address(), "-"}
		if input.flag != "" {
			args = append(args, input.flag)
		}
		cmd := command(t, home, args...)
		cmd.Stdin = strings.NewReader(input.text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	txs := n.Txs()
	if len(txs) != 4 || string(txs[0]) != "a=b" || string(txs[1]) != "\x00\xff" || string(txs[2]) != "c=d\n" || string(txs[3]) != longest {
		t.Errorf("the node has %.100q", txs)
	}
}

// TestCometStreams: new blocks appear as they are made, and Ctrl-C ends it well.
func TestCometStreams(t *testing.T) {
	n := comettest.Start(t, comettest.Options{Blocks: 1})
	cmd := command(t, cometHome(t), "comet", "blocks", n.Address())
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for height := 1; height <= 3; height++ {
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), fmt.Sprintf("%d  2026-", height)) {
			t.Fatalf("%q, want block %d; %s", lines.Text(), height, stderr.String())
		}
		n.AddBlock()
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, stdout); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || stderr.String() != "" {
		t.Errorf("%v, %q", err, stderr.String())
	}
}

// TestCometBadInput: each is answered by one line that says what, why and what to
// do next.
func TestCometBadInput(t *testing.T) {
	home := cometHome(t)
	n := comettest.Start(t, comettest.Options{Blocks: 3})
	const forBlock2 = "\x0a\x02\x08\x02"
	mute := comettest.Start(t, comettest.Options{Blocks: 3, Handle: func(_ *comettest.Peer, _ comettest.ChannelID, message []byte) bool {
		return string(message) == forBlock2
	}})
	liar := comettest.Start(t, comettest.Options{Blocks: 3, Handle: func(p *comettest.Peer, ch comettest.ChannelID, message []byte) bool {
		if string(message) == forBlock2 {
			p.Send(ch, []byte("\x1a\x02\x0a\x00")) // a block without a header
		}
		return string(message) == forBlock2
	}})
	full := comettest.Start(t, comettest.Options{Refuse: func(comettest.NodeInfo) bool { return true }})
	upgraded := comettest.Start(t, comettest.Options{Info: func(i *comettest.NodeInfo) { i.ProtocolVersion.Block = 12 }})
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	go func() {
		for {
			c, err := web.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, 35))
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}
	}()
	stranger := strings.Repeat("ab", 20)
	dead := "127.0.0.1:" + freePort(t)

	for _, tc := range []struct {
		code   int
		args   []string
		pieces []string
	}{
		{exitUsage, []string{"comet", "block"}, []string{`no command "block"`, "did you mean `kith comet blocks`"}},
		{exitUsage, []string{"comet", "status"}, []string{"needs an ADDRESS"}},
		{exitUsage, []string{"comet", "status", "a", "b"}, []string{"and no more", `"b"`}},
		{exitUsage, []string{"comet", "tx", "a"}, []string{"needs an ADDRESS and a TX"}},
		{exitUsage, []string{"comet", "status", "localhost"}, []string{`"localhost"`, "ID@host:port"}},
		{exitUsage, []string{"comet", "status", "127.0.0.1:0"}, []string{"1 to 65535"}},
		{exitUsage, []string{"comet", "status", "xyz@127.0.0.1:1"}, []string{"xyz"}},
		{exitUsage, []string{"comet", "status", "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"}, []string{"ID@host:port"}},
		{exitUsage, []string{"comet", "status", n.Address(), "--timeout", "0s"}, []string{"--timeout is 0s"}},
		{exitUsage, []string{"comet", "blocks", n.Address(), "--from", "-1"}, []string{"cannot be negative"}},
		{exitUsage, []string{"comet", "blocks", n.Address(), "-n", "-1"}, []string{"cannot be negative"}},
		{exitUsage, []string{"comet", "tx", n.Address(), ""}, []string{"TX has 0 bytes", "1 to 1048576"}},
		{exitUsage, []string{"comet", "tx", n.Address(), "*", "--base64"}, []string{"not base64"}},

		{exitFailed, []string{"comet", "status", dead}, []string{"no CometBFT node", dead, "connection refused", "26656", "RPC"}},
		{exitFailed, []string{"comet", "status", web.Addr().String()}, []string{"no CometBFT node", "26656", "RPC"}},
		{exitFailed, []string{"comet", "status", stranger + "@" + n.HostPort()}, []string{stranger, string(n.ID()), "check the ID"}},
		{exitFailed, []string{"comet", "status", n.Address(), "--network", "other"}, []string{`"other"`, `"test-chain"`, "check --network"}},
		{exitFailed, []string{"comet", "status", full.Address()}, []string{"closed the connection after the handshake", "full", "log"}},
		{exitFailed, []string{"comet", "status", upgraded.Address()}, []string{"block version", "ours is 11, theirs 12", "no peer of ours"}},
		{exitFailed, []string{"comet", "blocks", n.Address(), "--from", "9"}, []string{"1 to 3, not 9", "`kith comet status`"}},
		{exitFailed, []string{"comet", "blocks", mute.Address(), "--from", "2", "--timeout", "1s"}, []string{"did not answer for block 2", string(mute.ID()), "--timeout"}},
		{exitFailed, []string{"comet", "blocks", liar.Address(), "--from", "2"}, []string{"no honest node", "another one"}},
	} {
		fails(t, home, tc.code, tc.args, tc.pieces...)
	}
	r := run(t, home, "comet", "status", dead, "--json")
	var fault struct{ Error, Code string }
	if err := json.Unmarshal([]byte(r.stderr), &fault); err != nil || r.code != exitFailed || r.stdout != "" || !strings.Contains(fault.Error, "connection refused") || fault.Code == "" {
		t.Errorf("%+v, %v", r, err)
	}
	cmd := command(t, home, "comet", "tx", n.Address(), "-")
	cmd.Stdin = strings.NewReader(strings.Repeat("x", comet.MaxTx+1))
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "1 to 1048576") {
		t.Errorf("%v: %s", err, out)
	}
	if len(n.Txs()) != 0 {
		t.Errorf("%q", n.Txs())
	}
}
