package p2ptest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
)

// Harness is what one test of the suite runs on. A and B are required; the zero
// value of each other field is its default.
type Harness struct {
	// A dials and B listens. The suite closes both.
	A, B p2p.Transport
	// KeyA and KeyB are the keys of the two nodes, for transports that are made with
	// one. Default: new ones.
	KeyA, KeyB p2p.PrivKey
	// Endpoint is where A reaches B. Default: B's first.
	Endpoint p2p.Endpoint
	// Nowhere is an endpoint at which A finds nobody. Default: not tested.
	Nowhere p2p.Endpoint
	// Channels are at least three channels that the transport carries. Default 1 to 3.
	Channels []p2p.ChannelID
	// MaxMessage is the longest message that it carries, in bytes; at least 64 KiB.
	// Default p2p.DefaultMaxMessage.
	MaxMessage int
}

// Suite is TestTransport with settings.
type Suite struct {
	// New makes what one test runs on. Required.
	New func(testing.TB) Harness
	// Bubble runs each test in a bubble of testing/synctest, for transports that do
	// no I/O. New is called within it.
	Bubble bool
	// Timeout is how long a test waits for one thing to happen. Default 30 s.
	Timeout time.Duration
}

// TestTransport runs the conformance suite, each test on a pair of transports that
// newHarness makes.
func TestTransport(t *testing.T, newHarness func(testing.TB) Harness) {
	t.Helper()
	Suite{New: newHarness}.Run(t)
}

// Run runs the suite, one sub-test for each test of it.
func (s Suite) Run(t *testing.T) {
	t.Helper()
	for _, test := range conformance {
		t.Run(test.name, func(t *testing.T) {
			if !s.Bubble {
				s.run(t, test)
				return
			}
			synctest.Test(t, func(t *testing.T) { s.run(t, test) })
		})
	}
}

// test is one of the suite's.
type test struct {
	name string
	run  func(*bench)
}

// conformance is the suite.
var conformance = slices.Concat(transportTests, handshakeTests, messageTests, closeTests)

// run runs one test. It counts goroutines around it: those that New needs for
// both transports are in the first count only if New started them before.
func (s Suite) run(tb testing.TB, test test) {
	tb.Helper()
	before := runtime.NumGoroutine()
	b := &bench{TB: tb, Harness: s.New(tb), timeout: cmp.Or(s.Timeout, 30*time.Second)}
	if b.A == nil || b.B == nil {
		tb.Fatal("p2ptest: a Harness needs A and B")
	}
	if b.Endpoint.Protocol == "" {
		es := b.B.Endpoints()
		if len(es) == 0 {
			tb.Fatal("p2ptest: Harness.B listens nowhere")
		}
		b.Endpoint = es[0]
	}
	if len(b.Channels) == 0 {
		b.Channels = []p2p.ChannelID{1, 2, 3}
	}
	b.MaxMessage = cmp.Or(b.MaxMessage, p2p.DefaultMaxMessage)
	for _, key := range []*p2p.PrivKey{&b.KeyA, &b.KeyB} {
		if key.IsZero() {
			*key = b.newKey()
		}
	}
	defer func() {
		if err := b.closeAll(); err != nil {
			tb.Errorf("closing what was left: %v", err)
		}
		if !tb.Failed() {
			checkGoroutines(tb, before, b.timeout)
		}
	}()
	test.run(b)
}

// checkGoroutines waits until no more goroutines run than before.
func checkGoroutines(tb testing.TB, before int, timeout time.Duration) {
	tb.Helper()
	for end := time.Now().Add(timeout); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Errorf("%d goroutines are left, %d were there before:\n%s", runtime.NumGoroutine(), before, stacks())
			return
		}
	}
}

func stacks() []byte {
	b := make([]byte, 1<<20)
	return b[:runtime.Stack(b, true)]
}

// bench is what a test works with.
type bench struct {
	testing.TB
	Harness
	timeout time.Duration
	open    []interface{ Close() error } // closed at the end, last first
}

func (b *bench) newKey() p2p.PrivKey {
	b.Helper()
	key, err := identity.Generate()
	if err != nil {
		b.Fatal(err)
	}
	return key
}

// info is what a node says of itself.
func (b *bench) info(key p2p.PrivKey, moniker string) p2p.NodeInfo {
	return p2p.NodeInfo{
		ProtocolVersion: p2p.ProtocolVersion{P2P: 9, Block: 11, App: 1}, NodeID: key.Public().NodeID(), ListenAddr: "tcp://127.0.0.1:26656",
		Network: "conformance", Version: "1.0", Moniker: moniker, Channels: slices.Clone(b.Channels), Other: p2p.NodeInfoOther{TxIndex: "off"},
	}
}

func (b *bench) closeAll() error {
	var faults []error
	for _, c := range slices.Backward(append([]interface{ Close() error }{b.A, b.B}, b.open...)) {
		done := make(chan error, 1)
		go func() { done <- c.Close() }()
		select {
		case err := <-done:
			faults = append(faults, err)
		case <-time.After(b.timeout):
			return fmt.Errorf("the Close of a %T blocks", c)
		}
	}
	return errors.Join(faults...)
}

// task is something that runs beside the test.
type task struct {
	b    *bench
	what string
	done chan struct{}
	err  error
}

// start runs f beside the test. Wait for it with task.wait.
func (b *bench) start(what string, f func() error) *task {
	t := &task{b: b, what: what, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		t.err = f()
	}()
	return t
}

// wait waits for the end and returns the error. A task that does not end fails
// the test.
func (t *task) wait() error {
	t.b.Helper()
	timer := time.NewTimer(t.b.timeout)
	defer timer.Stop()
	select {
	case <-t.done:
		return t.err
	case <-timer.C:
		t.b.Fatalf("%s: still not done after %v", t.what, t.b.timeout)
		return nil
	}
}

// must fails the test if the task fails.
func (t *task) must() {
	t.b.Helper()
	if err := t.wait(); err != nil {
		t.b.Fatalf("%s: %v", t.what, err)
	}
}

// do is start and must.
func (b *bench) do(what string, f func() error) {
	b.Helper()
	b.start(what, f).must()
}

// connect makes a connection: A's end and B's.
func (b *bench) connect() (p2p.Connection, p2p.Connection) {
	b.Helper()
	var dialled, accepted p2p.Connection
	accept := b.start("Accept", func() (err error) {
		accepted, err = b.B.Accept()
		return err
	})
	dial := b.start("Dial", func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
		defer cancel()
		dialled, err = b.A.Dial(ctx, b.Endpoint)
		return err
	})
	dial.must()
	b.open = append(b.open, dialled)
	accept.must()
	b.open = append(b.open, accepted)
	return dialled, accepted
}

// peer is what a handshake gives.
type peer struct {
	info p2p.NodeInfo
	key  p2p.PubKey
}

// shake begins a handshake.
func (b *bench) shake(ctx context.Context, c p2p.Connection, info p2p.NodeInfo, key p2p.PrivKey) (*task, *peer) {
	p := &peer{}
	return b.start("handshake of "+info.Moniker, func() (err error) {
		p.info, p.key, err = c.Handshake(ctx, info, key)
		return err
	}), p
}

// pair makes a connection and shakes hands.
func (b *bench) pair() (p2p.Connection, p2p.Connection) {
	b.Helper()
	x, y := b.connect()
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	one, _ := b.shake(ctx, x, b.info(b.KeyA, "a"), b.KeyA)
	two, _ := b.shake(ctx, y, b.info(b.KeyB, "b"), b.KeyB)
	one.must()
	two.must()
	return x, y
}

// message is one that was received.
type message struct {
	channel p2p.ChannelID
	data    []byte
}

// receive waits for the next message.
func (b *bench) receive(c p2p.Connection) message {
	b.Helper()
	var m message
	b.do("ReceiveMessage", func() (err error) {
		m.channel, m.data, err = c.ReceiveMessage()
		return err
	})
	return m
}

// fill is the content of a message that can be told from others.
func fill(n int, seed byte) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i) ^ byte(i>>8) ^ seed
	}
	return data
}

// brief is a short description of bytes.
func brief(data []byte) string {
	if len(data) <= 16 {
		return fmt.Sprintf("%x", data)
	}
	return fmt.Sprintf("%d bytes beginning with %x", len(data), data[:8])
}

// within names the endpoints in a list.
func within(es []p2p.Endpoint) string {
	var names []string
	for _, e := range es {
		names = append(names, e.String())
	}
	return strings.Join(names, ", ")
}
