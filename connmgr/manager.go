package connmgr

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// ConnManager keeps outbound connections up and accepts inbound ones: an Engine
// over net.Conn with the request table as its policy, under the method names
// of btcd's connection manager. All methods are safe for concurrent use, in any
// phase and from callbacks, but for Wait and Run, which wait for callbacks.
// None of them dials; after Stop they return at once and change nothing.
type ConnManager struct {
	cfg            Config
	table          *requests
	engine         *Engine[target, net.Conn]
	ctx            context.Context // ends with Stop
	cancel         context.CancelFunc
	start, stop    sync.Once
	started        atomic.Bool
	done           chan struct{} // closed when the engine has run
	closeListeners func()        // once
}

// New makes a manager that has not started. It refuses a configuration without
// a way to dial (ErrDialNil), with a nil listener, or with limits that cannot
// be right (*ConfigError).
func New(cfg *Config) (*ConnManager, error) {
	if cfg == nil {
		return nil, ErrDialNil
	}
	cm := &ConnManager{cfg: *cfg, done: make(chan struct{})}
	ec, err := cm.cfg.engine()
	if err != nil {
		return nil, err
	}
	cm.closeListeners = sync.OnceFunc(cm.cfg.closeListeners)
	ec.Stop, ec.Connected, ec.Disconnected = cm.closeListeners, cm.connected, cm.disconnected
	if cm.engine, err = NewEngine(ec); err != nil {
		return nil, err
	}
	cm.table = ec.Policy.(*requests)
	cm.table.engine = cm.engine
	cm.ctx, cm.cancel = context.WithCancel(context.Background())
	return cm, nil
}

// Start begins to accept and to dial, and returns at once. Only the first call
// counts, and none after Stop.
func (cm *ConnManager) Start() {
	cm.start.Do(func() {
		cm.started.Store(true)
		go func() {
			defer close(cm.done)
			_ = cm.engine.Run(cm.ctx) // fails a second time only
		}()
	})
}

// Stop closes the listeners, cancels all dials and begins to close all
// connections, without announcing their ends. It does not wait: see Wait.
func (cm *ConnManager) Stop() {
	cm.stop.Do(func() {
		cm.table.stop()
		cm.cancel()
		cm.closeListeners()
		cm.Start() // closes what Admit let in before any Start
	})
}

// Wait returns when, after Stop, every dial, connection and callback is gone;
// at once if Start was never called.
func (cm *ConnManager) Wait() {
	if cm.started.Load() {
		<-cm.done
	}
}

// Run is Start, and when ctx is over Stop and Wait. It returns nil, also after
// a Stop from elsewhere, and ErrStopped if that came before Run.
func (cm *ConnManager) Run(ctx context.Context) error {
	if cm.ctx.Err() != nil {
		return ErrStopped
	}
	cm.Start()
	select {
	case <-ctx.Done():
	case <-cm.ctx.Done():
	}
	cm.Stop()
	cm.Wait()
	return nil
}

// Connect gives the request a number and has it dialled, after Start at the
// earliest; it does not wait for that. A request that is listed already is
// dialled now, without its pause; a cancelled one, and one of another manager,
// is left alone. One without an address fails, and stays listed as failing.
func (cm *ConnManager) Connect(c *ConnReq) { cm.table.connect(c) }

// NewConnReq asks for one automatic connection more than TargetOutbound, until
// one ends. Without GetNewAddress it does nothing.
func (cm *ConnManager) NewConnReq() { cm.table.more() }

// Disconnect closes the connection of a request, which is dialled again if it is
// permanent, and replaced if it is automatic. A request that is not connected is
// cancelled, unless its connection was closed before and this is the first word
// about it; one that was dialled again by then loses that new connection.
func (cm *ConnManager) Disconnect(id uint64, opts ...ConnOption) { cm.table.disconnect(id, opts) }

// Remove forgets a request, whatever it is doing: its dial is cancelled, its
// connection closed, and it is not dialled again. An unknown id is ignored.
func (cm *ConnManager) Remove(id uint64) { cm.table.remove(id) }

// DialNow ends the pause of a request that waits for its next dial, or the rest
// of one that failed. It reports whether the id is listed.
func (cm *ConnManager) DialNow(id uint64) bool { return cm.table.dialNow(id) }

// ResetBackoff forgets all failures and ends all pauses: the network changed.
func (cm *ConnManager) ResetBackoff() { cm.table.resetBackoff() }

// Admit counts a connection that was accepted elsewhere as an inbound one, and
// returns it wrapped: its Close gives the place back, once. If it is refused it
// is closed. OnAccept is not called for it. It works before Start too.
func (cm *ConnManager) Admit(conn net.Conn) (net.Conn, bool) { return admit(cm.ctx, cm.engine, conn) }

// Inspect returns what there is at one moment. It does not block.
func (cm *ConnManager) Inspect() Snapshot { return cm.table.inspect(cm.engine.Inspect()) }

func (cm *ConnManager) connected(c *Conn[target, net.Conn]) {
	req := c.Dial().Target.req
	if req == nil && cm.cfg.OnAccept != nil && !isAdmitted(c.Raw()) {
		cm.cfg.OnAccept(&managedConn{c.Raw(), c.Close})
	} else if req != nil && cm.cfg.OnConnection != nil {
		cm.cfg.OnConnection(req, &managedConn{c.Raw(), c.Close})
	}
	if c.Kind() == KindFeeler {
		c.Close()
	}
}

func (cm *ConnManager) disconnected(c *Conn[target, net.Conn], cause error) {
	req := c.Dial().Target.req
	if req != nil && cm.cfg.OnDisconnection != nil && !errors.Is(cause, ErrStopped) && cm.ctx.Err() == nil {
		cm.cfg.OnDisconnection(req)
	}
}
