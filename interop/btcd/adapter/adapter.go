// Package connmgr stands where btcd's own package of this name stands while
// btcd's tests of it run: the names that those tests use, in terms of what
// kith's connmgr exports. The exported ones are kith's; the unexported ones are
// windows on what kith's Inspect tells.
package connmgr

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	kith "github.com/kith-p2p/kith/connmgr"
)

// The same under the same name.
type (
	Config     = kith.Config
	ConnReq    = kith.ConnReq
	ConnState  = kith.ConnState
	ConnOption = kith.ConnOption
)

// The states, and what btcd's tests compare with.
const (
	ConnPending      = kith.ConnPending
	ConnFailing      = kith.ConnFailing
	ConnCanceled     = kith.ConnCanceled
	ConnEstablished  = kith.ConnEstablished
	ConnDisconnected = kith.ConnDisconnected

	Lifetime = 1800
)

// maxRetryDuration is set by the tests before they begin.
var maxRetryDuration = 5 * time.Minute

// ConnManager is kith's, with fields that the tests look at.
type ConnManager struct {
	*kith.ConnManager

	stop            int32         // written by one test, to no effect here
	connReqCount    uint64        // the last number given to a request
	inboundRejected uint64        // as of the last look
	inboundSlots    chan struct{} // as many as limitInbound let in
}

// New passes the package's maxRetryDuration on.
func New(cfg *Config) (*ConnManager, error) {
	own := *cfg
	own.MaxRetryDuration = maxRetryDuration
	cm := &ConnManager{inboundSlots: make(chan struct{}, 1024)}
	own.Listeners = nil
	for _, l := range cfg.Listeners {
		own.Listeners = append(own.Listeners, watched{l, cm})
	}
	var err error
	cm.ConnManager, err = kith.New(&own)
	return cm, err
}

// Connect keeps connReqCount.
func (cm *ConnManager) Connect(c *ConnReq) {
	cm.ConnManager.Connect(c)
	for id := c.ID(); ; {
		last := atomic.LoadUint64(&cm.connReqCount)
		if last >= id || atomic.CompareAndSwapUint64(&cm.connReqCount, last, id) {
			return
		}
	}
}

// look keeps inboundRejected.
func (cm *ConnManager) look() {
	atomic.StoreUint64(&cm.inboundRejected, cm.Inspect().InboundRejected)
}

// limitInbound is Admit, and keeps inboundSlots.
func (cm *ConnManager) limitInbound(conn net.Conn) (net.Conn, bool) {
	defer cm.look()
	c, ok := cm.Admit(conn)
	if !ok {
		return nil, false
	}
	cm.inboundSlots <- struct{}{}
	return &slot{Conn: c, leave: sync.OnceFunc(func() { <-cm.inboundSlots })}, true
}

// slot gives up its place in inboundSlots when it is closed.
type slot struct {
	net.Conn
	leave func()
}

func (s *slot) Close() error {
	defer s.leave()
	return s.Conn.Close()
}

// watched looks after each connection that was accepted, whatever became of it.
type watched struct {
	net.Listener
	cm *ConnManager
}

func (w watched) Accept() (net.Conn, error) {
	w.cm.look()
	return w.Listener.Accept()
}

// DynamicBanScore is kith's, under the names that the tests use.
type DynamicBanScore struct{ kith.DynamicBanScore }

func (s *DynamicBanScore) increase(persistent, transient uint32, t time.Time) uint32 {
	return s.IncreaseAt(persistent, transient, t)
}

func (s *DynamicBanScore) int(t time.Time) uint32 { return s.IntAt(t) }
