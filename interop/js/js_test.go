package js

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/dispatch/gossip"
	"github.com/kith-p2p/kith/rpc"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// bodies are what goes both ways, the empty one and a large one among them.
func bodies() [][]byte {
	large := make([]byte, 1<<20+1)
	_, _ = rand.Read(large)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	return [][]byte{{}, []byte("hello"), every, large}
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

// The peer dials us, over TCP and Noise; each learns who the other is, and both
// ping.
func TestPeerDialsUs(t *testing.T) {
	noLeaks(t)
	n, js := startKith(t), startJS(t)
	if err := n.Server().Start("/interop/echo/1", func(b []byte) ([]byte, error) { return b, nil }); err != nil {
		t.Fatal(err)
	}
	address := n.Addrs()[0]
	var to struct{ Peer, Encryption, Multiplexer string }
	js.do("dial", map[string]any{"address": address}, &to)
	if to.Peer != n.ID().String() || to.Encryption != "/noise" || to.Multiplexer != "/yamux/1.0.0" {
		t.Errorf("%+v", to)
	}
	var is struct {
		Agent, Observed      string
		Protocols, Addresses []string
	}
	js.do("identify", map[string]any{"peer": n.ID().String()}, &is)
	if is.Agent != "kith/interop" {
		t.Errorf("agent %q", is.Agent)
	}
	for _, p := range []string{"/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/meshsub/1.1.0", "/kith/rpc/1.0.0", "/interop/echo/1"} {
		if !slices.Contains(is.Protocols, p) {
			t.Errorf("%s is not among %q", p, is.Protocols)
		}
	}
	for _, a := range n.Addrs() {
		a, _, _ = strings.Cut(a, "/p2p/")
		if !slices.Contains(is.Addresses, a) {
			t.Errorf("%s is not among %q", a, is.Addresses)
		}
	}
	if !strings.HasPrefix(is.Observed, "/ip4/127.0.0.1/tcp/") {
		t.Errorf("we observe it at %q", is.Observed)
	}
	eventually(t, "we identify it", func() error {
		i := slices.IndexFunc(n.Peers(), func(p kith.Peer) bool { return p.ID == js.id })
		if i < 0 {
			return fmt.Errorf("%v is not among the peers", js.id)
		}
		if p := n.Peers()[i]; !p.Connected || p.Direction != "inbound" || !strings.HasPrefix(p.Agent, "js-libp2p/") {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	for range 3 {
		js.do("ping", map[string]any{"address": address}, nil)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for pong, err := range n.Ping(ctx, js.id.String(), 0) {
		if err != nil || pong.RTT <= 0 {
			t.Errorf("%+v, %v", pong, err)
		}
		if pong.Seq > 2 || err != nil {
			break
		}
	}
}

// It calls our methods on the plain wire, and is refused what it may not use.
func TestPeerCallsUs(t *testing.T) {
	noLeaks(t)
	n, js := startKith(t), startJS(t)
	var callers []peer.ID // of whoami, called one at a time
	for method, handler := range map[string]rpc.Handler{
		"/interop/echo/1": func(_ context.Context, r *rpc.Request) (*rpc.Response, error) {
			return &rpc.Response{Body: r.Body}, nil
		},
		"/interop/whoami/1": func(_ context.Context, r *rpc.Request) (*rpc.Response, error) {
			callers = append(callers, r.Peer)
			return &rpc.Response{Body: []byte(r.Peer.String())}, nil
		},
		"/interop/error/1": func(context.Context, *rpc.Request) (*rpc.Response, error) {
			return nil, rpc.Errorf(rpc.CodeNotFound, "there is nothing")
		},
		"/interop/closed/1": func(context.Context, *rpc.Request) (*rpc.Response, error) {
			t.Error("a method that is closed was called")
			return nil, nil
		},
	} {
		if err := n.Server().StartHandler(protocol.ID(method), handler); err != nil {
			t.Fatal(err)
		}
		if method != "/interop/closed/1" {
			if err := n.Allow(method, "*"); err != nil {
				t.Fatal(err)
			}
		}
	}
	address, want := n.Addrs()[0], bodies()
	for _, together := range []bool{false, true} {
		got, err := js.call(address, "/interop/echo/1", together, want...)
		if err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("echo, on one stream %v: %d answers, not what was sent; %v", together, len(got), err)
		}
	}
	got, err := js.call(address, "/interop/whoami/1", false, []byte{})
	if err != nil || len(got) != 1 || string(got[0]) != js.id.String() {
		t.Errorf("whoami: %q, %v", got, err)
	}
	// More streams, one after the other, than may be open at a time.
	many := slices.Repeat([][]byte{[]byte("again")}, 300)
	if got, err := js.call(address, "/interop/echo/1", false, many...); err != nil || !slices.EqualFunc(got, many, bytes.Equal) {
		t.Errorf("%d of 300 calls: %v", len(got), err)
	}
	for _, method := range []string{"/interop/error/1", "/interop/closed/1", "/interop/unknown/1"} {
		if got, err := js.call(address, method, false, []byte("hello")); err == nil {
			t.Errorf("%s was answered %q", method, got)
		}
	}
	// And all is as before.
	if got, err := js.call(address, "/interop/whoami/1", false, []byte{}); err != nil || len(got) != 1 {
		t.Errorf("whoami: %q, %v", got, err)
	}
	if !slices.Equal(callers, []peer.ID{js.id, js.id}) {
		t.Errorf("called by %v", callers)
	}
	stats := n.Server().Stats()
	if want := uint64(2*len(want) + 1 + 300 + 1 + 1 + 1); stats.Calls != want || stats.Refused != 1 || stats.Failed != 1 || stats.Faults != (rpc.Faults{}) {
		t.Errorf("want %d calls: %+v", want, stats)
	}
}

// We call its methods, over the connection that it made and over one of ours.
func TestWeCallThePeer(t *testing.T) {
	noLeaks(t)
	n, dialled, dials := startKith(t), startJS(t), startJS(t)
	if p, err := n.Connect(t.Context(), dialled.addrs[0]); err != nil || p.ID != dialled.id {
		t.Fatalf("connect: %+v, %v", p, err)
	}
	dials.do("dial", map[string]any{"address": n.Addrs()[0]}, nil)
	for _, js := range []*jsPeer{dialled, dials} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for _, body := range append(bodies(), slices.Repeat([][]byte{[]byte("again")}, 100)...) {
			got, err := n.Call(ctx, js.id.String(), "/js/reverse/1", body)
			if err != nil || !bytes.Equal(got, reversed(body)) {
				t.Fatalf("a body of %d bytes: %d bytes, %v", len(body), len(got), err)
			}
		}
		if got, err := n.Call(ctx, js.id.String(), "/js/abort/1", []byte("hello")); rpc.CodeOf(err) != rpc.CodeUnavailable {
			t.Errorf("a method that resets the stream: %q, %v", got, err)
		}
		if got, err := n.Call(ctx, js.id.String(), "/js/unknown/1", []byte("hello")); rpc.CodeOf(err) != rpc.CodeUnimplemented {
			t.Errorf("a method that it does not have: %q, %v", got, err)
		}
		if got, err := n.Call(ctx, js.id.String(), "/js/reverse/1", []byte("hello")); err != nil || string(got) != "olleh" {
			t.Errorf("afterwards: %q, %v", got, err)
		}
	}
	if stats := n.Client().Stats(); stats.Fallbacks < 2 {
		t.Errorf("both speak the plain wire only: %+v", stats)
	}
}

// Two peers and we are in a topic. They are connected to us only, and what one
// publishes gets to the other through us, with its author and its signature: from
// the moment on that we know of its subscription, whether or not it is a neighbour in
// the mesh yet. The longest message there is gets through in every direction.
func TestTopic(t *testing.T) {
	noLeaks(t)
	const topic = "/interop/news/1"
	n := startKith(t)
	ours, err := n.Subscribe(topic, dispatch.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	next, stop := iter.Pull2(ours.Messages(ctx))
	defer stop()
	a, b := startJS(t), startJS(t)
	for _, js := range []*jsPeer{a, b} {
		js.do("dial", map[string]any{"address": n.Addrs()[0]}, nil)
		js.do("subscribe", map[string]any{"topic": topic}, nil)
	}
	for _, js := range []*jsPeer{a, b} {
		eventually(t, "the peer knows that we subscribed", func() error {
			var is struct{ Peers []string }
			js.do("subscribers", map[string]any{"topic": topic}, &is)
			if !slices.Contains(is.Peers, n.ID().String()) {
				return fmt.Errorf("subscribers %q", is.Peers)
			}
			return nil
		})
	}
	if err := n.Topics().WaitPeers(ctx, topic, 2); err != nil {
		t.Fatal(err)
	}

	large, pattern := make([]byte, gossip.DefaultMaxMessage), bytes.Repeat([]byte{0, 0xff}, gossip.DefaultMaxMessage/2)
	_, _ = rand.Read(large)
	for i, data := range [][]byte{[]byte("from kith"), large} {
		if to, err := n.Publish(ctx, topic, data); err != nil || len(to) != 2 {
			t.Errorf("published to %v, %v", to, err)
		}
		for _, js := range []*jsPeer{a, b} {
			if m := js.heard(string(data)); m.Topic != topic || m.Author != n.ID().String() || m.By != m.Author || m.Kind != "signed" {
				t.Errorf("message %d: %s of %s by %s, %s", i, m.Topic, m.Author, m.By, m.Kind)
			}
		}
	}
	for _, c := range []struct {
		from, to *jsPeer
		data     []byte
	}{{a, b, []byte("from JavaScript")}, {b, a, pattern}} {
		var sent struct{ Peers []string }
		c.from.do("publish", map[string]any{"topic": topic, "data": c.data}, &sent)
		if !slices.Equal(sent.Peers, []string{n.ID().String()}) {
			t.Errorf("%v published to %q", c.from.id, sent.Peers)
		}
		if m := c.to.heard(string(c.data)); m.Author != c.from.id.String() || m.By != n.ID().String() || m.Kind != "signed" {
			t.Errorf("of %s by %s, %s", m.Author, m.By, m.Kind)
		}
	}
	got := map[string]peer.ID{} // what we got: our own, and theirs
	for range 4 {
		m, err, ok := next()
		if !ok || err != nil {
			t.Fatalf("%d messages, then %v", len(got), err)
		}
		got[string(m.Message)] = m.AuthorPeer()
		if m.Direct || m.Author == "" {
			t.Errorf("%+v", m)
		}
	}
	for data, author := range map[string]peer.ID{
		"from kith": n.ID(), string(large): n.ID(), "from JavaScript": a.id, string(pattern): b.id,
	} {
		if got[data] != author {
			t.Errorf("%d bytes are of %v, want %v", len(data), got[data], author)
		}
	}
}
