package mconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/internal/pb/mconnv1"
)

// undelimited takes the length off one packet.
func undelimited(t testing.TB, b []byte) []byte {
	t.Helper()
	n, k := binary.Uvarint(b)
	if k <= 0 || int(n) != len(b)-k {
		t.Fatalf("%x is not one delimited packet", b)
	}
	return b[k:]
}

// The vectors of the wire.
func TestPacketVectors(t *testing.T) {
	want(t, appendControl(nil, packetPing), "020a00")
	want(t, appendControl(nil, packetPong), "021200")
	want(t, appendMessage(nil, 1, false, []byte("data transmitted over the wire")),
		"241a2208011a1e64617461207472616e736d6974746564206f766572207468652077697265")
	// Zero fields are absent.
	want(t, appendMessage(nil, 0, true, nil), "041a021001")
	want(t, appendMessage(nil, 0, false, nil), "021a00")
	// What a receiver with CometBFT's defaults takes: 1,034 bytes.
	if got := undelimited(t, appendMessage(nil, 1, true, make([]byte, packetData))); len(got) != 1034 {
		t.Error(len(got))
	}
	if got := undelimited(t, appendMessage(nil, commonChannel, true, make([]byte, packetData))); len(got) != 1034 {
		t.Error("the highest common channel:", len(got))
	}
}

// generated is the packet as the generated code reads it.
func generated(b []byte) (packet, bool) {
	var m mconnv1.Packet
	if proto.Unmarshal(b, &m) != nil {
		return packet{}, false
	}
	switch sum := m.Sum.(type) {
	case *mconnv1.Packet_Ping:
		return packet{kind: packetPing}, true
	case *mconnv1.Packet_Pong:
		return packet{kind: packetPong}, true
	case *mconnv1.Packet_Msg:
		return packet{kind: packetMessage, channel: sum.Msg.GetChannelId(), eof: sum.Msg.GetEof(), data: sum.Msg.GetData()}, true
	}
	return packet{}, false
}

// Whatever we write, the generated code reads and writes the same.
func TestPacketsAgreeWithGeneratedCode(t *testing.T) {
	for _, channel := range []uint16{0, 1, 0x40, 0x7f, 0x80, 0x3fff, 0x4000, 0xffff} {
		for _, eof := range []bool{false, true} {
			for _, n := range []int{0, 1, 127, 128, 1023, 1024, widePacketData} {
				data := bytes.Repeat([]byte{9}, n)
				ours := undelimited(t, appendMessage(nil, channel, eof, data))
				theirs, err := proto.MarshalOptions{Deterministic: true}.Marshal(&mconnv1.Packet{Sum: &mconnv1.Packet_Msg{
					Msg: &mconnv1.PacketMsg{ChannelId: int32(channel), Eof: eof, Data: data},
				}})
				if err != nil || !bytes.Equal(ours, theirs) {
					t.Fatalf("channel %#x, eof %v, %d bytes: %x, want %x (%v)", channel, eof, n, ours, theirs, err)
				}
				if common, ok := parseCommon(ours); !ok || common.channel != int32(channel) || common.eof != eof || !bytes.Equal(common.data, data) {
					t.Fatalf("channel %#x, eof %v, %d bytes: the common path reads %v, %v", channel, eof, n, common, ok)
				}
				if head := len(ours) - n + varintSize(uint64(len(ours))); head > maxPacketHead {
					t.Fatalf("a head of %d bytes", head)
				}
			}
		}
	}
}

func TestOddPackets(t *testing.T) {
	big := binary.AppendUvarint(nil, math.MaxUint64)
	for name, c := range map[string]struct {
		in   string
		want packet
		err  error
	}{
		"nothing":              {"", packet{}, ErrUnknownPacket},
		"an unknown field":     {"2a00", packet{}, ErrUnknownPacket},
		"an unknown number":    {"2005", packet{}, ErrUnknownPacket},
		"a goodbye":            {"2200", packet{}, ErrUnknownPacket},
		"unknown and ping":     {"2a020102" + "0a00", packet{kind: packetPing}, nil},
		"ping and unknown":     {"0a00" + "2a020102", packet{kind: packetPing}, nil},
		"unknown in a ping":    {"0a022a00", packet{kind: packetPing}, nil},
		"unknown in a message": {"1a06" + "2a00" + "0801" + "1001", packet{kind: packetMessage, channel: 1, eof: true}, nil},
		"ping then pong":       {"0a00" + "1200", packet{kind: packetPong}, nil},
		"message then ping":    {"1a020801" + "0a00", packet{kind: packetPing}, nil},
		"a message in parts":   {"1a020801" + "1a021001" + "1a031a0107", packet{kind: packetMessage, channel: 1, eof: true, data: []byte{7}}, nil},
		"fields turned round":  {"1a071a0107" + "1001" + "0801", packet{kind: packetMessage, channel: 1, eof: true, data: []byte{7}}, nil},
		"a field twice":        {"1a04" + "0801" + "0802", packet{kind: packetMessage, channel: 2}, nil},
		"a long varint":        {"1a04" + "08818000", packet{kind: packetMessage, channel: 1}, nil},
		"a long length":        {"1a828000" + "0801", packet{kind: packetMessage, channel: 1}, nil},
		"a negative channel":   {"1a0b" + "08ffffffffffffffffff01", packet{kind: packetMessage, channel: -1}, nil},
		"a channel above 2^32": {"1a06" + "088180808010", packet{kind: packetMessage, channel: 1}, nil},
		"eof of 2":             {"1a02" + "1002", packet{kind: packetMessage, eof: true}, nil},
		"channel as bytes":     {"1a03" + "0a0101", packet{kind: packetMessage}, nil},
		"ping as a number":     {"0801", packet{}, ErrUnknownPacket},
		"cut tag":              {"80", packet{}, ErrMalformed},
		"cut length":           {"1a", packet{}, ErrMalformed},
		"cut body":             {"1a05" + "0801", packet{}, ErrMalformed},
		"cut in the message":   {"1a01" + "08", packet{}, ErrMalformed},
		"cut in the tag":       {"1a01" + "80", packet{}, ErrMalformed},
		"field 0":              {"0200", packet{}, ErrMalformed},
		"a field above 2^29":   {"1a08" + "f5f5f5f5" + "30303030", packet{}, ErrMalformed}, // found by fuzzing
		"an open group":        {"2b", packet{}, ErrMalformed},
		"a length of 2^31":     {"1a" + "8080808008", packet{}, ErrMalformed},
		"a length of 2^63":     {"1a" + "80808080808080808001", packet{}, ErrMalformed},
		"a length of -1":       {"1a" + string(hexOf(big)), packet{}, ErrMalformed},
		"data of -1":           {"1a0b1a" + string(hexOf(big)), packet{}, ErrMalformed},
		"an endless varint":    {"1a" + strings.Repeat("ff", 20), packet{}, ErrMalformed},
	} {
		in := unhex(t, c.in)
		got, err := parsePacket(in, false)
		if !errors.Is(err, c.err) || err == nil && (got.kind != c.want.kind || got.channel != c.want.channel || got.eof != c.want.eof || !bytes.Equal(got.data, c.want.data)) {
			t.Errorf("%s: %+v, %v; want %+v, %v", name, got, err, c.want, c.err)
		}
		if theirs, ok := generated(in); ok != (err == nil) || ok && theirs.kind != got.kind {
			t.Errorf("%s: the generated code reads %+v, %v", name, theirs, ok)
		}
	}
}

func hexOf(b []byte) []byte {
	const digits = "0123456789abcdef"
	var out []byte
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return out
}

func TestPacketsDoNotAllocate(t *testing.T) {
	data := make([]byte, packetData)
	buffer := make([]byte, 0, 2*packetData)
	odd := unhex(t, "2a020102"+"1a071a0107"+"1001"+"0801")
	if n := testing.AllocsPerRun(100, func() {
		b := appendMessage(buffer, 0x40, true, data)
		if p, err := parsePacket(b[2:], false); err != nil || len(p.data) != packetData {
			t.Fatal(p, err)
		}
		if p, err := parsePacket(odd, true); err != nil || p.channel != 1 {
			t.Fatal(p, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestGoodbyePackets(t *testing.T) {
	long := strings.Repeat("x", maxReason+1)
	var many []string
	for range maxGoodbyePeers + 1 {
		many = append(many, strings.Repeat("m", maxPeerURL))
	}
	for name, c := range map[string]struct {
		reason string
		peers  []string
		want   GoodbyeError
	}{
		"nothing":    {"", nil, GoodbyeError{}},
		"a reason":   {"too many peers", []string{"mconn://a@h:1", "mconn://b@h:2"}, GoodbyeError{Reason: "too many peers", Peers: []string{"mconn://a@h:1", "mconn://b@h:2"}}},
		"too long":   {long, []string{strings.Repeat("u", maxPeerURL+1), "ok"}, GoodbyeError{Reason: long[:maxReason], Peers: []string{"ok"}}},
		"many peers": {"", many, GoodbyeError{Peers: many[:(widePacketData-packetSlack)/(maxPeerURL+3)]}},
	} {
		packed := undelimited(t, appendGoodbye(nil, c.reason, c.peers))
		if len(packed) > widePacketData+packetSlack {
			t.Errorf("%s: %d bytes", name, len(packed))
		}
		p, err := parsePacket(packed, true)
		if err != nil || p.kind != packetGoodbye {
			t.Errorf("%s: %v, %v", name, p.kind, err)
			continue
		}
		got := parseGoodbye(p.data)
		if got.Reason != c.want.Reason || strings.Join(got.Peers, " ") != strings.Join(c.want.Peers, " ") {
			t.Errorf("%s: %d peers, %q", name, len(got.Peers), got.Reason)
		}
	}
	// Above the limits, of other types, cut: left out.
	var b []byte
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, 7)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, long)
	if got := parseGoodbye(b); got.Reason != "" {
		t.Errorf("%.20q", got.Reason)
	}
	if got := parseGoodbye([]byte{0x0a}); got.Reason != "" {
		t.Error(got)
	}
	if got := parseGoodbye([]byte{0x80}); got.Reason != "" {
		t.Error(got)
	}
}

// Our parser and the generated code read every byte string alike, and ours
// takes no memory for it.
func FuzzPacket(f *testing.F) {
	f.Add([]byte{0x0a, 0})
	f.Add([]byte{0x12, 0})
	f.Add(appendMessage(nil, 1, false, []byte("data"))[1:])
	f.Add(appendMessage(nil, 0x80, true, make([]byte, 300))[2:])
	f.Add([]byte{0x1a, 4, 8, 0x81, 0x80, 0})
	f.Add([]byte{0x2b, 0x2c, 0x0a, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		var got packet
		var err error
		bounded(t, len(in), func() { got, err = parsePacket(in, false) })
		want, ok := generated(in)
		if ok != (err == nil) {
			t.Fatalf("%x: %+v, %v; the generated code: %+v, %v", in, got, err, want, ok)
		}
		if err == nil && (got.kind != want.kind || got.channel != want.channel || got.eof != want.eof || !bytes.Equal(got.data, want.data)) {
			t.Fatalf("%x: %+v; the generated code: %+v", in, got, want)
		}
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnknownPacket) {
			t.Fatal(err)
		}
		bounded(t, len(in), func() {
			if kith, err := parsePacket(in, true); err == nil && kith.kind == packetGoodbye {
				parseGoodbye(kith.data)
			}
		})
	})
}
