package libp2p

import (
	"encoding/binary"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kith-p2p/kith/p2p"
)

// A hello is the kind, the session's 16 bytes, and the node info in Protobuf's
// encoding:
//
//	1 node_id string; 2 p2p, 3 block, 4 app varint; 5 listen_addr, 6 network,
//	7 version, 8 moniker string; 9 channels packed varints; 10 tx_index,
//	11 rpc_address string; 12 request channels packed varints;
//	13 listen addresses repeated string; 14 observed string; 15 feeler varint (0 or 1)
//
// The node ID comes first and is compared with the peer's key before the rest is
// looked at.

// appendHello encodes a hello, or says why it cannot be sent.
func appendHello(b []byte, session sessionID, info p2p.NodeInfo) ([]byte, error) {
	if err := info.Validate(); err != nil {
		return b, fmt.Errorf("%w: our own: %w", ErrNodeInfo, err)
	}
	b = append(b, kindHello)
	b = append(b, session[:]...)
	text := func(field protowire.Number, s string) {
		if s != "" {
			b = protowire.AppendTag(b, field, protowire.BytesType)
			b = protowire.AppendString(b, s)
		}
	}
	number := func(field protowire.Number, n uint64) {
		if n != 0 {
			b = protowire.AppendTag(b, field, protowire.VarintType)
			b = protowire.AppendVarint(b, n)
		}
	}
	channels := func(field protowire.Number, ids []p2p.ChannelID) {
		if len(ids) == 0 {
			return
		}
		var packed []byte
		for _, id := range ids {
			packed = binary.AppendUvarint(packed, uint64(id))
		}
		b = protowire.AppendTag(b, field, protowire.BytesType)
		b = protowire.AppendBytes(b, packed)
	}
	text(1, string(info.NodeID))
	number(2, info.ProtocolVersion.P2P)
	number(3, info.ProtocolVersion.Block)
	number(4, info.ProtocolVersion.App)
	text(5, info.ListenAddr)
	text(6, info.Network)
	text(7, info.Version)
	text(8, info.Moniker)
	channels(9, info.Channels)
	text(10, info.Other.TxIndex)
	text(11, info.Other.RPCAddress)
	channels(12, info.Extensions.RequestChannels)
	for _, a := range info.Extensions.ListenAddrs {
		text(13, a)
	}
	text(14, info.Extensions.Observed)
	if info.Extensions.Feeler {
		number(15, 1)
	}
	return b, nil
}

// parseHello reads what follows the kind. want is the NodeID of the key that the
// peer proved: a hello that names another one is refused unread.
func parseHello(b []byte, want p2p.NodeID) (sessionID, p2p.NodeInfo, error) {
	bad := func(err error) (sessionID, p2p.NodeInfo, error) {
		return sessionID{}, p2p.NodeInfo{}, fmt.Errorf("%w: %w", ErrNodeInfo, err)
	}
	if len(b) < sessionSize {
		return bad(fmt.Errorf("%w: a hello of %d bytes", ErrMalformed, len(b)))
	}
	session, fields := sessionID(b[:sessionSize]), b[sessionSize:]
	info := p2p.NodeInfo{Extensions: p2p.Extensions{Kith: true}}
	err := eachField(fields, func(field protowire.Number, number uint64, text []byte) error {
		if info.NodeID == "" && (field != 1 || string(text) != string(want)) {
			if field != 1 {
				return fmt.Errorf("%w: it does not begin with its node ID", ErrMalformed)
			}
			return fmt.Errorf("%w: it says it is %.50q, its key is of %s", ErrIdentity, text, want)
		}
		if limit := textLimit(field); len(text) > limit {
			return fmt.Errorf("field %d has %d bytes, at most %d are allowed", field, len(text), limit)
		}
		switch field {
		case 1:
			if info.NodeID = p2p.NodeID(text); info.NodeID != want {
				return fmt.Errorf("%w: it has two node IDs", ErrIdentity)
			}
		case 2:
			info.ProtocolVersion.P2P = number
		case 3:
			info.ProtocolVersion.Block = number
		case 4:
			info.ProtocolVersion.App = number
		case 5:
			info.ListenAddr = string(text)
		case 6:
			info.Network = string(text)
		case 7:
			info.Version = string(text)
		case 8:
			info.Moniker = string(text)
		case 9:
			return appendChannels(&info.Channels, text)
		case 10:
			info.Other.TxIndex = string(text)
		case 11:
			info.Other.RPCAddress = string(text)
		case 12:
			return appendChannels(&info.Extensions.RequestChannels, text)
		case 13:
			if len(info.Extensions.ListenAddrs) == p2p.MaxNodeInfoAddresses {
				return fmt.Errorf("more than %d listen addresses", p2p.MaxNodeInfoAddresses)
			}
			info.Extensions.ListenAddrs = append(info.Extensions.ListenAddrs, string(text))
		case 14:
			info.Extensions.Observed = string(text)
		case 15:
			info.Extensions.Feeler = number != 0
		}
		return nil
	})
	if err == nil && info.NodeID == "" {
		err = fmt.Errorf("%w: no node ID", ErrMalformed)
	}
	if err == nil {
		err = info.Validate()
	}
	if err != nil {
		return bad(err)
	}
	return session, info, nil
}

// textLimit is the most bytes of a field. Those that are not known are not kept.
func textLimit(field protowire.Number) int {
	switch {
	case field == 9 || field == 12:
		return p2p.MaxNodeInfoChannels * 3 // of a varint up to 65,535
	case field <= 14:
		return p2p.MaxNodeInfoString
	}
	return maxControl
}

func appendChannels(ids *[]p2p.ChannelID, packed []byte) error {
	for len(packed) > 0 {
		id, n := binary.Uvarint(packed)
		if n <= 0 || id > 0xffff {
			return fmt.Errorf("a channel is not a number up to 65535")
		}
		packed = packed[n:]
		if len(*ids) == p2p.MaxNodeInfoChannels {
			return fmt.Errorf("more than %d channels", p2p.MaxNodeInfoChannels)
		}
		if slices.Contains(*ids, p2p.ChannelID(id)) {
			return fmt.Errorf("channel %#02x is there twice", id)
		}
		*ids = append(*ids, p2p.ChannelID(id))
	}
	return nil
}
