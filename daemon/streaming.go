package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	pingInterval = time.Second
	pingTimeout  = 10 * time.Second
)

// Hold implements the control API.
func (s *server) Hold(ctx context.Context, req *connect.Request[controlv1.HoldRequest], out *connect.ServerStream[controlv1.HoldResponse]) error {
	id := req.Msg.GetMountId()
	known := false
	for _, m := range s.node.Mounts() {
		known = known || m.ID == id
	}
	if !known {
		return toConnect(fmt.Errorf("%w: nothing with the id %d is exposed or connected; `kith ls --json` shows the ids", kith.ErrNoSuchMount, id))
	}
	// Hold before telling, so that a client that was told finds its mount gone
	// when it goes, whatever happens between.
	held := make(chan error, 1)
	holding, stop := context.WithCancel(ctx)
	defer stop()
	go func() { held <- s.node.Hold(holding, id) }()
	if err := out.Send(&controlv1.HoldResponse{Held: true}); err != nil {
		stop()
		<-held
		return err
	}
	err := <-held
	switch {
	case s.calls.Err() != nil:
		return toConnect(errStopping)
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return toConnect(err)
	}
	return nil
}

// errNoPong is the cause of a ping's end when an answer is overdue.
var errNoPong = errors.New("no answer in time")

// Ping implements the control API.
func (s *server) Ping(ctx context.Context, req *connect.Request[controlv1.PingRequest], out *connect.ServerStream[controlv1.PingResponse]) error {
	m := req.Msg
	interval, timeout := pingInterval, pingTimeout
	if m.GetInterval() != nil {
		interval = m.GetInterval().AsDuration()
	}
	if m.GetTimeout() != nil {
		timeout = m.GetTimeout().AsDuration()
	}
	switch {
	case m.GetPeer() == "":
		return toConnect(&usageError{"no peer was given; say whom to ping"})
	case m.GetCount() < 0:
		return toConnect(&usageError{fmt.Sprintf("the count %d is negative; give how many round trips, or 0 for no end", m.GetCount())})
	case interval < 10*time.Millisecond:
		return toConnect(&usageError{fmt.Sprintf("the interval %s is shorter than 10ms; give a longer one", interval)})
	case timeout <= 0:
		return toConnect(&usageError{fmt.Sprintf("the timeout %s is not positive; give one such as 10s", timeout)})
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The answer to each round trip is due one interval and one timeout after
	// the answer before it.
	overdue := time.AfterFunc(timeout, func() { cancel(errNoPong) })
	defer overdue.Stop()

	sent := int32(0)
	var last error
	for pong, err := range s.node.Ping(ctx, m.GetPeer(), interval) {
		if ctx.Err() != nil {
			last = err
			break
		}
		if last = err; err != nil && sent == 0 {
			return toConnect(s.because(err))
		}
		overdue.Reset(interval + timeout)
		res := &controlv1.PingResponse{
			Seq: int32(pong.Seq), Rtt: durationpb.New(pong.RTT), Address: pong.Address, Relayed: pong.Relayed,
		}
		if err != nil {
			res.Seq, res.Rtt, res.Error = max(res.Seq, sent+1), nil, err.Error()
		}
		if err := out.Send(res); err != nil {
			return err
		}
		if sent++; m.GetCount() > 0 && sent >= m.GetCount() {
			return nil
		}
	}
	switch {
	case s.calls.Err() != nil:
		return toConnect(errStopping)
	case errors.Is(context.Cause(ctx), errNoPong):
		return connect.NewError(connect.CodeDeadlineExceeded,
			fmt.Errorf("no answer from %s within %s; check that it runs and that its address is current", m.GetPeer(), timeout))
	case ctx.Err() != nil:
		return nil
	case last != nil:
		return toConnect(last)
	}
	return nil
}
