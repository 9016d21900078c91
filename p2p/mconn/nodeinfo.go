package mconn

import (
	"encoding/binary"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/internal/pb/mconnv1"
	"github.com/kith-p2p/kith/p2p"
)

// The two messages of the handshake, each behind its length as an unsigned
// varint, inside the cipher:
//
//	AuthSigMessage { 1 pub_key { 1 ed25519 }; 2 sig; 100 offer uint64 }
//	NodeInfo       { 1 protocol_version ... 8 other; 100 more }
//	more           { 1 channels, 2 request channels: packed uint32; 3 listen_addrs string; 4 observed string; 5 feeler bool }
//
// The fields numbered 100 are kith's, and unknown to everybody else. A node
// sends "more" only to one that offered.
const (
	maxAuth     = 4 << 10
	maxNodeInfo = 10240

	offerField protowire.Number = 100
	moreField  protowire.Number = 100

	commonChannels = 16   // the most that CometBFT takes
	commonChannel  = 0x7f // the highest that CometBFT's packets carry whole
	maxChannels    = p2p.MaxNodeInfoChannels
	maxListenAddrs = p2p.MaxNodeInfoAddresses
	maxText        = p2p.MaxNodeInfoString
)

// Offers are bits; what both sides offer is spoken from the node info on.
const (
	// offerKith is the first edition: kith's frames under keys of their own, packets
	// of 16 KiB, channels up to 0xFFFF, goodbyes, and "more" in the node info.
	offerKith uint64 = 1
)

// encodeAuth returns our proof, with an offer unless it is 0.
func encodeAuth(key p2p.PubKey, signature []byte, offer uint64) ([]byte, error) {
	body, err := proto.Marshal(&mconnv1.AuthSigMessage{
		PubKey: &mconnv1.PublicKey{Sum: &mconnv1.PublicKey_Ed25519{Ed25519: key.Bytes()}},
		Sig:    signature,
	})
	if err != nil {
		return nil, err
	}
	if offer != 0 {
		body = protowire.AppendTag(body, offerField, protowire.VarintType)
		body = protowire.AppendVarint(body, offer)
	}
	return protowire.AppendBytes(nil, body), nil
}

// decodeAuth reads the peer's proof: key, signature and offer, none of them
// believed yet.
func decodeAuth(body []byte) (key, signature []byte, offer uint64, err error) {
	var m mconnv1.AuthSigMessage
	if err := proto.Unmarshal(body, &m); err != nil {
		return nil, nil, 0, fmt.Errorf("%w: %w", ErrAuth, err)
	}
	if _, ok := m.GetPubKey().GetSum().(*mconnv1.PublicKey_Ed25519); !ok {
		return nil, nil, 0, fmt.Errorf("%w: it has no Ed25519 key", ErrAuth)
	}
	eachUnknown(m.ProtoReflect().GetUnknown(), offerField, func(kind protowire.Type, value []byte) {
		if kind == protowire.VarintType {
			offer, _ = protowire.ConsumeVarint(value)
		}
	})
	return m.GetPubKey().GetEd25519(), m.GetSig(), offer, nil
}

// eachUnknown calls f with each value of one field among those that
// Unmarshal kept, which are well formed.
func eachUnknown(b []byte, field protowire.Number, f func(protowire.Type, []byte)) {
	for len(b) > 0 {
		number, kind, value, rest, err := nextField(b)
		if err != nil {
			return
		}
		if number == field {
			f(kind, value)
		}
		b = rest
	}
}

// announced returns those of our channels that a node that is not kith hears of,
// in their order: the first 16 that its packets carry.
func announced(ours []p2p.ChannelID) []p2p.ChannelID {
	var common []p2p.ChannelID
	for _, id := range ours {
		if id <= commonChannel && len(common) < commonChannels {
			common = append(common, id)
		}
	}
	return common
}

// encodeNodeInfo returns a node info as it is sent, to a kith node with more in it.
func encodeNodeInfo(info p2p.NodeInfo, kith bool) ([]byte, error) {
	var channels []byte
	for _, id := range announced(info.Channels) {
		channels = append(channels, byte(id))
	}
	body, err := proto.Marshal(&mconnv1.NodeInfo{
		ProtocolVersion: &mconnv1.ProtocolVersion{
			P2P: info.ProtocolVersion.P2P, Block: info.ProtocolVersion.Block, App: info.ProtocolVersion.App,
		},
		NodeId: string(info.NodeID), ListenAddr: info.ListenAddr, Network: info.Network, Version: info.Version,
		Channels: channels, Moniker: info.Moniker,
		Other: &mconnv1.NodeInfoOther{TxIndex: info.Other.TxIndex, RpcAddress: info.Other.RPCAddress},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: our own: %w", ErrNodeInfo, err)
	}
	if kith {
		body = protowire.AppendTag(body, moreField, protowire.BytesType)
		body = protowire.AppendBytes(body, encodeMore(info))
	}
	if len(body) > maxNodeInfo {
		return nil, fmt.Errorf("%w: our own has %d bytes, at most %d can be sent", ErrNodeInfo, len(body), maxNodeInfo)
	}
	return protowire.AppendBytes(nil, body), nil
}

func encodeMore(info p2p.NodeInfo) []byte {
	var b []byte
	for field, ids := range [][]p2p.ChannelID{1: info.Channels, 2: info.Extensions.RequestChannels} {
		if len(ids) == 0 {
			continue
		}
		var packed []byte
		for _, id := range ids {
			packed = binary.AppendUvarint(packed, uint64(id))
		}
		b = protowire.AppendTag(b, protowire.Number(field), protowire.BytesType)
		b = protowire.AppendBytes(b, packed)
	}
	for _, addr := range info.Extensions.ListenAddrs {
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendString(b, addr)
	}
	if seen := info.Extensions.Observed; seen != "" {
		b = protowire.AppendTag(b, 4, protowire.BytesType)
		b = protowire.AppendString(b, seen)
	}
	if info.Extensions.Feeler {
		b = protowire.AppendTag(b, 5, protowire.VarintType)
		b = protowire.AppendVarint(b, 1)
	}
	return b
}

// decodeNodeInfo reads a peer's node info, of at most maxNodeInfo bytes.
func decodeNodeInfo(body []byte, kith bool) (p2p.NodeInfo, error) {
	var m mconnv1.NodeInfo
	if err := proto.Unmarshal(body, &m); err != nil {
		return p2p.NodeInfo{}, fmt.Errorf("%w: %w", ErrNodeInfo, err)
	}
	if n := len(m.GetChannels()); n > commonChannels {
		return p2p.NodeInfo{}, fmt.Errorf("%w: it announces %d channels, at most %d are allowed", ErrNodeInfo, n, commonChannels)
	}
	v, other := m.GetProtocolVersion(), m.GetOther()
	info := p2p.NodeInfo{
		ProtocolVersion: p2p.ProtocolVersion{P2P: v.GetP2P(), Block: v.GetBlock(), App: v.GetApp()},
		NodeID:          p2p.NodeID(m.GetNodeId()), ListenAddr: m.GetListenAddr(), Network: m.GetNetwork(),
		Version: m.GetVersion(), Moniker: m.GetMoniker(),
		Other: p2p.NodeInfoOther{TxIndex: other.GetTxIndex(), RPCAddress: other.GetRpcAddress()},
	}
	for _, id := range m.GetChannels() {
		info.Channels = append(info.Channels, p2p.ChannelID(id))
	}
	if !kith {
		return info, nil
	}
	info.Extensions.Kith = true
	var err error
	eachUnknown(m.ProtoReflect().GetUnknown(), moreField, func(kind protowire.Type, value []byte) {
		if kind == protowire.BytesType && err == nil {
			value, _ = protowire.ConsumeBytes(value)
			err = decodeMore(value, &info)
		}
	})
	return info, err
}

// decodeMore adds what a kith node says of itself.
func decodeMore(b []byte, info *p2p.NodeInfo) error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrNodeInfo, what) }
	for len(b) > 0 {
		number, kind, value, rest, err := nextField(b)
		if err != nil {
			return bad("its extension: " + err.Error())
		}
		b = rest
		if kind == protowire.VarintType && number == 5 {
			v, _ := protowire.ConsumeVarint(value)
			info.Extensions.Feeler = v != 0
		}
		if kind != protowire.BytesType {
			continue
		}
		value, _ = protowire.ConsumeBytes(value)
		if number > 2 && len(value) > maxText {
			return bad(fmt.Sprintf("a text of its extension has more than %d bytes", maxText))
		}
		switch number {
		case 1, 2:
			into := &info.Channels
			if number == 2 {
				into = &info.Extensions.RequestChannels
			}
			for len(value) > 0 {
				id, n := binary.Uvarint(value)
				if n <= 0 || id > 0xffff {
					return bad("a channel is not a number up to 65535")
				}
				value = value[n:]
				if !slices.Contains(*into, p2p.ChannelID(id)) {
					*into = append(*into, p2p.ChannelID(id))
				}
				if len(*into) > maxChannels {
					return bad(fmt.Sprintf("it announces more than %d channels", maxChannels))
				}
			}
		case 3:
			if len(info.Extensions.ListenAddrs) == maxListenAddrs {
				return bad(fmt.Sprintf("it has more than %d listen addresses", maxListenAddrs))
			}
			info.Extensions.ListenAddrs = append(info.Extensions.ListenAddrs, string(value))
		case 4:
			info.Extensions.Observed = string(value)
		}
	}
	return nil
}
