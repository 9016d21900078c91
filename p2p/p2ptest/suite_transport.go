package p2ptest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/p2p"
)

// What a Transport has to do.
var transportTests = []test{
	{"Endpoints", testEndpoints},
	{"ConnectionEndpoints", testConnectionEndpoints},
	{"AcceptEndsWithClose", testAcceptEndsWithClose},
	{"CloseStopsListening", testCloseStopsListening},
	{"CloseLeavesConnections", testCloseLeavesConnections},
	{"LateDial", testLateDial},
	{"DialNowhere", testDialNowhere},
	{"ManyConnections", testManyConnections},
}

// A transport says which protocols it speaks, and listens at endpoints of these,
// which survive the way through an address and back.
func testEndpoints(b *bench) {
	protocols := b.B.Protocols()
	if len(protocols) == 0 {
		b.Fatal("Protocols is empty")
	}
	for _, p := range slices.Concat(protocols, b.A.Protocols()) {
		if err := p.Validate(); err != nil {
			b.Errorf("protocol %q: %v", p, err)
		}
	}
	es := b.B.Endpoints()
	if len(es) == 0 {
		b.Fatal("the listening side has no endpoint")
	}
	id := b.KeyB.Public().NodeID()
	for _, e := range es {
		if err := e.Validate(); err != nil {
			b.Errorf("endpoint %v: %v", e, err)
			continue
		}
		if !slices.Contains(protocols, e.Protocol) {
			b.Errorf("endpoint %v, but the protocols are %q", e, protocols)
		}
		if len(e.IP) > 0 && e.Port == 0 {
			b.Errorf("endpoint %v does not say which port it is", e)
			continue
		}
		if len(e.IP) == 0 && e.Protocol == address.Memory && e.Path != string(id) {
			continue // of a node whose key is another; its address says so
		}
		a := e.NodeAddress(id)
		parsed, err := address.ParseNodeAddress(a.String())
		if err != nil || parsed != a {
			b.Errorf("endpoint %v as an address, %v, is read back as %v (%v)", e, a, parsed, err)
			continue
		}
		back, err := parsed.Resolve(context.Background())
		if err != nil || !slices.ContainsFunc(back, func(o p2p.Endpoint) bool { return o.String() == e.String() }) {
			b.Errorf("endpoint %v, as an address and back, is %s (%v)", e, within(back), err)
		}
	}
}

// A connection knows its ends; the dialled one is where it was dialled.
func testConnectionEndpoints(b *bench) {
	x, y := b.connect()
	if got := x.RemoteEndpoint(); got.String() != b.Endpoint.String() {
		b.Errorf("the dialler's remote endpoint is %v, it dialled %v", got, b.Endpoint)
	}
	for what, e := range map[string]p2p.Endpoint{
		"the dialler's local": x.LocalEndpoint(), "the dialler's remote": x.RemoteEndpoint(),
		"the listener's local": y.LocalEndpoint(), "the listener's remote": y.RemoteEndpoint(),
	} {
		if err := e.Validate(); err != nil {
			b.Errorf("%s endpoint %v: %v", what, e, err)
		}
		if !slices.Contains(b.A.Protocols(), e.Protocol) {
			b.Errorf("%s endpoint %v is of none of the protocols %q", what, e, b.A.Protocols())
		}
	}
}

// Close makes every Accept return io.EOF, those that wait and those that come.
func testAcceptEndsWithClose(b *bench) {
	var waiting []*task
	for range 3 {
		waiting = append(waiting, b.start("a waiting Accept", func() error {
			c, err := b.B.Accept()
			if err == nil {
				_ = c.Close()
				return errors.New("it returned a connection that nobody dialled")
			}
			return err
		}))
	}
	b.do("Close", b.B.Close)
	for _, t := range waiting {
		if err := t.wait(); !errors.Is(err, io.EOF) {
			b.Errorf("an Accept that waited returns %v after Close, want io.EOF", err)
		}
	}
	late := b.start("Accept after Close", func() error {
		_, err := b.B.Accept()
		return err
	})
	if err := late.wait(); !errors.Is(err, io.EOF) {
		b.Errorf("Accept after Close returns %v, want io.EOF", err)
	}
	b.do("a second Close", func() error {
		_ = b.B.Close()
		return nil
	})
}

// After Close nobody gets in: the dial fails, or what it returns does not shake
// hands.
func testCloseStopsListening(b *bench) {
	b.do("Close", b.B.Close)
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	b.start("Accept on a closed transport", func() error {
		c, err := b.B.Accept()
		if err == nil {
			defer c.Close()
			_, _, err = c.Handshake(ctx, b.info(b.KeyB, "b"), b.KeyB)
		}
		return err
	})
	dial := b.start("a dial to a closed transport", func() error {
		c, err := b.A.Dial(ctx, b.Endpoint)
		if err != nil {
			return err
		}
		defer c.Close()
		_, _, err = c.Handshake(ctx, b.info(b.KeyA, "a"), b.KeyA)
		return err
	})
	if err := dial.wait(); err == nil {
		b.Error("a closed transport still lets peers in")
	}
}

// Closing the transports leaves their connections as they are.
func testCloseLeavesConnections(b *bench) {
	x, y := b.pair()
	b.do("Close of the listener", b.B.Close)
	b.do("Close of the dialler", b.A.Close)
	for i, ends := range [][2]p2p.Connection{{x, y}, {y, x}} {
		want := fill(100, byte(i))
		b.do("SendMessage after the transports closed", func() error { return ends[0].SendMessage(b.Channels[0], want) })
		if m := b.receive(ends[1]); m.channel != b.Channels[0] || string(m.data) != string(want) {
			b.Errorf("received %s on channel %#x", brief(m.data), m.channel)
		}
	}
}

// A dial whose context has ended fails with the context's error and leaves
// nothing behind: a connection that reached the other side is closed there.
func testLateDial(b *bench) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	late := b.start("a dial without time", func() error {
		c, err := b.A.Dial(ctx, b.Endpoint)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if err := late.wait(); !errors.Is(err, context.Canceled) {
		b.Errorf("a dial with a cancelled context returns %v, want the context's error", err)
	}
	// The next connection works, whatever else was accepted before it.
	var good p2p.Connection
	live, stop := context.WithTimeout(context.Background(), b.timeout)
	defer stop()
	dial := b.start("the next dial", func() (err error) {
		if good, err = b.A.Dial(live, b.Endpoint); err != nil {
			return err
		}
		_, _, err = good.Handshake(live, b.info(b.KeyA, "a"), b.KeyA)
		return err
	})
	accept := b.start("Accept and handshake", func() error {
		for range 2 {
			c, err := b.B.Accept()
			if err != nil {
				return err
			}
			_, _, err = c.Handshake(live, b.info(b.KeyB, "b"), b.KeyB)
			defer c.Close()
			if err == nil {
				return nil
			}
		}
		return errors.New("two connections were accepted, and neither lives")
	})
	dial.must()
	accept.must()
	b.open = append(b.open, good)
}

// A dial to where nobody is fails in time.
func testDialNowhere(b *bench) {
	if b.Nowhere.Protocol == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout/2)
	defer cancel()
	dial := b.start("a dial to nowhere", func() error {
		c, err := b.A.Dial(ctx, b.Nowhere)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if err := dial.wait(); err == nil {
		b.Errorf("a dial to %v found somebody", b.Nowhere)
	}
}

// Connections do not mix, whoever dials and accepts them at the same time.
func testManyConnections(b *bench) {
	const many = 16
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	var (
		mu   sync.Mutex // guards open
		open []p2p.Connection
	)
	keep := func(c p2p.Connection) p2p.Connection {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
		return c
	}
	var tasks []*task
	for i := range many {
		tasks = append(tasks, b.start("a dialler", func() error {
			c, err := b.A.Dial(ctx, b.Endpoint)
			if err != nil {
				return err
			}
			if _, _, err := keep(c).Handshake(ctx, b.info(b.KeyA, "a"), b.KeyA); err != nil {
				return err
			}
			if err := c.SendMessage(b.Channels[0], fill(1000+i, byte(i))); err != nil {
				return err
			}
			_, back, err := c.ReceiveMessage()
			if err == nil && string(back) != string(fill(1000+i, byte(i))) {
				err = fmt.Errorf("sent message %d, %s came back", i, brief(back))
			}
			return err
		}), b.start("a listener", func() error {
			c, err := b.B.Accept()
			if err != nil {
				return err
			}
			if _, _, err := keep(c).Handshake(ctx, b.info(b.KeyB, "b"), b.KeyB); err != nil {
				return err
			}
			id, data, err := c.ReceiveMessage()
			if err != nil {
				return err
			}
			return c.SendMessage(id, data)
		}))
	}
	for _, t := range tasks {
		t.must()
	}
	for _, c := range open {
		b.open = append(b.open, c)
	}
}
