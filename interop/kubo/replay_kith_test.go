package kubo

import (
	"fmt"
	"testing"
)

// TestReplayOnKith runs kubo's script on kith: `kith p2p` has to answer each of
// its steps as `ipfs p2p` does. Three things differ. Services are opened with
// --allow-any, since kith opens them to nobody by default. The names that the
// script looks up in the public DNS are answered by a resolver of the test. And
// two steps are left out: they ask for kubo's experimental switch, off at
// first, and kith has none.
func TestReplayOnKith(t *testing.T) {
	dns := startDNS(t)
	var nodes []replayNode
	for i := range 3 {
		n := startKith(t, fmt.Sprintf("kith-%d", i), fmt.Sprintf("dns_server = %q", dns.addr))
		nodes = append(nodes, replayNode{n.cmd.Process.Pid, n.id, n.addr, n.home})
	}
	dns.stand("bootstrap.libp2p.io", nodes[0].addr)
	dns.stand("example-dnsaddr.multiformats.io", nodes[2].addr, "/ip4/127.0.0.1/tcp/9/p2p/"+nodes[2].id)
	replay(t, "node_kith.sh", nodes, []string{"KITH=" + must(t, kithBinary)},
		"fail without config option being enabled",
		"enable filestore config setting",
	)
	if !dns.asked("example-dnsaddr.multiformats.io") {
		t.Error("kith took a bare /dnsaddr without asking what it stands for")
	}
}
