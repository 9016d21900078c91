package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/kith-p2p/kith/comet/comettest"
)

// Against a stand-in for the node; interop/cometbft has real ones.
func TestBlocks(t *testing.T) {
	node := comettest.Start(t, comettest.Options{Blocks: 5})
	node.AddBlock([]byte("name=satoshi"), []byte("name=hal"))
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-from", "2", "-n", "5", node.Address()}, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 8 || !strings.Contains(lines[0], comettest.Network) || !strings.HasPrefix(lines[1], "2  ") ||
		!strings.HasSuffix(lines[5], "2 transactions") || !strings.HasPrefix(lines[6], "2 transactions in ") {
		t.Errorf("%s", &out)
	}
	for _, args := range [][]string{nil, {"nonsense"}, {"-network", "other", node.Address()}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
