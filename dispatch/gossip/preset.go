package gossip

import (
	"fmt"
	"net"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Preset names a kind of network. All of them sign messages strictly, refuse
// invalid ones, score peers and exchange no addresses: whom to connect to is for
// others to say.
type Preset string

// The presets.
const (
	// Open is for networks that anybody may join: many addresses of one IP lower
	// each other's score, and scores outlive a connection by an hour.
	Open Preset = "open"
	// Permissioned is for networks of known peers: Options.Allow says who they are.
	// Where they are makes no difference.
	Permissioned Preset = "permissioned"
	// Small is for networks of some ten nodes, perhaps on one machine: each has 4
	// neighbours in a topic, and 2 are enough.
	Small Preset = "small"
)

// params are the parameters of a preset.
type params struct {
	mesh       pubsub.GossipSubParams
	score      *pubsub.PeerScoreParams
	thresholds *pubsub.PeerScoreThresholds
}

// scoreEvery is how often scores are computed and looked at.
const scoreEvery = time.Second

// params are those of the preset. The numbers of the mesh are GossipSub's own (D 6,
// of 5 to 12), but for Small.
//
// What a score is made of (GossipSub v1.1): a message that a validator refused
// counts -100 times the square of their number, which fades within an hour; so one
// is forgiven, three end the gossip, and with five (-2,500) nothing of the peer is
// read. Being the first with messages earns up to 100.
func (p Preset) params() (params, error) {
	s := &pubsub.PeerScoreParams{
		Topics:           make(map[string]*pubsub.TopicScoreParams), // pubsub writes into it
		AppSpecificScore: func(peer.ID) float64 { return 0 }, AppSpecificWeight: 1, TopicScoreCap: 100,
		BehaviourPenaltyWeight: -10, BehaviourPenaltyThreshold: 6, BehaviourPenaltyDecay: pubsub.ScoreParameterDecay(10 * time.Minute),
		DecayInterval: pubsub.DefaultDecayInterval, DecayToZero: pubsub.DefaultDecayToZero, RetainScore: time.Hour,
	}
	all := params{
		mesh: pubsub.DefaultGossipSubParams(), score: s,
		thresholds: &pubsub.PeerScoreThresholds{
			GossipThreshold: -500, PublishThreshold: -1000, GraylistThreshold: -2500, AcceptPXThreshold: 1000, OpportunisticGraftThreshold: 2,
		},
	}
	switch p {
	case Open:
		s.IPColocationFactorWeight, s.IPColocationFactorThreshold, s.IPColocationFactorWhitelist = -20, 10, privateNetworks()
	case Permissioned:
		s.RetainScore = 10 * time.Minute
	case Small:
		s.RetainScore = time.Minute
		m := &all.mesh
		m.D, m.Dlo, m.Dhi, m.Dscore, m.Dout, m.Dlazy = 4, 2, 8, 2, 1, 4
		m.PruneBackoff, m.UnsubscribeBackoff = 10*time.Second, 2*time.Second
	default:
		return params{}, fmt.Errorf("gossip: unknown preset %q: there are %q, %q and %q", string(p), Open, Permissioned, Small)
	}
	return all, nil
}

// topicScore is how peers are scored for what they do on a topic. How much traffic
// a topic should have is not known, so nobody is held to an amount.
func topicScore() *pubsub.TopicScoreParams {
	return &pubsub.TopicScoreParams{
		TopicWeight:      1,
		TimeInMeshWeight: 0.01, TimeInMeshQuantum: time.Second, TimeInMeshCap: 1000,
		FirstMessageDeliveriesWeight: 1, FirstMessageDeliveriesDecay: pubsub.ScoreParameterDecay(10 * time.Minute), FirstMessageDeliveriesCap: 50,
		InvalidMessageDeliveriesWeight: -100, InvalidMessageDeliveriesDecay: pubsub.ScoreParameterDecay(time.Hour),
	}
}

// privateNetworks are those where many nodes may share an address.
func privateNetworks() (all []*net.IPNet) {
	for _, s := range []string{"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10"} {
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			panic(err)
		}
		all = append(all, n)
	}
	return all
}
