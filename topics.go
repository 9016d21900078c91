package kith

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/dispatch/gossip"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Topics dispatches messages by type, inside the node and between nodes:
// dispatch.Subscribe, Service.Publish, Service.Broadcast. Run starts it.
func (n *Node) Topics() *dispatch.Service { return n.topics }

func (n *Node) newTopics() (err error) {
	o := gossip.Options{
		Preset: n.cfg.Topics, Logger: n.log,
		Score: func(id peer.ID) float64 {
			node, err := identity.NodeIDFromPeerID(id)
			if err != nil {
				return 0
			}
			return float64(n.Book().Score(node))
		},
	}
	if o.Preset == "" && n.cfg.LocalOnly {
		o.Preset = gossip.Small
	}
	if o.Preset == gossip.Permissioned {
		if len(n.cfg.TopicPeers) == 0 {
			return usage("topics are for named peers only (%q), and none is named: list them in topic_peers", gossip.Permissioned)
		}
		if o.Allow, err = n.topicPeers(); err != nil {
			return err
		}
	} else if len(n.cfg.TopicPeers) > 0 {
		return usage("there are topic peers, but topics are not %q", gossip.Permissioned)
	}
	if n.gossip, err = gossip.New(n.host, o); err != nil {
		return err
	}
	n.topics, err = dispatch.NewService(n.router, dispatch.Options{
		Router: n.router, Peers: n.manager, Key: n.key, Backend: n.gossip, Logger: n.log, Compress: true,
	})
	return err
}

// topicPeers says who may take part in the topics of a permissioned network.
func (n *Node) topicPeers() (func(p2p.NodeID) bool, error) {
	may := map[p2p.NodeID]bool{n.NodeID(): true}
	for _, s := range n.cfg.TopicPeers {
		id, err := n.NodeIDOf(n.ctx, s)
		if err != nil {
			return nil, fmt.Errorf("topic peers: %w", err)
		}
		may[id] = true
	}
	return func(id p2p.NodeID) bool { return may[id] }, nil
}

// Publish sends bytes to all who subscribed to a topic, and returns the peers
// of them that this node is connected to. Errors: ErrUsage for a name that no
// topic can have, dispatch.ErrTooLarge, ErrClosed.
func (n *Node) Publish(ctx context.Context, topic string, data []byte) ([]peer.ID, error) {
	if err := n.topics.PublishBytes(ctx, topic, data); err != nil {
		return nil, topicError(err)
	}
	return n.topics.TopicPeers(topic), nil
}

// Subscribe gives out what is published on a topic, as bytes. Close the
// subscription. Errors as Publish's.
func (n *Node) Subscribe(topic string, p dispatch.Policy) (*dispatch.BytesSubscription, error) {
	s, err := n.topics.SubscribeBytes(topic, p)
	if err != nil {
		return nil, topicError(err)
	}
	return s, nil
}

func topicError(err error) error {
	switch {
	case errors.Is(err, dispatch.ErrType):
		why := strings.TrimPrefix(plainText(err.Error()), plainText(dispatch.ErrType.Error())+": ")
		return &usageError{&plainError{"no topic can have this name: " + why, err}}
	case errors.Is(err, dispatch.ErrTooLarge):
		return fmt.Errorf("%w; publish it in pieces, or send it with `kith call`, which carries 32 MiB", plain(err))
	case errors.Is(err, dispatch.ErrClosed):
		return fmt.Errorf("%w, or it does not run yet: topics begin with Run", ErrClosed)
	}
	return plain(err)
}
