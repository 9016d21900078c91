package comet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-p2p/kith/comet/comettest"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// patience is for what happens in moments; others load the machine.
const patience = 30 * time.Second

// goroutines fails the test if more are left at its end than there were.
func goroutines(t *testing.T) {
	t.Helper()
	start := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(patience); runtime.NumGoroutine() > start; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d at the start:\n%s", runtime.NumGoroutine(), start, stacks[:runtime.Stack(stacks, true)])
			}
		}
	})
}

// dial is Dial that has to succeed.
func dial(t *testing.T, at string, o Options) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := Dial(ctx, at, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// listener serves TCP on 127.0.0.1 until the test ends, and returns host:port.
func listener(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

func TestDial(t *testing.T) {
	goroutines(t)
	n := comettest.Start(t, comettest.Options{Blocks: 3})
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{n.Address(), n.HostPort(), "mconn://" + n.Address(), "tcp://" + n.Address()} {
		c := dial(t, at, Options{Key: key, Network: comettest.Network, Moniker: "me"})
		if info := c.Info(); info.NodeID != n.ID() || info.Moniker != "stand-in" || info.Network != comettest.Network {
			t.Errorf("%s: %+v", at, info)
		}
		c.Close()
	}
}

func TestProbe(t *testing.T) {
	goroutines(t)
	// Whatever its network and blocks are, with the key of the options left alone.
	seen := make(chan p2p.NodeInfo, 1)
	n := comettest.Start(t, comettest.Options{
		Info:   func(i *p2p.NodeInfo) { i.Network, i.ProtocolVersion.Block, i.Channels = "elsewhere", 12, nil },
		Refuse: func(peer p2p.NodeInfo) bool { seen <- peer; return true },
	})
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	info, err := Probe(t.Context(), n.HostPort(), Options{Key: key, Moniker: "me"})
	if err != nil || info.Network != "elsewhere" || info.ProtocolVersion.Block != 12 || info.NodeID != n.ID() {
		t.Fatalf("%+v, %v", info, err)
	}
	if we := <-seen; we.NodeID == key.Public().NodeID() || we.Moniker != "me" || we.Network == "elsewhere" {
		t.Errorf("%+v", we)
	}
	if _, err := Probe(t.Context(), "127.0.0.1", Options{}); !errors.Is(err, ErrAddress) {
		t.Error(err)
	}
}

// What keeps Dial from connecting, and what it says then.
func TestDialFails(t *testing.T) {
	goroutines(t)
	honest := comettest.Start(t, comettest.Options{Blocks: 1})
	otherBlocks := comettest.Start(t, comettest.Options{Info: func(i *p2p.NodeInfo) { i.ProtocolVersion.Block = 12 }})
	otherChannels := comettest.Start(t, comettest.Options{Info: func(i *p2p.NodeInfo) { i.Channels = []p2p.ChannelID{0x20} }})
	full := comettest.Start(t, comettest.Options{Refuse: func(p2p.NodeInfo) bool { return true }})
	silent := listener(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	web := listener(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 35)) // our key
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"+strings.Repeat("sorry ", 20))
	})
	closing := listener(t, func(net.Conn) {})
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	stranger := strings.Repeat("ab", 20)

	for _, tc := range []struct {
		name, at string
		o        Options
		is       error
		pieces   []string
	}{
		{"nothing", "", Options{}, ErrAddress, []string{"ID@host:port"}},
		{"a host", "localhost", Options{}, ErrAddress, []string{`"localhost"`, "ID@host:port", "host:port"}},
		{"no host", ":26656", Options{}, ErrAddress, []string{"after a host"}},
		{"port 0", "127.0.0.1:0", Options{}, ErrAddress, []string{"1 to 65535"}},
		{"a port too high", "127.0.0.1:70000", Options{}, ErrAddress, []string{"1 to 65535"}},
		{"a short ID", "abc@127.0.0.1:1", Options{}, ErrAddress, []string{"abc"}},
		{"another protocol", "libp2p://" + stranger + "@127.0.0.1:1", Options{}, ErrAddress, []string{"libp2p", "ID@host:port"}},
		{"nobody there", nobody.Addr().String(), Options{}, syscall.ECONNREFUSED, []string{nobody.Addr().String(), "no CometBFT node"}},
		{"silence", silent, Options{}, context.DeadlineExceeded, []string{silent, "key exchange"}},
		{"a web server", web, Options{}, mconn.ErrEphemeralKey, []string{web, "no CometBFT node"}},
		{"a close", closing, Options{}, ErrNotNode, []string{closing, "closed"}},
		{"another node", stranger + "@" + honest.HostPort(), Options{}, p2p.ErrWrongPeer, []string{stranger, string(honest.ID())}},
		{"another network", honest.Address(), Options{Network: "elsewhere"}, ErrNetwork, []string{`"elsewhere"`, `"test-chain"`, "stand-in"}},
		{"other blocks", otherBlocks.Address(), Options{}, p2p.ErrIncompatible, []string{"ours is 11, theirs 12"}},
		{"other channels", otherChannels.Address(), Options{}, p2p.ErrIncompatible, []string{"0x20"}},
		{"a full node", full.Address(), Options{}, ErrRefused, []string{"after the handshake", "full", "log"}},
		{"a bad moniker", honest.Address(), Options{Moniker: "\n"}, p2p.ErrNodeInfo, []string{"Moniker"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			within := patience
			if tc.is == context.DeadlineExceeded {
				within = 500 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			c, err := Dial(ctx, tc.at, tc.o)
			if err == nil {
				c.Close()
				t.Fatal("it connected")
			}
			if tc.is != nil && !errors.Is(err, tc.is) || !strings.HasPrefix(err.Error(), "comet: ") {
				t.Errorf("%v, want %v", err, tc.is)
			}
			for _, piece := range tc.pieces {
				if !strings.Contains(err.Error(), piece) {
					t.Errorf("no %q in %q", piece, err)
				}
			}
		})
	}
	for _, n := range []struct {
		node *comettest.Node
		want p2p.Mismatch
	}{{otherBlocks, p2p.MismatchBlock}, {otherChannels, p2p.MismatchChannels}} {
		_, err := Dial(t.Context(), n.node.Address(), Options{})
		if e, ok := errors.AsType[*p2p.IncompatibleError](err); !ok || e.Mismatch != n.want {
			t.Error(err)
		}
	}
}

// A node that says who it is, and then takes no connection: the context's end
// says so.
func TestDialTakesNoConnection(t *testing.T) {
	goroutines(t)
	n := comettest.Start(t, comettest.Options{Blocks: 1})
	// The first connection goes through to the node, the others are closed at once.
	first := true
	at := listener(t, func(c net.Conn) {
		if !first {
			return
		}
		first = false
		up, err := net.Dial("tcp", n.HostPort())
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			_, _ = io.Copy(up, c)
			up.Close()
		}()
		_, _ = io.Copy(c, up)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := Dial(ctx, at, Options{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(fmt.Sprint(err), "does not take a connection") {
		t.Error(err)
	}
}

// Whatever is typed as an address is taken or refused as one.
func FuzzParse(f *testing.F) {
	id := strings.Repeat("ab", 20)
	for _, at := range []string{"", ":", "@", "/", "a:1", "[::1]:26656", id + "@host:26656", "mconn://" + id + "@[::1]:1/x", "/ip4/1.2.3.4/tcp/26656", "libp2p://" + id + "@h:1",
		"/dns/h" + strings.Repeat("/udp/1", 340), strings.Repeat("\x00", 100_000), strings.Repeat("\x00", 4000) + ":1", "h:" + strings.Repeat("9", 100_000), id + "@" + strings.Repeat("a.", 50_000)} {
		f.Add(at)
	}
	f.Fuzz(func(t *testing.T, at string) {
		var a p2p.NodeAddress
		var err error
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a, err = parse(at)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4*len(at)+64<<10); got > most {
			t.Fatalf("%d bytes allocated for %d, at most %d are allowed", got, len(at), most)
		}
		if err != nil {
			if !errors.Is(err, ErrAddress) {
				t.Errorf("%q: %v", at, err)
			}
			return
		}
		if a.Protocol != mconn.Protocol || a.Hostname == "" || a.NodeID != "" && a.NodeID.Validate() != nil {
			t.Errorf("%q is %+v", at, a)
		}
	})
}
