package peers

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"
)

// States counts the gRPC channels of a book by connectivity state.
type States struct {
	Idle             int // connects with the next call
	Connecting       int
	Ready            int
	TransientFailure int // failed, and gRPC tries again by itself
	Shutdown         int // closed by somebody; removed at the next Tick
}

func (b *book) Job(ctx context.Context) {
	tick := time.NewTicker(b.Tick)
	defer tick.Stop()
	var metrics <-chan time.Time
	if b.Metrics != nil {
		t := time.NewTicker(b.MetricsTimeout)
		defer t.Stop()
		metrics = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.down:
			return
		case <-tick.C:
			b.sweep()
		case <-metrics:
			b.Metrics(b.states())
		}
	}
}

// all lists the channels.
func (b *book) all() []*channel {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.channels))
}

func (b *book) states() States {
	var s States
	for _, c := range b.all() {
		switch c.state() {
		case connectivity.Idle:
			s.Idle++
		case connectivity.Connecting:
			s.Connecting++
		case connectivity.Ready:
			s.Ready++
		case connectivity.TransientFailure:
			s.TransientFailure++
		case connectivity.Shutdown:
			s.Shutdown++
		}
	}
	return s
}

// sweep removes what is closed, and the channels that are idle for too long. No lock is held while a connection is
// asked or closed.
func (b *book) sweep() {
	b.mu.Lock()
	conns := maps.Clone(b.conns)
	b.mu.Unlock()
	for key, c := range conns {
		if c.Closed() {
			b.forget(key, c)
		}
	}
	for _, c := range b.all() {
		if !c.retire(b.Idle) {
			continue
		}
		b.drop(c)
		b.Logger.Debug("gRPC channel removed", "addr", c.address())
		_ = c.close()
	}
}
