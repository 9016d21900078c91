package mconn

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/internal/pb/mconnv1"
	"github.com/kith-p2p/kith/p2p"
)

func channelsUpTo(n int) []p2p.ChannelID {
	var ids []p2p.ChannelID
	for i := range n {
		ids = append(ids, p2p.ChannelID(i))
	}
	return ids
}

// throughWire is a node info as the other side has it.
func throughWire(t testing.TB, info p2p.NodeInfo, kith bool) (p2p.NodeInfo, error) {
	t.Helper()
	b, err := encodeNodeInfo(info, kith)
	if err != nil {
		t.Fatal(err)
	}
	return decodeNodeInfo(undelimited(t, b), kith)
}

func TestNodeInfoRoundTrip(t *testing.T) {
	key := seeded(t, 3)
	plain := infoOf(key)
	wide := infoOf(key, 1, 2, 0x7f, 0x80, 0x1234, 0xffff)
	wide.Extensions = p2p.Extensions{RequestChannels: []p2p.ChannelID{1, 0x1234}, ListenAddrs: []string{"mconn://x@h:1", "libp2p://y@h:2"}, Observed: "192.0.2.7", Feeler: true}
	many := infoOf(key, channelsUpTo(maxChannels)...)
	for name, c := range map[string]struct {
		info, comet p2p.NodeInfo
	}{
		"plain": {plain, plain},
		"zero":  {p2p.NodeInfo{}, p2p.NodeInfo{}},
		"wide":  {wide, infoOf(key, 1, 2, 0x7f)},
		"many":  {many, infoOf(key, channelsUpTo(16)...)},
	} {
		if got, err := throughWire(t, c.info, false); err != nil || !reflect.DeepEqual(got, c.comet) {
			t.Errorf("%s, as CometBFT has it: %+v, %v", name, got, err)
		}
		c.info.Extensions.Kith = true
		if got, err := throughWire(t, c.info, true); err != nil || !reflect.DeepEqual(got, c.info) {
			t.Errorf("%s, between kith nodes:\n got %+v, %v\nwant %+v", name, got, err, c.info)
		}
	}
}

// Towards CometBFT a node info is what CometBFT would write: no field of ours.
func TestNodeInfoTowardsCometBFT(t *testing.T) {
	info := infoOf(seeded(t, 3), 0, 0x40, 0x80)
	info.Extensions = p2p.Extensions{Kith: true, RequestChannels: []p2p.ChannelID{1}, ListenAddrs: []string{"x"}, Observed: "192.0.2.7", Feeler: true}
	b, err := encodeNodeInfo(info, false)
	if err != nil {
		t.Fatal(err)
	}
	var m mconnv1.NodeInfo
	if err := proto.Unmarshal(undelimited(t, b), &m); err != nil {
		t.Fatal(err)
	}
	if unknown := m.ProtoReflect().GetUnknown(); len(unknown) > 0 || !bytes.Equal(m.GetChannels(), []byte{0, 0x40}) {
		t.Errorf("unknown fields %x, channels %x", unknown, m.GetChannels())
	}
	auth, err := encodeAuth(seeded(t, 3).Public(), make([]byte, 64), 0)
	if err != nil || len(auth) != 1+2+2+32+2+64 {
		t.Errorf("%d bytes, %v", len(auth), err)
	}
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	unknown := protowire.AppendString(protowire.AppendTag(nil, 777, protowire.BytesType), "from the future")
	unknown = protowire.AppendVarint(protowire.AppendTag(unknown, 4, protowire.VarintType), 9)
	key := seeded(t, 3).Public()
	b, err := encodeAuth(key, []byte("sig"), offerKith)
	if err != nil {
		t.Fatal(err)
	}
	raw, sig, offer, err := decodeAuth(append(undelimited(t, b), unknown...))
	if err != nil || !bytes.Equal(raw, key.Bytes()) || string(sig) != "sig" || offer != offerKith {
		t.Error(raw, sig, offer, err)
	}
	info := infoOf(seeded(t, 3))
	if b, err = encodeNodeInfo(info, true); err != nil {
		t.Fatal(err)
	}
	extended := protowire.AppendBytes(protowire.AppendTag(nil, moreField, protowire.BytesType), append(encodeMore(info), unknown...))
	got, err := decodeNodeInfo(append(append(undelimited(t, b), unknown...), extended...), true)
	info.Extensions.Kith = true
	if err != nil || !reflect.DeepEqual(got, info) {
		t.Errorf("%+v, %v", got, err)
	}
	// An offer, or more, of another type is no offer and no more.
	odd := protowire.AppendString(protowire.AppendTag(nil, offerField, protowire.BytesType), "x")
	if _, _, offer, err := decodeAuth(append(undelimited(t, mustAuth(t)), odd...)); err != nil || offer != 0 {
		t.Error(offer, err)
	}
	odd = protowire.AppendVarint(protowire.AppendTag(nil, moreField, protowire.VarintType), 5)
	if _, err := decodeNodeInfo(odd, true); err != nil {
		t.Error(err)
	}
}

func mustAuth(t testing.TB) []byte {
	b, err := encodeAuth(seeded(t, 3).Public(), make([]byte, 64), 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBadAuth(t *testing.T) {
	secp, err := proto.Marshal(&mconnv1.AuthSigMessage{PubKey: &mconnv1.PublicKey{Sum: &mconnv1.PublicKey_Secp256K1{Secp256K1: make([]byte, 33)}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"nothing": nil, "cut": {0x0a}, "another kind of key": secp, "no key": {0x12, 1, 1}} {
		if _, _, _, err := decodeAuth(b); !errors.Is(err, ErrAuth) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadNodeInfos(t *testing.T) {
	info := func(m *mconnv1.NodeInfo, more ...byte) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if more != nil {
			b = protowire.AppendBytes(protowire.AppendTag(b, moreField, protowire.BytesType), more)
		}
		return b
	}
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	var ids []byte
	for i := range maxChannels + 1 {
		ids = protowire.AppendVarint(ids, uint64(i))
	}
	addrs := bytes.Repeat(field(3, []byte("a")), maxListenAddrs+1)
	for name, b := range map[string][]byte{
		"cut":                    {0x0a, 5},
		"not UTF-8":              field(7, []byte{0xff}),
		"17 channels":            info(&mconnv1.NodeInfo{Channels: make([]byte, 17)}),
		"10,000 channels":        info(&mconnv1.NodeInfo{Channels: make([]byte, 10_000)}),
		"too many wide channels": info(&mconnv1.NodeInfo{}, field(1, ids)...),
		"too many requests":      info(&mconnv1.NodeInfo{}, field(2, ids)...),
		"a channel above 2^16":   info(&mconnv1.NodeInfo{}, field(1, []byte{0x80, 0x80, 4})...),
		"a channel of -1":        info(&mconnv1.NodeInfo{}, field(1, bytes.Repeat([]byte{0xff}, 10))...),
		"a cut channel":          info(&mconnv1.NodeInfo{}, field(1, []byte{0x80})...),
		"too many addresses":     info(&mconnv1.NodeInfo{}, addrs...),
		"a long address":         info(&mconnv1.NodeInfo{}, field(3, make([]byte, maxText+1))...),
		"a cut extension":        info(&mconnv1.NodeInfo{}, 0x0a, 9),
		"a cut tag":              info(&mconnv1.NodeInfo{}, 0x80),
	} {
		if _, err := decodeNodeInfo(b, true); !errors.Is(err, ErrNodeInfo) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Channels said often are said once.
	got, err := decodeNodeInfo(info(&mconnv1.NodeInfo{}, field(1, bytes.Repeat([]byte{5}, 5000))...), true)
	if err != nil || len(got.Channels) != 1 {
		t.Error(got.Channels, err)
	}
	long := infoOf(seeded(t, 3))
	long.Moniker = strings.Repeat("m", maxNodeInfo)
	if _, err := encodeNodeInfo(long, false); !errors.Is(err, ErrNodeInfo) {
		t.Error(err)
	}
	long.Moniker = "\xff"
	if _, err := encodeNodeInfo(long, false); !errors.Is(err, ErrNodeInfo) {
		t.Error(err)
	}
}

func FuzzNodeInfo(f *testing.F) {
	info := infoOf(seeded(f, 3), 1, 0x1234)
	info.Extensions = p2p.Extensions{RequestChannels: []p2p.ChannelID{1}, ListenAddrs: []string{"mconn://x@h:1"}}
	for _, kith := range formats {
		b, err := encodeNodeInfo(info, kith)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(undelimited(f, b), kith)
	}
	f.Fuzz(func(t *testing.T, in []byte, kith bool) {
		if len(in) > maxNodeInfo {
			return
		}
		var got p2p.NodeInfo
		var err error
		bounded(t, len(in), func() { got, err = decodeNodeInfo(in, kith) })
		if err != nil {
			return
		}
		again, err := encodeNodeInfo(got, kith)
		if err != nil {
			return // what fits one way need not fit the other
		}
		twice, err := decodeNodeInfo(undelimited(t, again), kith)
		for _, i := range []*p2p.NodeInfo{&got, &twice} { // the first field has only the low ones
			slices.Sort(i.Channels)
			i.Channels = slices.Compact(i.Channels)
		}
		if kith && (err != nil || !reflect.DeepEqual(twice, got)) {
			t.Fatalf("%+v, then %+v, %v", got, twice, err)
		}
	})
}

func FuzzAuth(f *testing.F) {
	f.Add(undelimited(f, mustAuth(f)))
	f.Add([]byte{0x0a, 2, 0x0a, 0, 0xa0, 0x06, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) <= maxAuth {
			bounded(t, len(in), func() { _, _, _, _ = decodeAuth(in) })
		}
	})
}
