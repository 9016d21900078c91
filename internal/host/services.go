package host

import (
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// serviceLimit bounds one of libp2p's own services, or a protocol of it: so
// many streams in each direction and together, and so many bytes. more is added
// for each GiB of memory that the limits are scaled to.
type serviceLimit struct {
	service     string
	protocols   []protocol.ID
	all, more   rcmgr.BaseLimit
	onePeer     rcmgr.BaseLimit
	onePeerByID rcmgr.BaseLimit // of the protocols, for one peer
}

func streamLimit(each, together int, memory int64) rcmgr.BaseLimit {
	return rcmgr.BaseLimit{StreamsInbound: each, StreamsOutbound: each, Streams: together, Memory: memory}
}

// protoMemory is what libp2p lets one peer reserve for a protocol of 32
// streams whose windows are at their largest.
const protoMemory = 32 * (256<<20 + 16<<10)

// serviceLimits are libp2p's own numbers, which its constructor would set.
// TestServiceLimits compares them.
var serviceLimits = []serviceLimit{
	{
		service: identify.ServiceName, protocols: []protocol.ID{identify.ID, identify.IDPush},
		all: streamLimit(64, 128, 4<<20), more: streamLimit(64, 128, 4<<20),
		onePeer: streamLimit(16, 32, 1<<20), onePeerByID: streamLimit(16, 32, protoMemory),
	},
	{
		service: ping.ServiceName, protocols: []protocol.ID{ping.ID},
		all: streamLimit(64, 64, 4<<20), more: streamLimit(64, 64, 4<<20),
		onePeer:     rcmgr.BaseLimit{StreamsInbound: 2, StreamsOutbound: 3, Streams: 4, Memory: protoMemory},
		onePeerByID: rcmgr.BaseLimit{StreamsInbound: 2, StreamsOutbound: 3, Streams: 4, Memory: protoMemory},
	},
	{
		service: autonat.ServiceName, protocols: []protocol.ID{autonat.AutoNATProto},
		all: streamLimit(64, 64, 4<<20), more: streamLimit(4, 4, 2<<20),
		onePeer: streamLimit(2, 2, 1<<20), onePeerByID: streamLimit(2, 2, 1<<20),
	},
	{
		service: holepunch.ServiceName, protocols: []protocol.ID{holepunch.Protocol},
		all: streamLimit(32, 64, 4<<20), more: streamLimit(8, 16, 4<<20),
		onePeer: streamLimit(2, 2, 1<<20), onePeerByID: streamLimit(2, 2, 1<<20),
	},
	{
		service: relay.ServiceName,
		all:     streamLimit(256, 256, 16<<20), more: streamLimit(256, 256, 16<<20),
		onePeer: streamLimit(64, 64, 1<<20),
	},
	{
		protocols: []protocol.ID{circuit.ProtoIDv2Hop, circuit.ProtoIDv2Stop},
		all:       streamLimit(640, 640, 16<<20), more: streamLimit(640, 640, 16<<20),
		onePeerByID: streamLimit(128, 128, 32<<20),
	},
}

func addServiceLimits(c *rcmgr.ScalingLimitConfig) {
	for _, l := range serviceLimits {
		more := rcmgr.BaseLimitIncrease{StreamsInbound: l.more.StreamsInbound, StreamsOutbound: l.more.StreamsOutbound, Streams: l.more.Streams, Memory: l.more.Memory}
		if l.service != "" {
			c.AddServiceLimit(l.service, l.all, more)
			c.AddServicePeerLimit(l.service, l.onePeer, rcmgr.BaseLimitIncrease{})
		}
		for _, p := range l.protocols {
			c.AddProtocolLimit(p, l.all, more)
			c.AddProtocolPeerLimit(p, l.onePeerByID, rcmgr.BaseLimitIncrease{})
		}
	}
}
