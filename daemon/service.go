package daemon

import (
	"context"
	"fmt"
	"os"
	"path"
	"time"

	"connectrpc.com/connect"
	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// dialTimeout bounds a DialPeer call that names no timeout.
const dialTimeout = 30 * time.Second

// Status implements the control API.
func (s *server) Status(context.Context, *connect.Request[controlv1.StatusRequest]) (*connect.Response[controlv1.StatusResponse], error) {
	return connect.NewResponse(statusOf(s.node)), nil
}

// Expose implements the control API.
func (s *server) Expose(ctx context.Context, req *connect.Request[controlv1.ExposeRequest]) (*connect.Response[controlv1.ExposeResponse], error) {
	m := req.Msg
	if m.GetTarget() == "" {
		return nil, toConnect(&usageError{"no target was given; say what to expose, such as a port"})
	}
	name := m.GetName()
	if name == "" {
		name = defaultName(m.GetTarget())
	}
	mount, err := s.node.Expose(ctx, kith.Expose{
		Target: m.GetTarget(), Name: name, Allow: m.GetAllow(), AllowAny: m.GetAllowAny(),
		ReportPeerID: m.GetReportPeerId(), HTTP: m.GetHttp(), AllowCustomProtocol: m.GetAllowCustomProtocol(),
		ProxyProtocol: int(m.GetProxyProtocol()),
		Limits: kith.Limits{
			MaxConnections: int(m.GetLimits().GetMaxConnections()),
			ConnectionRate: m.GetLimits().GetConnectionRate(),
			Bandwidth:      m.GetLimits().GetBandwidth(),
			IdleTimeout:    m.GetLimits().GetIdleTimeout().AsDuration(),
			ConnectTimeout: m.GetLimits().GetConnectTimeout().AsDuration(),
		},
	})
	if err != nil {
		return nil, toConnect(err)
	}
	return connect.NewResponse(&controlv1.ExposeResponse{
		Mount:           mountOf(mount),
		ConnectCommands: connectCommands(s.node.Addrs(), mount.Name),
	}), nil
}

// defaultName is the name of a service that was given none: the target's port,
// or the file name of its socket; "" for a target that cannot be parsed, which
// Expose then refuses.
func defaultName(target string) string {
	m, err := address.TargetMultiaddr(target)
	if err != nil || len(m) == 0 {
		return ""
	}
	return path.Base(m[len(m)-1].Value())
}

// Connect implements the control API.
func (s *server) Connect(ctx context.Context, req *connect.Request[controlv1.ConnectRequest]) (*connect.Response[controlv1.ConnectResponse], error) {
	m := req.Msg
	switch {
	case m.GetPeer() == "":
		return nil, toConnect(&usageError{"no peer was given; say PEER/NAME"})
	case m.GetName() == "":
		return nil, toConnect(&usageError{"no service name was given; say PEER/NAME"})
	}
	mount, err := s.node.Forward(ctx, kith.Forward{
		Peer: m.GetPeer(), Name: m.GetName(), Listen: m.GetListen(),
		Wait: m.GetWait().AsDuration(), Timeout: m.GetTimeout().AsDuration(),
		AllowCustomProtocol: m.GetAllowCustomProtocol(), Check: m.GetCheck(), Anyway: m.GetAnyway(), Once: m.GetOnce(),
	})
	if err != nil {
		return nil, toConnect(err)
	}
	return connect.NewResponse(&controlv1.ConnectResponse{Mount: mountOf(mount), Warning: mount.Warning}), nil
}

// ListMounts implements the control API.
func (s *server) ListMounts(context.Context, *connect.Request[controlv1.ListMountsRequest]) (*connect.Response[controlv1.ListMountsResponse], error) {
	return connect.NewResponse(&controlv1.ListMountsResponse{Mounts: mountsOf(s.node.Mounts())}), nil
}

// CloseMounts implements the control API.
func (s *server) CloseMounts(_ context.Context, req *connect.Request[controlv1.CloseMountsRequest]) (*connect.Response[controlv1.CloseMountsResponse], error) {
	m := req.Msg
	closed, err := s.node.CloseMounts(kith.Match{
		ID: m.GetId(), Name: m.GetName(), ListenAddress: m.GetListenAddress(), TargetAddress: m.GetTargetAddress(),
		All: m.GetAll(), Streams: m.GetStreams(),
	})
	if err != nil {
		return nil, toConnect(err)
	}
	return connect.NewResponse(&controlv1.CloseMountsResponse{Closed: mountsOf(closed)}), nil
}

// ListStreams implements the control API.
func (s *server) ListStreams(context.Context, *connect.Request[controlv1.ListStreamsRequest]) (*connect.Response[controlv1.ListStreamsResponse], error) {
	streams := s.node.Streams()
	res := &controlv1.ListStreamsResponse{Streams: make([]*controlv1.Stream, len(streams))}
	for i, st := range streams {
		res.Streams[i] = streamOf(st)
	}
	return connect.NewResponse(res), nil
}

// CloseStreams implements the control API.
func (s *server) CloseStreams(_ context.Context, req *connect.Request[controlv1.CloseStreamsRequest]) (*connect.Response[controlv1.CloseStreamsResponse], error) {
	m := req.Msg
	switch {
	case m.GetAll() && m.Id != nil:
		return nil, toConnect(&usageError{"both one stream and all streams were named; say which"})
	case m.GetAll():
		return connect.NewResponse(&controlv1.CloseStreamsResponse{Closed: int64(s.node.CloseStreams())}), nil
	case m.Id == nil:
		return nil, toConnect(&usageError{"no stream was named; give its id, or say all"})
	}
	if err := s.node.CloseStream(m.GetId()); err != nil {
		return nil, toConnect(err)
	}
	return connect.NewResponse(&controlv1.CloseStreamsResponse{Closed: 1}), nil
}

// ListPeers implements the control API.
func (s *server) ListPeers(context.Context, *connect.Request[controlv1.ListPeersRequest]) (*connect.Response[controlv1.ListPeersResponse], error) {
	peers := s.node.Peers()
	res := &controlv1.ListPeersResponse{Peers: make([]*controlv1.Peer, len(peers))}
	for i, p := range peers {
		res.Peers[i] = peerOf(p)
	}
	return connect.NewResponse(res), nil
}

// DialPeer implements the control API.
func (s *server) DialPeer(ctx context.Context, req *connect.Request[controlv1.DialPeerRequest]) (*connect.Response[controlv1.DialPeerResponse], error) {
	m := req.Msg
	if m.GetPeer() == "" {
		return nil, toConnect(&usageError{"no peer was given; say whom to dial"})
	}
	timeout := dialTimeout
	if m.GetTimeout() != nil {
		if timeout = m.GetTimeout().AsDuration(); timeout <= 0 {
			return nil, toConnect(&usageError{fmt.Sprintf("the timeout %s is not positive; give one such as 30s", timeout)})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p, err := s.node.Connect(ctx, m.GetPeer())
	if err != nil {
		return nil, toConnect(s.because(err))
	}
	return connect.NewResponse(&controlv1.DialPeerResponse{Peer: peerOf(p)}), nil
}

// Shutdown implements the control API. It answers when the node has closed and
// its home is free again.
func (s *server) Shutdown(context.Context, *connect.Request[controlv1.ShutdownRequest]) (*connect.Response[controlv1.ShutdownResponse], error) {
	s.log.Info("asked to shut down")
	s.askStop()
	<-s.closed
	return connect.NewResponse(&controlv1.ShutdownResponse{}), nil
}

// because puts the node's own end in the place of errors that it caused.
func (s *server) because(err error) error {
	if err != nil && s.calls.Err() != nil {
		return errStopping
	}
	return err
}

// pid is this process, which the status names.
var pid = int64(os.Getpid())
