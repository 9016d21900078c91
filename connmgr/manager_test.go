package connmgr

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipeConn is one end of a pipe, and knows when it was closed.
type pipeConn struct {
	net.Conn
	remote net.Addr
	closed atomic.Int32
}

func newPipe(remote net.Addr) *pipeConn {
	ours, _ := net.Pipe()
	return &pipeConn{Conn: ours, remote: remote}
}

func (c *pipeConn) RemoteAddr() net.Addr { return c.remote }

func (c *pipeConn) Close() error {
	c.closed.Add(1)
	return c.Conn.Close()
}

// dialer counts and remembers what it dialled.
type dialer struct {
	mu    sync.Mutex
	conns []*pipeConn
}

func (d *dialer) dial(addr net.Addr) (net.Conn, error) {
	c := newPipe(addr)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns = append(d.conns, c)
	return c, nil
}

func (d *dialer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// open is how many are not closed; some closed twice is an error.
func (d *dialer) open(t *testing.T) int {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, c := range d.conns {
		switch c.closed.Load() {
		case 0:
			n++
		case 1:
		default:
			t.Errorf("the connection to %v was closed %d times", c.remote, c.closed.Load())
		}
	}
	return n
}

// addresses makes a source of ever new ones.
func addresses() func() (net.Addr, error) {
	var n atomic.Int64
	return func() (net.Addr, error) { return peerName(fmt.Sprint("node", n.Add(1))), nil }
}

func newManager(t *testing.T, cfg Config) *ConnManager {
	t.Helper()
	cm, err := New(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cm
}

// stopped stops a manager and waits; nothing may be left.
func stopped(t *testing.T, cm *ConnManager, d *dialer) {
	t.Helper()
	cm.Stop()
	cm.Wait()
	if d != nil {
		if n := d.open(t); n != 0 {
			t.Errorf("%d connections open after Stop and Wait", n)
		}
	}
	if s := cm.Inspect(); len(s.Requests) != 0 || len(s.Connections) != 0 || len(s.Dials) != 0 || s.InboundActive != 0 {
		t.Errorf("after Stop and Wait: %+v", s)
	}
}

// checkFace says what is wrong with the source of the face: it is an adapter,
// short and without dialling or retrying.
func checkFace(src string) (faults []string) {
	if n := strings.Count(src, "\n"); n > 150 {
		faults = append(faults, fmt.Sprintf("%d lines, at most 150", n))
	}
	f, err := parser.ParseFile(token.NewFileSet(), "manager.go", src, 0)
	if err != nil {
		return append(faults, err.Error())
	}
	for _, i := range f.Imports {
		if i.Path.Value == `"time"` {
			faults = append(faults, "imports time: retrying belongs to the table")
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Dial", "DialContext", "GetNewAddress", "RetryDuration"}, sel.Sel.Name) {
			// c.Dial() of a connection is what the policy decided.
			if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "c" {
				faults = append(faults, "uses "+sel.Sel.Name)
			}
		}
		return true
	})
	return faults
}

func TestTheFaceIsAnAdapter(t *testing.T) {
	src, err := os.ReadFile("manager.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range checkFace(string(src)) {
		t.Errorf("manager.go: %s", fault)
	}
	for _, bad := range []string{
		string(src) + strings.Repeat("\n", 150), "package connmgr\nimport \"time\"\n",
		"package connmgr\nfunc f(cm *ConnManager) { cm.cfg.Dial(nil) }\n", "package\n",
	} {
		if len(checkFace(bad)) == 0 {
			t.Errorf("the guard does not see what is wrong with %.60q", bad)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	var d dialer
	for name, c := range map[string]struct {
		cfg  *Config
		want error
	}{
		"no configuration": {nil, ErrDialNil},
		"nil Dial":         {&Config{}, ErrDialNil},
		"a nil listener":   {&Config{Dial: d.dial, Listeners: []net.Listener{nil}}, nil},
		"negative limits":  {&Config{Dial: d.dial, Limits: Limits{Total: -5}}, nil},
		"negative dials":   {&Config{Dial: d.dial, MaxDials: -1}, nil},
	} {
		cm, err := New(c.cfg)
		if err == nil || cm != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v", name, cm, err)
		}
	}
	if _, err := New(&Config{DialContext: func(context.Context, net.Addr) (net.Conn, error) { return nil, nil }}); err != nil {
		t.Errorf("DialContext alone: %v", err)
	}
}

// Zero means 8; a huge one takes what the engine dials at a time, and ends.
func TestTargets(t *testing.T) {
	for target, want := range map[uint32]int{0: 8, 1: 1, math.MaxUint32: 1000} {
		synctest.Test(t, func(t *testing.T) {
			var d dialer
			enough := make(chan struct{})
			cm := newManager(t, Config{TargetOutbound: target, GetNewAddress: addresses(), Dial: func(a net.Addr) (net.Conn, error) {
				if d.count() >= 1000 {
					<-enough
					return nil, errNoAnswer
				}
				return d.dial(a)
			}})
			cm.Start()
			synctest.Wait()
			if n := d.open(t); n < want || n > want+defaultMaxDials {
				t.Errorf("target %d: %d connections, want %d", target, n, want)
			}
			cm.Stop()
			close(enough)
			stopped(t, cm, &d)
		})
	}
}

// Every call, in the phases where there is nothing to do.
func TestCallsBeforeStartAndAfterStop(t *testing.T) {
	calls := map[string]func(cm *ConnManager){
		"Connect":      func(cm *ConnManager) { cm.Connect(&ConnReq{Addr: peerName("late"), Permanent: true}) },
		"Connect nil":  func(cm *ConnManager) { cm.Connect(nil) },
		"NewConnReq":   func(cm *ConnManager) { cm.NewConnReq() },
		"Disconnect":   func(cm *ConnManager) { cm.Disconnect(1); cm.Disconnect(99, WithTriggerReconnect(), nil) },
		"Remove":       func(cm *ConnManager) { cm.Remove(1); cm.Remove(0) },
		"DialNow":      func(cm *ConnManager) { cm.DialNow(1) },
		"ResetBackoff": func(cm *ConnManager) { cm.ResetBackoff() },
		"Inspect":      func(cm *ConnManager) { cm.Inspect() },
		"Admit nil":    func(cm *ConnManager) { cm.Admit(nil) },
		"Stop":         func(cm *ConnManager) { cm.Stop(); cm.Stop() },
		"Wait":         func(cm *ConnManager) { cm.Wait() },
	}
	for name, call := range calls {
		synctest.Test(t, func(t *testing.T) {
			var d dialer
			cfg := Config{Dial: d.dial, GetNewAddress: addresses(), TargetOutbound: 1}
			before := newManager(t, cfg)
			call(before)
			stopped(t, before, &d)

			after := newManager(t, cfg)
			after.Start()
			synctest.Wait()
			stopped(t, after, &d)
			dials := d.count()
			call(after)
			synctest.Wait()
			if d.count() != dials {
				t.Errorf("%s after Stop dialled", name)
			}
			stopped(t, after, &d)

			never := newManager(t, cfg)
			never.Stop()
			call(never)
			never.Start()
			stopped(t, never, &d)
			if d.count() != dials {
				t.Errorf("%s and Start after a Stop without Start dialled", name)
			}
			if err := never.Run(t.Context()); !errors.Is(err, ErrStopped) {
				t.Errorf("Run after Stop: %v", err)
			}
		})
	}
}

func TestConnectAfterStopLeavesTheRequestAlone(t *testing.T) {
	cm := newManager(t, Config{Dial: new(dialer).dial})
	cm.Start()
	cm.Stop()
	req := &ConnReq{Addr: peerName("alice")}
	if cm.Connect(req); req.ID() != 0 || req.State() != ConnPending || req.Kind() != KindManual {
		t.Errorf("id %d, %v, %v", req.ID(), req.State(), req.Kind())
	}
	cm.Wait()
}

// Connecting before the start blocks in btcd, and in dcrd with the lock held.
func TestRegressionAddingBeforeTheStartDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d dialer
		cm := newManager(t, Config{Dial: d.dial})
		var reqs []*ConnReq
		for i := range 20 {
			req := &ConnReq{Addr: peerName(fmt.Sprint("p", i)), Permanent: true}
			reqs = append(reqs, req)
			cm.Connect(req)
			if i%2 == 0 {
				cm.Remove(req.ID())
			}
		}
		cm.Wait() // never started: nothing to wait for
		cm.Start()
		synctest.Wait()
		for i, req := range reqs {
			want := ConnEstablished
			if i%2 == 0 {
				want = ConnCanceled
			}
			if req.State() != want || req.ID() != uint64(i+1) {
				t.Errorf("%v: %v, want %v", req, req.State(), want)
			}
		}
		if d.count() != 10 {
			t.Errorf("%d dials, want 10", d.count())
		}
		stopped(t, cm, &d)
	})
}

// dcrd's Run never returns then: its accept loops have started all the same.
func TestRegressionRunWithListenersAndNilOnAcceptReturns(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cm := newManager(t, Config{Dial: new(dialer).dial, Listeners: []net.Listener{l}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- cm.Run(ctx) }()
	// Nobody accepts: the kernel alone knows of this one.
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}

func TestStopWithoutStartClosesWhatThereIs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cm := newManager(t, Config{Dial: new(dialer).dial, Listeners: []net.Listener{l}, OnAccept: func(net.Conn) {}})
	p := newPipe(peerName("guest"))
	if _, ok := cm.Admit(p); !ok || cm.Inspect().InboundActive != 1 {
		t.Fatal("not admitted")
	}
	cm.Stop()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open after Stop: %v", err)
	}
	cm.Wait()
	if p.closed.Load() != 1 {
		t.Errorf("closed %d times", p.closed.Load())
	}
	late := newPipe(peerName("late"))
	if c, ok := cm.Admit(late); ok || c != nil || late.closed.Load() != 1 {
		t.Errorf("admitted after Stop; closed %d times", late.closed.Load())
	}
}

// countedListener counts its Closes.
type countedListener struct {
	net.Listener
	closes atomic.Int32
}

func (l *countedListener) Close() error {
	l.closes.Add(1)
	return l.Listener.Close()
}

// As in btcd: when Stop returns the ports are free, and of the connections that
// end because of it nobody is told.
func TestStopIsQuietAndClosesTheListenersAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counted := &countedListener{Listener: l}
	var d dialer
	up := make(chan struct{}, 2)
	cm := newManager(t, Config{
		Dial: d.dial, TargetOutbound: 1, GetNewAddress: addresses(), Listeners: []net.Listener{counted}, OnAccept: func(net.Conn) {},
		OnConnection:    func(*ConnReq, net.Conn) { up <- struct{}{} },
		OnDisconnection: func(r *ConnReq) { t.Errorf("%v disconnected", r) },
	})
	cm.Connect(&ConnReq{Addr: peerName("alice"), Permanent: true})
	cm.Start()
	<-up
	<-up
	cm.Stop()
	if n := counted.closes.Load(); n != 1 {
		t.Errorf("the listener was closed %d times when Stop returned", n)
	}
	stopped(t, cm, &d)
	if n := counted.closes.Load(); n != 1 {
		t.Errorf("the listener was closed %d times in all", n)
	}
}

// btcd leaves both open: what was connected, and what is dialled too late.
func TestRegressionNoSocketIsAliveAfterStop(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex
	var all []net.Conn // the server's ends
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
		}
	}()
	before := runtime.NumGoroutine()
	connected, slow, dialling := make(chan struct{}, 3), make(chan struct{}), make(chan struct{}, 1)
	cm := newManager(t, Config{
		TargetOutbound: 3,
		GetNewAddress:  func() (net.Addr, error) { return l.Addr(), nil },
		OnConnection: func(r *ConnReq, _ net.Conn) {
			if r.Kind() == KindAutomatic {
				connected <- struct{}{}
			}
		},
		Dial: func(a net.Addr) (net.Conn, error) {
			if a.Network() == "test" { // comes after Stop, and cannot be cancelled
				dialling <- struct{}{}
				<-slow
				a = l.Addr()
			}
			return net.Dial(a.Network(), a.String())
		},
	})
	cm.Start()
	for range 3 {
		<-connected
	}
	cm.Connect(&ConnReq{Addr: peerName("slow"), Permanent: true})
	<-dialling
	cm.Stop()
	waited := make(chan struct{})
	go func() { cm.Wait(); close(waited) }()
	select {
	case <-waited:
		t.Fatal("Wait returned while a dial was running")
	case <-time.After(20 * time.Millisecond):
	}
	close(slow)
	<-waited
	if s := cm.Inspect(); s.Counters.Late != 1 {
		t.Errorf("%d late connections, want 1", s.Counters.Late)
	}
	// What the server sees: all four are closed.
	deadline := time.Now().Add(30 * time.Second)
	for ended := 0; ended < 4; {
		mu.Lock()
		if len(all) > 0 {
			c := all[0]
			all = all[1:]
			mu.Unlock()
			c.SetReadDeadline(deadline)
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("a connection is open after Stop and Wait")
			}
			c.Close()
			ended++
			continue
		}
		mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatalf("%d of 4 connections came", ended)
		}
		time.Sleep(time.Millisecond)
	}
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("goroutines left:\n%s", buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(time.Millisecond)
	}
}
