package p2p

import (
	"errors"
	"strings"
	"testing"

	"github.com/kith-p2p/kith/identity"
)

func validNodeInfo() NodeInfo {
	return NodeInfo{
		ProtocolVersion: ProtocolVersion{P2P: 9, Block: 11, App: 1},
		NodeID:          NodeID(strings.Repeat("ab", 20)), ListenAddr: "tcp://127.0.0.1:26656",
		Network: "chain", Version: "1.0.1", Moniker: "node one", Channels: []ChannelID{0, 0x20, 0x21},
		Other: NodeInfoOther{TxIndex: "on", RPCAddress: "tcp://127.0.0.1:26657"},
	}
}

func manyChannels(n int) []ChannelID {
	ids := make([]ChannelID, n)
	for i := range ids {
		ids[i] = ChannelID(i)
	}
	return ids
}

func TestNodeInfoValidate(t *testing.T) {
	long := strings.Repeat("x", MaxNodeInfoString+1)
	for name, c := range map[string]struct {
		change func(*NodeInfo)
		field  string // "" is valid
		says   string
	}{
		"as it is":                 {func(*NodeInfo) {}, "", ""},
		"no network":               {func(n *NodeInfo) { n.Network = "" }, "", ""},
		"no version":               {func(n *NodeInfo) { n.Version = "" }, "", ""},
		"no channels":              {func(n *NodeInfo) { n.Channels = nil }, "", ""},
		"many channels":            {func(n *NodeInfo) { n.Channels = manyChannels(MaxNodeInfoChannels) }, "", ""},
		"listen without scheme":    {func(n *NodeInfo) { n.ListenAddr = "example.com:1" }, "", ""},
		"listen on IPv6":           {func(n *NodeInfo) { n.ListenAddr = "tcp://[::1]:26656" }, "", ""},
		"listens nowhere":          {func(n *NodeInfo) { n.ListenAddr = "0.0.0.0:0" }, "", ""},
		"no other":                 {func(n *NodeInfo) { n.Other = NodeInfoOther{} }, "", ""},
		"index off":                {func(n *NodeInfo) { n.Other.TxIndex = "off" }, "", ""},
		"extensions":               {func(n *NodeInfo) { n.Extensions.ListenAddrs = []string{"mconn://a@b:1"} }, "", ""},
		"observed":                 {func(n *NodeInfo) { n.Extensions.Observed = "2001:db8::1" }, "", ""},
		"no ID":                    {func(n *NodeInfo) { n.NodeID = "" }, "NodeID", "empty"},
		"uppercase ID":             {func(n *NodeInfo) { n.NodeID = NodeID(strings.Repeat("AB", 20)) }, "NodeID", "uppercase"},
		"long ID":                  {func(n *NodeInfo) { n.NodeID = NodeID(long) }, "NodeID", "at most"},
		"no listen address":        {func(n *NodeInfo) { n.ListenAddr = "" }, "ListenAddr", "0.0.0.0:0"},
		"listen without port":      {func(n *NodeInfo) { n.ListenAddr = "tcp://127.0.0.1" }, "ListenAddr", "host:port"},
		"listen without host":      {func(n *NodeInfo) { n.ListenAddr = "tcp://:26656" }, "ListenAddr", "host:port"},
		"listen with a space":      {func(n *NodeInfo) { n.ListenAddr = "a b:1" }, "ListenAddr", "host:port"},
		"listen with an ID":        {func(n *NodeInfo) { n.ListenAddr = "id@host:1" }, "ListenAddr", "host:port"},
		"listen with control byte": {func(n *NodeInfo) { n.ListenAddr = "a\nb:1" }, "ListenAddr", "host:port"},
		"port too large":           {func(n *NodeInfo) { n.ListenAddr = "a:65536" }, "ListenAddr", "65535"},
		"port by name":             {func(n *NodeInfo) { n.ListenAddr = "a:http" }, "ListenAddr", "not a number"},
		"long listen address":      {func(n *NodeInfo) { n.ListenAddr = long + ":1" }, "ListenAddr", "at most"},
		"long network":             {func(n *NodeInfo) { n.Network = long }, "Network", "at most"},
		"binary version":           {func(n *NodeInfo) { n.Version = "v\x001" }, "Version", "position 2"},
		"blank version":            {func(n *NodeInfo) { n.Version = "  " }, "Version", "empty"},
		"no moniker":               {func(n *NodeInfo) { n.Moniker = "" }, "Moniker", "empty"},
		"blank moniker":            {func(n *NodeInfo) { n.Moniker = " \x20" }, "Moniker", "empty"},
		"moniker beyond ASCII":     {func(n *NodeInfo) { n.Moniker = "café" }, "Moniker", "position 4"},
		"long moniker":             {func(n *NodeInfo) { n.Moniker = long }, "Moniker", "at most"},
		"channel twice":            {func(n *NodeInfo) { n.Channels = []ChannelID{1, 2, 1} }, "Channels", "0x01 is there twice"},
		"10,000 channels":          {func(n *NodeInfo) { n.Channels = manyChannels(10_000) }, "Channels", "10000 of them"},
		"index perhaps":            {func(n *NodeInfo) { n.Other.TxIndex = "perhaps" }, "Other.TxIndex", "perhaps"},
		"binary RPC address":       {func(n *NodeInfo) { n.Other.RPCAddress = "\x7f" }, "Other.RPCAddress", "0x7f"},
		"request channel twice":    {func(n *NodeInfo) { n.Extensions.RequestChannels = []ChannelID{7, 7} }, "Extensions.RequestChannels", "twice"},
		"many request channels":    {func(n *NodeInfo) { n.Extensions.RequestChannels = manyChannels(257) }, "Extensions.RequestChannels", "257"},
		"many addresses":           {func(n *NodeInfo) { n.Extensions.ListenAddrs = make([]string, 33) }, "Extensions.ListenAddrs", "33"},
		"long address":             {func(n *NodeInfo) { n.Extensions.ListenAddrs = []string{long} }, "Extensions.ListenAddrs", "at most"},
		"binary address":           {func(n *NodeInfo) { n.Extensions.ListenAddrs = []string{"a\x00"} }, "Extensions.ListenAddrs", "position 2"},
		"observed a name":          {func(n *NodeInfo) { n.Extensions.Observed = "localhost" }, "Extensions.Observed", "not an IP"},
	} {
		t.Run(name, func(t *testing.T) {
			info := validNodeInfo()
			c.change(&info)
			err := info.Validate()
			if c.field == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var fault *NodeInfoError
			if !errors.As(err, &fault) || fault.Field != c.field || !strings.Contains(err.Error(), c.says) || !errors.Is(err, ErrNodeInfo) {
				t.Fatalf("%v, want %s: %s", err, c.field, c.says)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error repeats %d bytes of what it was given", len(err.Error()))
			}
		})
	}
	info := validNodeInfo()
	info.NodeID = "x"
	if err := info.Validate(); !errors.Is(err, identity.ErrNodeID) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func TestNodeInfoCompatibleWith(t *testing.T) {
	for name, c := range map[string]struct {
		ours, theirs func(*NodeInfo)
		mismatch     Mismatch
		says         string // "" is compatible
	}{
		"equal":                 {nil, nil, 0, ""},
		"other p2p and app":     {nil, func(n *NodeInfo) { n.ProtocolVersion = ProtocolVersion{8, 11, 7} }, 0, ""},
		"one common channel":    {nil, func(n *NodeInfo) { n.Channels = []ChannelID{9, 0x21} }, 0, ""},
		"we announce none":      {func(n *NodeInfo) { n.Channels = nil }, nil, 0, ""},
		"other block version":   {nil, func(n *NodeInfo) { n.ProtocolVersion.Block = 10 }, MismatchBlock, "ours is 11, theirs 10"},
		"other network":         {nil, func(n *NodeInfo) { n.Network = "other" }, MismatchNetwork, `ours is "chain", theirs "other"`},
		"network not printable": {nil, func(n *NodeInfo) { n.Network = "\x1b[2J" }, MismatchNetwork, `theirs "\x1b[2J"`},
		"no common channel":     {nil, func(n *NodeInfo) { n.Channels = []ChannelID{5} }, MismatchChannels, "ours are 0x00 0x20 0x21, theirs 0x05"},
		"they announce none":    {nil, func(n *NodeInfo) { n.Channels = nil }, MismatchChannels, "theirs none"},
		"many channels": {func(n *NodeInfo) { n.Channels = manyChannels(256) }, func(n *NodeInfo) { n.Channels = []ChannelID{999} },
			MismatchChannels, "and 240 more, theirs 0x3e7"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := validNodeInfo(), validNodeInfo()
			if c.ours != nil {
				c.ours(&ours)
			}
			if c.theirs != nil {
				c.theirs(&theirs)
			}
			err := ours.CompatibleWith(theirs)
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var fault *IncompatibleError
			if !errors.As(err, &fault) || fault.Mismatch != c.mismatch || !strings.Contains(err.Error(), c.says) || !errors.Is(err, ErrIncompatible) {
				t.Fatalf("%v, want %v: %s", err, c.mismatch, c.says)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
	if got := MismatchBlock.String() + MismatchNetwork.String() + MismatchChannels.String() + Mismatch(9).String(); got != "block versionnetworkchannelsmismatch-9" {
		t.Error(got)
	}
}

// Whatever a peer says of itself, the checks end, repeat little of it, and accept
// only what can be shown to a person and sent on.
func FuzzNodeInfoValidate(f *testing.F) {
	n := validNodeInfo()
	f.Add(string(n.NodeID), n.ListenAddr, n.Network, n.Version, n.Moniker, n.Other.TxIndex, n.Other.RPCAddress, "1.2.3.4", []byte{1, 2})
	f.Add("", "://", "", "", "", "", "", "", []byte{1, 1})
	f.Add("x", "a:b:c", "\xff", "\x00", " ", "o", "\n", "::", []byte{})
	f.Fuzz(func(t *testing.T, id, listen, network, version, moniker, index, rpc, observed string, channels []byte) {
		info := NodeInfo{
			NodeID: NodeID(id), ListenAddr: listen, Network: network, Version: version, Moniker: moniker,
			Other: NodeInfoOther{index, rpc}, Extensions: Extensions{Observed: observed, ListenAddrs: []string{rpc}},
		}
		for _, c := range channels {
			info.Channels = append(info.Channels, ChannelID(c))
		}
		err := info.Validate()
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if len(info.Channels) > MaxNodeInfoChannels || strings.ContainsAny(listen+version+moniker+rpc, "\x00\n\r\x1b\x7f") {
			t.Fatalf("accepted: %+v", info)
		}
		if err := info.CompatibleWith(info); err != nil {
			t.Fatalf("not compatible with itself: %v", err)
		}
	})
}
