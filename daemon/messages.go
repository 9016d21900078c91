package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// timeoutOf is what a request says, or the default.
func timeoutOf(d interface {
	AsDuration() time.Duration
}, given bool, otherwise time.Duration) (time.Duration, error) {
	if !given {
		return otherwise, nil
	}
	t := d.AsDuration()
	if t <= 0 {
		return 0, &usageError{fmt.Sprintf("the timeout %s is not positive; give one such as 30s", t)}
	}
	return t, nil
}

const findTimeout = 30 * time.Second

// Find implements the control API.
func (s *server) Find(ctx context.Context, req *connect.Request[controlv1.FindRequest]) (*connect.Response[controlv1.FindResponse], error) {
	m := req.Msg
	if m.GetPeer() == "" {
		return nil, toConnect(&usageError{"no peer was given; say whom to find"})
	}
	timeout, err := timeoutOf(m.GetTimeout(), m.GetTimeout() != nil, findTimeout)
	if err != nil {
		return nil, toConnect(err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	id, places, err := s.node.Find(ctx, m.GetPeer())
	if err != nil {
		return nil, toConnect(s.because(err))
	}
	res := &controlv1.FindResponse{PeerId: id.String(), NodeId: nodeIDOf(id)}
	for _, p := range places {
		place := &controlv1.Place{Address: strings.ToValidUTF8(p.Addr.String(), "?"), From: string(p.From), Verified: p.Verified}
		if p.Source.Kind != "" {
			place.Source = p.Source.String()
		}
		res.Places = append(res.Places, place)
	}
	return connect.NewResponse(res), nil
}

// ListBootstrap implements the control API.
func (s *server) ListBootstrap(context.Context, *connect.Request[controlv1.ListBootstrapRequest]) (*connect.Response[controlv1.ListBootstrapResponse], error) {
	res := &controlv1.ListBootstrapResponse{}
	for _, e := range s.node.Bootstrap() {
		res.Entries = append(res.Entries, &controlv1.BootstrapEntry{Line: e.Line, Configured: e.Configured})
	}
	return connect.NewResponse(res), nil
}

// EditBootstrap implements the control API.
func (s *server) EditBootstrap(_ context.Context, req *connect.Request[controlv1.EditBootstrapRequest]) (*connect.Response[controlv1.EditBootstrapResponse], error) {
	m := req.Msg
	switch {
	case len(m.GetAdd()) == 0 && len(m.GetRemove()) == 0:
		return nil, toConnect(&usageError{"nothing to add or to remove was given"})
	case len(m.GetAdd()) > 0 && len(m.GetRemove()) > 0:
		return nil, toConnect(&usageError{"either add or remove; not both at once"})
	}
	if len(m.GetRemove()) > 0 {
		if err := s.node.RemoveBootstrap(m.GetRemove()...); err != nil {
			return nil, toConnect(err)
		}
		removed := slices.Clone(m.GetRemove())
		slices.Sort(removed)
		return connect.NewResponse(&controlv1.EditBootstrapResponse{Removed: slices.Compact(removed)}), nil
	}
	added, err := s.node.AddBootstrap(m.GetAdd()...)
	if err != nil {
		return nil, toConnect(err)
	}
	return connect.NewResponse(&controlv1.EditBootstrapResponse{Added: added}), nil
}

// Router implements the control API.
func (s *server) Router(context.Context, *connect.Request[controlv1.RouterRequest]) (*connect.Response[controlv1.RouterResponse], error) {
	st, info := s.node.Router().Stats(), s.node.Router().NodeInfo()
	res := &controlv1.RouterResponse{
		Network: info.Network, Moniker: info.Moniker,
		Dialling: int64(len(st.Engine.Dials)), Inbound: int64(st.Engine.Inbound), Outbound: int64(st.Engine.Outbound),
		Refused: map[string]uint64{},
	}
	for rule, n := range st.Engine.Refused {
		res.Refused[string(rule)] = n
	}
	for _, p := range st.Peers {
		res.Peers = append(res.Peers, routerPeerOf(p))
	}
	for _, c := range st.Channels {
		res.Channels = append(res.Channels, channelOf(c))
	}
	for _, src := range s.node.Discovery() {
		res.Sources = append(res.Sources, sourceOf(src))
	}
	topics := s.node.Topics()
	for _, t := range topics.Stats().Dispatcher.Types {
		res.Topics = append(res.Topics, &controlv1.Topic{
			Name: t.Type, Received: t.Received, Bytes: t.Bytes, Duplicates: t.Duplicates,
			Dropped: t.Dropped + t.Refused, Peers: int64(len(topics.TopicPeers(t.Type))),
		})
	}
	return connect.NewResponse(res), nil
}

// Call implements the control API.
func (s *server) Call(ctx context.Context, req *connect.Request[controlv1.CallRequest]) (*connect.Response[controlv1.CallResponse], error) {
	m := req.Msg
	switch {
	case m.GetPeer() == "":
		return nil, toConnect(&usageError{"no peer was given; say whom to call"})
	case m.GetService() == "":
		return nil, toConnect(&usageError{"no service was given; `kith services PEER` lists those of a peer"})
	}
	timeout, err := timeoutOf(m.GetTimeout(), m.GetTimeout() != nil, dialTimeout)
	if err != nil {
		return nil, toConnect(err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := s.node.Call(ctx, m.GetPeer(), m.GetService(), m.GetData())
	if err != nil {
		return nil, toConnect(s.because(err))
	}
	return connect.NewResponse(&controlv1.CallResponse{Data: answer}), nil
}

// ListServices implements the control API.
func (s *server) ListServices(ctx context.Context, req *connect.Request[controlv1.ListServicesRequest]) (*connect.Response[controlv1.ListServicesResponse], error) {
	m := req.Msg
	timeout, err := timeoutOf(m.GetTimeout(), m.GetTimeout() != nil, dialTimeout)
	if err != nil {
		return nil, toConnect(err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list, err := s.node.Services(ctx, m.GetPeer())
	if err != nil {
		return nil, toConnect(s.because(err))
	}
	res := &controlv1.ListServicesResponse{}
	for _, svc := range list {
		res.Services = append(res.Services, &controlv1.Service{Name: string(svc.Name), Stream: svc.Stream, BuiltIn: svc.BuiltIn})
	}
	return connect.NewResponse(res), nil
}

// ListBook implements the control API.
func (s *server) ListBook(ctx context.Context, req *connect.Request[controlv1.ListBookRequest]) (*connect.Response[controlv1.ListBookResponse], error) {
	book := s.node.Book()
	ids := book.Peers()
	bans := book.Bans()
	res := &controlv1.ListBookResponse{}
	for _, b := range bans {
		if b.Peer == "" {
			res.Networks = append(res.Networks, banOf(b))
		} else if p, ok := book.Peer(b.Peer); ok && len(p.Addresses) == 0 { // not listed yet
			ids = append(ids, b.Peer)
		}
	}
	if p := req.Msg.GetPeer(); p != "" {
		id, err := s.node.BookID(ctx, p)
		if err != nil {
			return nil, toConnect(err)
		}
		if _, known := book.Peer(id); !known {
			return nil, toConnect(fmt.Errorf("%w: %s is not in the address book", kith.ErrUnknownPeer, p))
		}
		ids, res.Networks = ids[:0], nil
		ids = append(ids, id)
	}
	for _, id := range ids {
		if p, ok := book.Peer(id); ok {
			res.Peers = append(res.Peers, bookPeerOf(s.node, p))
		}
	}
	return connect.NewResponse(res), nil
}

// EditBook implements the control API.
func (s *server) EditBook(ctx context.Context, req *connect.Request[controlv1.EditBookRequest]) (*connect.Response[controlv1.EditBookResponse], error) {
	changed, err := s.editBook(ctx, req.Msg)
	if err != nil {
		return nil, toConnect(err)
	}
	return connect.NewResponse(&controlv1.EditBookResponse{Changed: changed}), nil
}

func (s *server) editBook(ctx context.Context, m *controlv1.EditBookRequest) (bool, error) {
	switch e := m.GetEdit().(type) {
	case *controlv1.EditBookRequest_Add:
		return s.node.Remember(ctx, e.Add)
	case *controlv1.EditBookRequest_Forget:
		known, err := s.node.Forget(ctx, e.Forget)
		if err == nil && !known {
			err = fmt.Errorf("%w: the address book has no address of %s", kith.ErrUnknownPeer, e.Forget)
		}
		return known, err
	case *controlv1.EditBookRequest_Ban:
		d := e.Ban.GetDuration().AsDuration()
		if e.Ban.GetDuration() != nil && d <= 0 {
			return false, &usageError{fmt.Sprintf("the duration %s is not positive; give one such as 24h, or none for a ban without end", d)}
		}
		return true, s.node.Ban(ctx, e.Ban.GetPeer(), d, strings.TrimSpace(e.Ban.GetReason()))
	case *controlv1.EditBookRequest_Unban:
		return s.node.Unban(ctx, e.Unban)
	}
	return false, &usageError{"nothing to change was given; say add, forget, ban or unban"}
}
