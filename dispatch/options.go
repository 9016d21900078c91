package dispatch

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// DefaultChannel is the first of the three channels of a Service.
const DefaultChannel p2p.ChannelID = 0x70

// Options is what a Service is made of. The zero value of a field is its default.
type Options struct {
	// Router and Peers carry messages to direct peers, and have to be those of one
	// node. Without them the Service has topics over Backend, and what is
	// dispatched in process.
	Router *p2p.Router
	Peers  *p2p.PeerManager
	// Channel is the first of three channels, one for each priority, which
	// NewService opens: before the Router is started, or connected peers do not learn
	// of them. The same on all nodes. Default DefaultChannel.
	Channel p2p.ChannelID
	// Key is the node's key, which signs what is published over direct channels.
	// Required to publish without a Backend.
	Key p2p.PrivKey
	// Backend carries the topics, such as dispatch/gossip's. Without one they go
	// over the direct channels: every node passes on what it has not seen yet, so
	// that they reach all who are connected by such nodes.
	Backend Backend
	// Dispatcher has the limits: MaxMessage, the duplicate filter's, the inbox's.
	// MaxMessage has to be the same on all nodes.
	Dispatcher DispatcherOptions
	// Compress sends data of 512 bytes and more compressed with zstd, where that
	// pays. What arrives is understood either way.
	Compress bool
	// NoRelay keeps the node from passing on topics over direct channels.
	NoRelay bool
	// RelayRate is how many published messages a second are passed on for each
	// peer, and twice as many at once; every 4 KiB of data count as one more. What is
	// above that is only handed to subscribers here, so that no peer fills the way to
	// all others. Default 1,000.
	RelayRate int
	// ScoreEvery is how often what peers sent counts for their score: those who
	// sent messages of a type share the type's weight. Default 10 s.
	ScoreEvery time.Duration

	Logger *slog.Logger // nil: discard
}

func (o Options) withDefaults() Options {
	o.Channel = cmp.Or(o.Channel, DefaultChannel)
	o.RelayRate = cmp.Or(o.RelayRate, 1000)
	o.ScoreEvery = cmp.Or(o.ScoreEvery, 10*time.Second)
	o.Dispatcher = o.Dispatcher.withDefaults()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate reports every fault of the options, joined.
func (o Options) Validate() error {
	o = o.withDefaults()
	faults := []error{o.Dispatcher.Validate()}
	if (o.Router == nil) != (o.Peers == nil) {
		faults = append(faults, errors.New("dispatch: Router and Peers come together"))
	}
	if o.Router != nil && !o.Key.IsZero() && o.Key.Public().NodeID() != o.Router.NodeInfo().NodeID {
		faults = append(faults, errors.New("dispatch: Key is not the Router's"))
	}
	if o.Channel > 0xFFFF-lanes+1 {
		faults = append(faults, fmt.Errorf("dispatch: no three channels from %#x on", uint16(o.Channel)))
	}
	if o.RelayRate < 1 || o.RelayRate > maxQueue {
		faults = append(faults, fmt.Errorf("dispatch: RelayRate is %d, at least 1 and at most %d", o.RelayRate, maxQueue))
	}
	if o.ScoreEvery < time.Millisecond {
		faults = append(faults, fmt.Errorf("dispatch: ScoreEvery is %v, at least 1ms", o.ScoreEvery))
	}
	return errors.Join(faults...)
}
