package p2p

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/internal/pb/mconnv1"
)

func pexReply(field int, as ...NodeAddress) *pexMessage {
	m := &pexMessage{field: pexTell}
	if field == 2 {
		m.field = pexTellComet
	}
	for _, a := range as {
		m.add(a)
	}
	return m
}

// What is written by hand is what generated code reads, and the other way round.
func TestPEXMessagesAsGenerated(t *testing.T) {
	a, b := numberedAddress(1, 0), NodeAddress{Protocol: "mconn", NodeID: nodeID("b"), Hostname: "2a01:db9::1", Port: 65535}
	urls := &mconnv1.PexResponseV2{Addresses: []*mconnv1.PexAddrV2{{Url: a.String()}, {Url: b.String()}}}
	triples := &mconnv1.PexAddrs{Addrs: []*mconnv1.PexAddr{
		{Id: string(a.NodeID), Ip: a.Hostname, Port: uint32(a.Port)}, {Id: string(b.NodeID), Ip: b.Hostname, Port: uint32(b.Port)},
	}}
	for name, test := range map[string]struct {
		ours      *pexMessage
		generated *mconnv1.PexMessage
	}{
		"question":             {&pexMessage{field: pexAsk}, &mconnv1.PexMessage{Sum: &mconnv1.PexMessage_RequestV2{RequestV2: &mconnv1.PexRequestV2{}}}},
		"question to CometBFT": {&pexMessage{field: pexAskComet}, &mconnv1.PexMessage{Sum: &mconnv1.PexMessage_Request{Request: &mconnv1.PexRequest{}}}},
		"reply":                {pexReply(4, a, b), &mconnv1.PexMessage{Sum: &mconnv1.PexMessage_ResponseV2{ResponseV2: urls}}},
		"reply to CometBFT":    {pexReply(2, a, b), &mconnv1.PexMessage{Sum: &mconnv1.PexMessage_Addrs{Addrs: triples}}},
		"empty reply":          {pexReply(4), &mconnv1.PexMessage{Sum: &mconnv1.PexMessage_ResponseV2{ResponseV2: &mconnv1.PexResponseV2{}}}},
	} {
		codec, err := newCodec((*pexMessage)(nil))
		if err != nil {
			t.Fatal(err)
		}
		wire, err := codec.encode(nil, test.ours, pexMaxBytes)
		want, _ := proto.Marshal(test.generated)
		if err != nil || !bytes.Equal(wire, want) || proto.Size(test.ours) != len(want) {
			t.Fatalf("%s: %x, %v, want %x", name, wire, err, want)
		}
		got, err := codec.decode(want)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m := got.(*pexMessage)
		if m.field != test.ours.field || !bytes.Equal(m.body, test.ours.body) {
			t.Fatalf("%s: %v", name, m)
		}
		var as []NodeAddress
		for entry := range m.entries() {
			if m.field == pexTell || m.field == pexTellComet {
				read, err := m.address(entry)
				if err != nil {
					t.Fatal(name, err)
				}
				as = append(as, read)
			}
		}
		if len(test.ours.body) > 0 && fmt.Sprint(as) != fmt.Sprint([]NodeAddress{a, b}) {
			t.Errorf("%s: %v", name, as)
		}
	}
	m := pexReply(4, a)
	if m.ProtoReflect().Interface() != proto.Message(m) || !m.ProtoReflect().IsValid() || m.ProtoReflect().Type().Zero().IsValid() {
		t.Error("not a proto.Message as others are")
	}
	if _, ok := m.ProtoReflect().New().Interface().(*pexMessage); !ok {
		t.Error("New makes another kind of message")
	}
	if proto.Reset(m); m.field != 0 {
		t.Error("Reset keeps something")
	}
}

func TestPEXAddresses(t *testing.T) {
	id := string(nodeID("a"))
	comet := func(id, ip string, port uint32) []byte {
		b, _ := proto.Marshal(&mconnv1.PexAddr{Id: id, Ip: ip, Port: port})
		return b
	}
	url := func(u string) []byte {
		b, _ := proto.Marshal(&mconnv1.PexAddrV2{Url: u})
		return b
	}
	for name, test := range map[string]struct {
		field int
		entry []byte
		want  string // "": refused
	}{
		"comet":          {2, comet(id, "80.1.1.1", 5), "mconn://" + id + "@80.1.1.1:5"},
		"comet v6":       {2, comet(id, "2a01:0db9::1", 5), "mconn://" + id + "@[2a01:db9::1]:5"},
		"comet mapped":   {2, comet(id, "::ffff:80.1.1.1", 5), "mconn://" + id + "@80.1.1.1:5"},
		"no port":        {2, comet(id, "80.1.1.1", 0), ""},
		"port too large": {2, comet(id, "80.1.1.1", 65536), ""},
		"a name":         {2, comet(id, "host.example", 5), ""},
		"a zone":         {2, comet(id, "fe80::1%eth0", 5), ""},
		"long IP":        {2, comet(id, strings.Repeat("0", 46), 5), ""},
		"no ID":          {2, comet("", "80.1.1.1", 5), ""},
		"bad ID":         {2, comet(strings.Repeat("z", 40), "80.1.1.1", 5), ""},
		"empty":          {2, nil, ""},
		"url":            {4, url("mconn://" + id + "@80.1.1.1:5"), "mconn://" + id + "@80.1.1.1:5"},
		"memory":         {4, url("memory:" + id), "memory:" + id},
		"short":          {4, url("x"), ""},
		"long":           {4, url("mconn://" + id + "@80.1.1.1:5/" + strings.Repeat("x", pexMostURL)), ""},
		"nonsense":       {4, url(strings.Repeat("x", 60)), ""},
	} {
		a, err := pexReply(test.field).address(test.entry)
		if test.want == "" && err == nil || test.want != "" && (err != nil || a.String() != test.want) {
			t.Errorf("%s: %v, %v, want %q", name, a, err, test.want)
		}
	}
}

func TestPEXRefusesWhatIsMalformed(t *testing.T) {
	for name, wire := range map[string]string{
		"nothing": "", "no field of ours": "\x28\x01", "half a tag": "\x80", "half a length": "\x22\x80", "too short": "\x22\x05x",
		"half a number": "\x28\x80", "a group without end": "\x23", "a reply that is cut": "\x22\x03\x0a\x05x",
		"half a tag in a reply": "\x22\x01\x80", "half a field in a reply": "\x22\x02\x15\x01", "an address that is cut": "\x22\x04\x0a\x02\x0a\x05",
	} {
		if err := new(pexMessage).parse([]byte(wire)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	// Fields that we do not know are passed over, everywhere.
	m, n := new(pexMessage), 0
	if err := m.parse([]byte("\x78\x01\x22\x04\x10\x01\x0a\x00")); err != nil {
		t.Fatal(err)
	}
	for range m.entries() {
		if n++; n == 1 {
			break
		}
	}
	if n != 1 {
		t.Fatalf("%d addresses", n)
	}
}

// A reply stays below what a peer takes, whatever the addresses (celestia-core
// #2524: 64,512 B where 64,000 were allowed).
func TestRegressionPEXReplyFits(t *testing.T) {
	m := &pexMessage{field: pexTell}
	long := NodeAddress{Protocol: "x", NodeID: nodeID("a"), Path: "/" + strings.Repeat("x", 900)}
	n := 0
	for ; m.add(long); n++ {
		if n > 1000 {
			t.Fatal("no end")
		}
	}
	if size := proto.Size(m); size > pexMaxBytes || size < pexMaxBytes-1000 || n < 60 {
		t.Fatalf("%d addresses, %d bytes", n, size)
	}
	if !(&pexMessage{field: pexTell}).add(long) {
		t.Fatal("the first does not fit")
	}
}

// pexCost is what reading a message as learn does allocates.
func pexCost(wire []byte) (bytes uint64, read int) {
	codec, _ := newCodec((*pexMessage)(nil))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := codec.decode(wire)
	if err == nil {
		for entry := range m.(*pexMessage).entries() {
			if read == pexAccept {
				break
			}
			read++
			_, _ = m.(*pexMessage).address(entry)
		}
	}
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, read
}

func pexBound(wire []byte) uint64 { return 4*uint64(len(wire)) + 64<<10 }

// Messages that cost most for their length.
func hostilePEX() map[string][]byte {
	frame := func(field byte, entry string, n int) []byte {
		body := strings.Repeat("\x0a"+string(rune(len(entry)))+entry, n)
		m := &pexMessage{body: []byte(body)}
		if m.field = pexTell; field == 2 {
			m.field = pexTellComet
		}
		b, _ := proto.Marshal(m)
		return b
	}
	text := func(s string) string { return "\x0a" + string(rune(len(s))) + s }
	return map[string][]byte{
		"empty addresses":     frame(2, "", 31_000),
		"empty URLs":          frame(4, "", 31_000),
		"short nonsense":      frame(4, text(strings.Repeat("x", pexLeastURL)), 250),
		"nonsense ports":      frame(4, text("mconn://"+strings.Repeat("a", 40)+"@1.1.1.1:99999"), 250),
		"good URLs":           frame(4, text("x:"+strings.Repeat("a", 40)), 250),
		"good, with IP":       frame(4, text("mconn://"+strings.Repeat("a", 40)+"@[2a01:db9::1]:5"), 250),
		"bad escapes":         frame(4, text("mconn://"+strings.Repeat("%", 60)), 250),
		"comet":               frame(2, text(strings.Repeat("a", 40))+"\x12\x071.1.1.1\x18\x05", 250),
		"comet, bad IP":       frame(2, text(strings.Repeat("a", 40))+"\x12\x03x:x\x18\x05", 250),
		"unknown fields":      bytes.Repeat([]byte{0x78, 1}, 32_000),
		"the oneof set often": bytes.Repeat([]byte{0x12, 0}, 32_000),
	}
}

func TestPEXMessagesCostWhatTheyWeigh(t *testing.T) {
	for name, wire := range hostilePEX() {
		best := ^uint64(0)
		for range 5 { // another goroutine of the runtime may allocate meanwhile
			cost, _ := pexCost(wire)
			best = min(best, cost)
		}
		t.Logf("%s: %d bytes cost %d", name, len(wire), best)
		if best > pexBound(wire) {
			t.Errorf("%s: %d bytes cost %d, at most %d are right", name, len(wire), best, pexBound(wire))
		}
	}
}

func FuzzPEXMessage(f *testing.F) {
	for _, wire := range hostilePEX() {
		f.Add(wire[:min(len(wire), 2000)])
	}
	for _, s := range []string{"", "\x0a\x00", "\x1a\x00", "\x12\x02\x0a\x00", "\x22\x04\x0a\x02\x0a\x00", "\x22\xff\xff\xff\xff\x0f", "\x22\x03\x0a\x05x", "\x23\x24", "\x22\x02\x0b\x0c"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		if len(wire) > pexMaxBytes {
			return
		}
		if cost, _ := pexCost(wire); cost > pexBound(wire) {
			if again, _ := pexCost(wire); again > pexBound(wire) {
				t.Fatalf("%d bytes cost %d", len(wire), again)
			}
		}
		var m pexMessage
		if m.parse(wire) != nil {
			return
		}
		if m.field < pexAskComet || m.field > pexTell {
			t.Fatal("no field")
		}
		again := &pexMessage{field: m.field}
		for entry := range m.entries() {
			if (m.field == pexTell || m.field == pexTellComet) && entry == nil {
				t.Fatal("malformed, and accepted")
			}
			a, err := m.address(entry)
			if err != nil {
				continue
			}
			if a.Validate() != nil {
				t.Fatalf("%v is not in canonical form", a)
			}
			if again.body = nil; !again.add(a) {
				continue
			}
			for e := range again.entries() {
				if b, err := again.address(e); err != nil || b != a {
					t.Fatalf("%v comes back as %v, %v", a, b, err)
				}
			}
		}
	})
}
