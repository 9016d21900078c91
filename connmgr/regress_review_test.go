package connmgr

import (
	"context"
	"errors"
	"net"
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
