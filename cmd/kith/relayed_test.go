package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
)

// TestRelayedOnlyIsTold: a peer that is reached only over a relay with limits
// carries no tunnel, and connect and ls say why.
func TestRelayedOnlyIsTold(t *testing.T) {
	user := up(t, newHome(t))
	middle, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer middle.Close()
	service, err := relay.New(middle)
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	hidden, err := libp2p.New(libp2p.NoListenAddrs, libp2p.EnableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer hidden.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	at := peer.AddrInfo{ID: middle.ID(), Addrs: middle.Addrs()}
	if err := hidden.Connect(ctx, at); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Reserve(ctx, hidden, at); err != nil {
		t.Fatal(err)
	}
	web := fmt.Sprintf("%s/p2p/%s/p2p-circuit/p2p/%s/web", at.Addrs[0], middle.ID(), hidden.ID())

	fails(t, user.home, exitFailed, []string{"connect", web, "--check"}, "relayed only", "relay with limits", "give a direct address")
	r := run(t, user.home, "connect", web, "--anyway")
	if r.code != exitDone || !strings.HasPrefix(r.stderr, "kith: warning: ") || !strings.Contains(r.stderr, "relayed only") {
		t.Fatalf("%+v", r)
	}
	local, _, _ := strings.Cut(r.stdout, " ")
	c, err := net.Dial("tcp", local) // the reset may come before Dial returns
	if err == nil {
		defer c.Close()
	}
	soon(t, "the reason is listed", func() bool {
		var list struct {
			Mounts []struct{ Name, Refused, LastError string }
		}
		if err := json.Unmarshal([]byte(ok(t, user.home, "ls", "--json")), &list); err != nil {
			t.Fatal(err)
		}
		return len(list.Mounts) == 1 && list.Mounts[0].Name == "web" && list.Mounts[0].Refused == "1" && strings.HasPrefix(list.Mounts[0].LastError, "relayed only: ")
	})
}
