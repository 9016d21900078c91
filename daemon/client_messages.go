package daemon

import (
	"context"
	"iter"

	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// Find asks where a peer is.
func (c *Client) Find(ctx context.Context, req *controlv1.FindRequest) (*controlv1.FindResponse, error) {
	return call(ctx, c, c.api.Find, req)
}

// ListBook lists what the address book knows, of one peer or of all.
func (c *Client) ListBook(ctx context.Context, req *controlv1.ListBookRequest) (*controlv1.ListBookResponse, error) {
	return call(ctx, c, c.api.ListBook, req)
}

// EditBook adds an address, or forgets, bans or unbans a peer.
func (c *Client) EditBook(ctx context.Context, req *controlv1.EditBookRequest) (*controlv1.EditBookResponse, error) {
	return call(ctx, c, c.api.EditBook, req)
}

// ListBootstrap lists the nodes to begin with.
func (c *Client) ListBootstrap(ctx context.Context) (*controlv1.ListBootstrapResponse, error) {
	return call(ctx, c, c.api.ListBootstrap, &controlv1.ListBootstrapRequest{})
}

// EditBootstrap adds to or removes from the bootstrap list.
func (c *Client) EditBootstrap(ctx context.Context, req *controlv1.EditBootstrapRequest) (*controlv1.EditBootstrapResponse, error) {
	return call(ctx, c, c.api.EditBootstrap, req)
}

// Router asks for the peers, channels, queues and drops of the message router.
func (c *Client) Router(ctx context.Context) (*controlv1.RouterResponse, error) {
	return call(ctx, c, c.api.Router, &controlv1.RouterRequest{})
}

// Call sends one request to a service of a peer and returns the answer.
func (c *Client) Call(ctx context.Context, req *controlv1.CallRequest) (*controlv1.CallResponse, error) {
	return call(ctx, c, c.api.Call, req)
}

// ListServices lists the services of a peer that this node may call.
func (c *Client) ListServices(ctx context.Context, req *controlv1.ListServicesRequest) (*controlv1.ListServicesResponse, error) {
	return call(ctx, c, c.api.ListServices, req)
}

// Publish sends a message to all who subscribed to a topic.
func (c *Client) Publish(ctx context.Context, req *controlv1.PublishRequest) (*controlv1.PublishResponse, error) {
	return call(ctx, c, c.api.Publish, req)
}

// Subscribe yields the messages of a topic, after a first response without one
// that says it has begun, until the sequence is left or ctx ends. An error is
// the last thing it yields.
func (c *Client) Subscribe(ctx context.Context, topic string) iter.Seq2[*controlv1.SubscribeResponse, error] {
	return follow(ctx, c, c.api.Subscribe, &controlv1.SubscribeRequest{Topic: topic})
}
