package libp2p

import "github.com/kith-p2p/kith/p2p"

var _ p2p.FlowControlled = (*Transport)(nil)

// ChannelFlowControl marks the transport: each channel has streams of its own, so
// that channels may use p2p.ReceivePause.
func (t *Transport) ChannelFlowControl() {}
