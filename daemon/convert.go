package daemon

import (
	"strings"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// statusOf is the node's state in the API's words.
func statusOf(n *kith.Node) *controlv1.StatusResponse {
	st := n.Status()
	return &controlv1.StatusResponse{
		PeerId: n.ID().String(), NodeId: string(n.NodeID()), Version: st.Version, Home: strings.ToValidUTF8(st.Home, "?"), Pid: pid,
		Started: timeOf(st.Started), Addresses: st.Addresses, Listen: st.Listen, Mdns: st.MDNS,
		Peers: int64(st.Peers), Mounts: int64(st.Mounts), Streams: int64(st.Streams),
		Counters: &controlv1.Counters{
			ConnectionsOpened: st.Opened, ConnectionsServed: st.Served,
			BytesIn: st.BytesIn, BytesOut: st.BytesOut, Refused: st.Refused,
		},
		Notices: st.Notices,
	}
}

func mountOf(m kith.Mount) *controlv1.Mount {
	kind := controlv1.Mount_KIND_UNSPECIFIED
	switch m.Kind {
	case kith.KindExpose:
		kind = controlv1.Mount_KIND_EXPOSE
	case kith.KindConnect:
		kind = controlv1.Mount_KIND_CONNECT
	}
	return &controlv1.Mount{
		Id: m.ID, Kind: kind, Name: m.Name, ListenAddress: m.ListenAddress, TargetAddress: m.TargetAddress,
		Since: timeOf(m.Since), Allow: m.Allow, AllowAny: m.AllowAny, Connections: int64(m.Connections),
		Accepted: m.Accepted, Refused: m.Refused, BytesIn: m.BytesIn, BytesOut: m.BytesOut,
		LastError: m.LastError, Local: m.Local, Waiting: int64(m.Waiting),
	}
}

func mountsOf(mounts []kith.Mount) []*controlv1.Mount {
	list := make([]*controlv1.Mount, len(mounts))
	for i, m := range mounts {
		list[i] = mountOf(m)
	}
	return list
}

func streamOf(s kith.Stream) *controlv1.Stream {
	kind := controlv1.Mount_KIND_UNSPECIFIED
	switch s.Kind {
	case kith.KindExpose:
		kind = controlv1.Mount_KIND_EXPOSE
	case kith.KindConnect:
		kind = controlv1.Mount_KIND_CONNECT
	}
	return &controlv1.Stream{
		Id: s.ID, Kind: kind, Name: s.Name, LocalPeer: s.LocalPeer, RemotePeer: s.RemotePeer,
		OriginAddress: s.OriginAddress, TargetAddress: s.TargetAddress, Path: s.Path, Relayed: s.Relayed,
		Since: timeOf(s.Since), BytesIn: s.BytesIn, BytesOut: s.BytesOut, LastError: s.LastError,
		Waiting: s.Waiting,
	}
}

func peerOf(p kith.Peer) *controlv1.Peer {
	res := &controlv1.Peer{
		PeerId: p.ID.String(), NodeId: string(p.NodeID), Connected: p.Connected, Direction: p.Direction,
		Address: p.Address, Relayed: p.Relayed, Since: timeOf(p.Since), Streams: int64(p.Streams),
		Agent: p.Agent, Source: p.Source, KnownAddresses: p.Known,
	}
	if p.RTT > 0 {
		res.Rtt = durationpb.New(p.RTT)
	}
	return res
}

// timeOf leaves out a time that is not known.
func timeOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
