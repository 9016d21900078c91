package daemon

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Publish implements the control API.
func (s *server) Publish(ctx context.Context, req *connect.Request[controlv1.PublishRequest]) (*connect.Response[controlv1.PublishResponse], error) {
	if req.Msg.GetTopic() == "" {
		return nil, toConnect(&usageError{"no topic was given"})
	}
	peers, err := s.node.Publish(ctx, req.Msg.GetTopic(), req.Msg.GetData())
	if err != nil {
		return nil, toConnect(s.because(err))
	}
	return connect.NewResponse(&controlv1.PublishResponse{Peers: int64(len(peers))}), nil
}

// Subscribe implements the control API.
func (s *server) Subscribe(ctx context.Context, req *connect.Request[controlv1.SubscribeRequest], out *connect.ServerStream[controlv1.SubscribeResponse]) error {
	topic := req.Msg.GetTopic()
	if topic == "" {
		return toConnect(&usageError{"no topic was given"})
	}
	sub, err := s.node.Subscribe(topic, dispatch.Policy{})
	if err != nil {
		return toConnect(err)
	}
	defer sub.Close()
	if err := out.Send(&controlv1.SubscribeResponse{}); err != nil {
		return err
	}
	for m, err := range sub.Messages(ctx) {
		switch {
		case s.calls.Err() != nil:
			return toConnect(errStopping)
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return toConnect(err)
		}
		err := out.Send(&controlv1.SubscribeResponse{Lost: sub.Stats().Dropped(), Message: &controlv1.TopicMessage{
			Topic: topic, Data: m.Message, From: string(m.From), Author: string(m.Author), Received: timestamppb.New(time.Now()),
		}})
		if err != nil {
			return err
		}
	}
	return nil
}
