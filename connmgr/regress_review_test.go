package connmgr

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What a review found, each as it showed.

// Connections that a user closes after Stop are not announced either.
func TestRegressionCloseAfterStopIsQuiet(t *testing.T) {
	for range 20 {
		var d dialer
		up := make(chan net.Conn, 1)
		cm := newManager(t, Config{
			Dial: d.dial, OnConnection: func(_ *ConnReq, c net.Conn) { up <- c },
			OnDisconnection: func(r *ConnReq) { t.Errorf("%v disconnected", r) },
		})
		cm.Connect(&ConnReq{Addr: peerName("alice"), Permanent: true})
		cm.Start()
		c := <-up
		cm.Stop()
		c.Close()
		stopped(t, cm, &d)
	}
}

// A nil pointer in the interface is no connection.
func TestRegressionAdmitOfATypedNil(t *testing.T) {
	var d dialer
	cm := newManager(t, Config{Dial: d.dial})
	cm.Start()
	if c, ok := cm.Admit((*net.TCPConn)(nil)); c != nil || ok {
		t.Error(c, ok)
	}
	cm.Stop()
	stopped(t, cm, &d)
}

// The network changed while a request was being dialled: its failures of the
// past do not count any more.
func TestRegressionResetBackoffWhileDialling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{}, 100)
		cm := newManager(t, Config{
			RetryDuration: time.Second,
			DialContext: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
				select {
				case <-release:
					return nil, errors.New("no route")
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			},
		})
		cm.Connect(&ConnReq{Addr: peerName("alice"), Permanent: true})
		cm.Start()
		for range 9 {
			release <- struct{}{}
			time.Sleep(time.Minute)
		}
		cm.ResetBackoff()
		release <- struct{}{}
		synctest.Wait()
		if rs := cm.Inspect().Requests; len(rs) != 1 || rs[0].Retries != 1 {
			t.Errorf("%+v", rs)
		}
		cm.Stop()
		cm.Wait()
	})
}

// A failed handshake gives its place back, and the policy hears of it.
func TestRegressionFailedHandshakeWakesTheDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		inbound := make(chan net.Conn, 1)
		inbound <- ours
		stop, dialled := make(chan struct{}), make(chan struct{})
		var e *Engine[string, net.Conn]
		policy := &onePolicy{}
		e, err := NewEngine(EngineConfig[string, net.Conn]{
			Policy: policy, Limits: Limits{Total: 1}, Connected: func(*Conn[string, net.Conn]) {},
			Accept: []func() (net.Conn, error){func() (net.Conn, error) {
				select {
				case c := <-inbound:
					return c, nil
				case <-stop:
					return nil, net.ErrClosed
				}
			}},
			Stop: func() { close(stop) },
			Dial: func(context.Context, string) (net.Conn, error) {
				close(dialled)
				c, _ := net.Pipe()
				return c, nil
			},
			Establish: func(ctx context.Context, _ net.Conn, at EstablishInfo[string]) error {
				if at.Direction == Outbound {
					return nil
				}
				policy.due.Store(true) // while the inbound one has the only place
				e.Wake()
				time.Sleep(time.Second)
				return errors.New("no handshake")
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = e.Run(ctx)
		}()
		select {
		case <-dialled:
		case <-time.After(time.Minute):
			t.Error("the free place was not used")
		}
		cancel()
		<-ended
	})
}

// A victim whose Close is slow: the newcomers that wait for its place are
// pending, and no more sockets are open than the limits say.
func TestRegressionPendingCapWithEvictAndNoHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places, pending = 16, 8
		var open, most atomic.Int32
		l := &endless{stop: make(chan struct{}), slow: make(chan struct{}), open: &open, most: &most}
		var d dialer
		cm := newManager(t, Config{
			Dial: d.dial, Listeners: []net.Listener{l}, OnAccept: func(net.Conn) {},
			Limits: Limits{Inbound: Share{Total: places}, Evict: true, Pending: pending},
		})
		cm.Start()
		time.Sleep(time.Minute)
		s := cm.Inspect()
		if n := most.Load(); n > places+pending+1 { // one is accepted before it can be refused
			t.Errorf("%d sockets were open: %d inbound, %d pending", n, s.Inbound, s.Pending)
		}
		if s.Inbound < places || l.accepted.Load() < 2*places {
			t.Errorf("%d inbound of %d accepted: nothing was tested", s.Inbound, l.accepted.Load())
		}
		close(l.slow)
		cm.Stop()
		cm.Wait()
	})
}

// endless accepts a connection a millisecond, whose Close waits for slow if it
// had a place.
type endless struct {
	stop, slow chan struct{}
	once       sync.Once
	accepted   atomic.Int32
	open, most *atomic.Int32
}

func (l *endless) Addr() net.Addr { return peerName("endless") }
func (l *endless) Close() error   { l.once.Do(func() { close(l.stop) }); return nil }

func (l *endless) Accept() (net.Conn, error) {
	select {
	case <-l.stop:
		return nil, net.ErrClosed
	case <-time.After(time.Millisecond):
	}
	ours, theirs := net.Pipe()
	n := l.accepted.Add(1)
	open := l.open.Add(1)
	l.most.Store(max(l.most.Load(), open))
	return &lingering{Conn: ours, theirs: theirs, l: l, late: n <= 16}, nil
}

type lingering struct {
	net.Conn
	theirs net.Conn
	l      *endless
	late   bool
}

func (c *lingering) Close() error {
	if c.late {
		<-c.l.slow
	}
	c.l.open.Add(-1)
	return errors.Join(c.Conn.Close(), c.theirs.Close())
}

// Automatic dials that hang leave dials for those that somebody asked for.
func TestRegressionHangingAutomaticDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		up := make(chan string, 10)
		var asked atomic.Int32
		cm := newManager(t, Config{
			TargetOutbound: 100, MaxDials: 8, DialTimeout: time.Second,
			GetNewAddress: func() (net.Addr, error) {
				asked.Add(1)
				<-hang
				return nil, errors.New("no address")
			},
			DialContext: func(context.Context, net.Addr) (net.Conn, error) {
				c, _ := net.Pipe()
				return c, nil
			},
			OnConnection: func(r *ConnReq, _ net.Conn) { up <- r.Addr.String() },
		})
		cm.Start()
		time.Sleep(time.Hour) // every dial's time is up, but none returns
		if n := asked.Load(); n != 6 {
			t.Errorf("%d automatic dials hang, want 6 of 8", n)
		}
		cm.Connect(&ConnReq{Addr: peerName("alice"), Permanent: true})
		cm.Connect(&ConnReq{Addr: peerName("bob")})
		for range 2 {
			select {
			case <-up:
			case <-time.After(time.Minute):
				t.Fatal("a request waits for automatic dials")
			}
		}
		close(hang)
		cm.Stop()
		cm.Wait()
	})
}

// Automatic connections leave places for those that somebody asked for, and
// take them when nobody does.
func TestRegressionAutomaticConnectionsLeavePlaces(t *testing.T) {
	w := newTableWorld(t, tableConfig{target: 8, places: 8})
	requests := []*ConnReq{{Addr: peerName("alice"), Permanent: true}, {Addr: peerName("bob")}}
	for _, r := range requests {
		w.table.connect(r)
	}
	w.settle()
	for want, kind := range map[int]Kind{6: KindAutomatic, 1: KindPermanent} {
		if n := w.count(kind, ConnEstablished); n != want {
			t.Errorf("%d %v connections, want %d", n, kind, want)
		}
	}
	w.table.remove(requests[1].ID(), w.now)
	w.settle()
	if n := w.count(KindAutomatic, ConnEstablished); n != 7 {
		t.Errorf("%d automatic connections beside one request, want 7", n)
	}
}

// onePolicy wants one dial, once it is due.
type onePolicy struct {
	due  atomic.Bool
	done atomic.Bool
}

func (p *onePolicy) Next(time.Time) (d Dial[string], wake time.Time, ok bool) {
	if !p.due.Load() || !p.done.CompareAndSwap(false, true) {
		return d, wake, false
	}
	return Dial[string]{Target: "alice", Kind: KindManual}, wake, true
}

func (p *onePolicy) Ended(_ Dial[string], o Outcome) {
	if !o.Established && errors.Is(o.Cause, ErrRefused) {
		p.done.Store(false)
	}
}

func (p *onePolicy) Victim([]Candidate) (uint64, bool) { return 0, false }
