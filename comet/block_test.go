package comet

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kith-p2p/kith/comet/comettest"
	"github.com/kith-p2p/kith/internal/pb/cometv1"
)

// realBlocks are messages of channel 0x40 from real nodes, and the hashes that
// their RPC gave.
var realBlocks = []struct {
	file, network, hash string
	height              int64
	txs                 []string
}{
	{"v0.38.17-1", "test-chain-jtiKmi", "B36167E1093E0788ACB7ABF1F6EE47E8554DC7AAF95E813D86964797BD3E409B", 1, nil},
	{"v0.38.17-2", "test-chain-jtiKmi", "4180D586786300490D8191E59EFCF70D52AD5734E624FD3B902751C088807CCC", 2, []string{"name=satoshi"}},
	{"v1.0.1-1", "test-chain-mnxKGA", "014EDC426C2525C0C454FDDF8CC3D4FCFA1C87D66C902AB9F53DD59A4CF5B65E", 1, nil},
	{"v1.0.1-2", "test-chain-mnxKGA", "CE3A67FD9EE1914FD0DAAE7174C892E0D92ED1C9A1A261B28919F73739D5FFB6", 2, []string{"name=satoshi"}},
}

func realBlock(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRealBlocks(t *testing.T) {
	previous := ""
	for _, want := range realBlocks {
		m, err := readMessage(realBlock(t, want.file))
		if err != nil || m.kind != tellBlock {
			t.Fatal(m, err)
		}
		if h, err := m.height(); err != nil || h != want.height {
			t.Errorf("%s: height %d, %v", want.file, h, err)
		}
		b, err := newBlock(m.body, want.height, want.network)
		if err != nil {
			t.Fatal(want.file, err)
		}
		if b.Hash.String() != want.hash || b.Height != want.height || b.Network != want.network || len(b.Proposer) != 20 || b.Time.Year() < 2025 || len(b.Txs) != len(want.txs) {
			t.Errorf("%s: %+v", want.file, b)
		}
		for i, tx := range want.txs {
			if string(b.Txs[i]) != tx {
				t.Errorf("%s: %q", want.file, b.Txs)
			}
		}
		if want.height == 2 && b.Previous.String() != previous || want.height == 1 && len(b.Previous) != 0 {
			t.Errorf("%s: follows %v, not %s", want.file, b.Previous, previous)
		}
		previous = b.Hash.String()
		if text, err := json.Marshal(b.Hash); err != nil || string(text) != `"`+want.hash+`"` {
			t.Error(string(text), err)
		}
		// A bit of the header, wherever, makes another hash or no block, unless it
		// only spells the same header otherwise (the bits of a varint above 32, say).
		header, _, err := blockParts(m.body)
		if err != nil {
			t.Fatal(err)
		}
		read := func() *cometv1.Header {
			h := new(cometv1.Header)
			if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(header, h); err != nil {
				t.Fatal(err)
			}
			return h
		}
		genuine := read()
		for bit := range 8 * len(header) {
			header[bit/8] ^= 1 << (bit % 8) // part of m.body
			if other, err := newBlock(m.body, want.height, want.network); err == nil && bytes.Equal(other.Hash, b.Hash) && !proto.Equal(read(), genuine) {
				t.Errorf("%s: bit %d of byte %d of the header changes nothing", want.file, bit%8, bit/8)
			}
			header[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// The incremental tree against the definition.
func TestMerkle(t *testing.T) {
	for n := range 70 {
		leaves := make([][]byte, n)
		var m merkle
		for i := range leaves {
			leaves[i] = fmt.Append(nil, "leaf ", i*n)
			m.add(leaves[i])
		}
		if got, want := m.sum(), comettest.Root(leaves); !bytes.Equal(got, want) {
			t.Errorf("%d leaves: %x, want %x", n, got, want)
		}
	}
	// Of no leaves and of one empty leaf, as sha256sum has them for "" and for a zero byte.
	var none, empty merkle
	empty.add(nil)
	if got := hex.EncodeToString(none.sum()); got != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Error(got)
	}
	if got := hex.EncodeToString(empty.sum()); got != "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d" {
		t.Error(got)
	}
}

// lengthPrefixed is a field that claims a length, whatever follows.
func lengthPrefixed(field protowire.Number, length uint64, body ...byte) []byte {
	return append(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), length), body...)
}

// badBlocks are responses that no honest node sends when it is asked for block 2.
func badBlocks(t testing.TB) map[string][]byte {
	first := comettest.NextBlock(nil, []byte("a=b"))
	change := func(f func(*cometv1.Block)) []byte {
		b := comettest.NextBlock([]*cometv1.Block{first}, []byte("c=d"), []byte("e=f"))
		f(b)
		out, err := proto.Marshal(&cometv1.BlockResponse{Block: b})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	return map[string][]byte{
		"nothing":             {},
		"an empty block":      lengthPrefixed(1, 0),
		"no header":           change(func(b *cometv1.Block) { b.Header = nil }),
		"no data":             change(func(b *cometv1.Block) { b.Data = nil }),
		"another height":      change(func(b *cometv1.Block) { b.Header.Height = 3 }),
		"a negative height":   change(func(b *cometv1.Block) { b.Header.Height = -2 }),
		"another network":     change(func(b *cometv1.Block) { b.Header.ChainId = strings.Repeat("x", 50_000) }),
		"a transaction more":  change(func(b *cometv1.Block) { b.Data.Txs = append(b.Data.Txs, []byte("g=h")) }),
		"a transaction less":  change(func(b *cometv1.Block) { b.Data.Txs = b.Data.Txs[:1] }),
		"an order reversed":   change(func(b *cometv1.Block) { b.Data.Txs[0], b.Data.Txs[1] = b.Data.Txs[1], b.Data.Txs[0] }),
		"a changed hash":      change(func(b *cometv1.Block) { b.Header.DataHash[0]++ }),
		"no time":             change(func(b *cometv1.Block) { b.Header.Time = nil }),
		"the year 10000":      change(func(b *cometv1.Block) { b.Header.Time = &timestamppb.Timestamp{Seconds: 253402300800} }),
		"a time out of range": change(func(b *cometv1.Block) { b.Header.Time = &timestamppb.Timestamp{Nanos: -1} }),
		"a long header":       change(func(b *cometv1.Block) { b.Header.AppHash = make([]byte, maxHeader) }),
		"a block of 2^31":     lengthPrefixed(1, 1<<31, 0),
		"a block of 2^63":     lengthPrefixed(1, 1<<63, 0),
		"a header of 2^31":    lengthPrefixed(1, 7, lengthPrefixed(1, 1<<31, 0)...),
		"data of 2^31":        append(lengthPrefixed(1, 9), append(lengthPrefixed(1, 0), append(lengthPrefixed(2, 1<<31), 0)...)...),
		"a cut varint":        lengthPrefixed(1, 1, 0xff),
		"field 0":             {0x02, 0x00},
		"a group without end": {0x0b},
	}
}

func TestBadBlocks(t *testing.T) {
	for name, body := range badBlocks(t) {
		cost(t, name, len(body), func() {
			if b, err := newBlock(body, 2, comettest.Network); !errors.Is(err, ErrInvalid) || b.Height != 0 || len(err.Error()) > 400 {
				t.Errorf("%s: %+v, %v", name, b, err)
			}
		})
	}
}

// cost fails if f allocates more than the input is worth: 24 bytes for each
// transaction, which can be as short as two, and the header's fields.
func cost(t testing.TB, name string, n int, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(13*n+128<<10); got > most {
		t.Fatalf("%s: %d bytes allocated for %d, at most %d are allowed", name, got, n, most)
	}
}

// A block of a million empty transactions costs what its slices do.
func TestManyTransactions(t *testing.T) {
	txs := make([][]byte, 1_000_000)
	body, err := proto.Marshal(&cometv1.BlockResponse{Block: comettest.NextBlock(nil, txs...)})
	if err != nil {
		t.Fatal(err)
	}
	cost(t, "a million", len(body), func() {
		b, err := newBlock(body, 1, comettest.Network)
		if err != nil || len(b.Txs) != len(txs) {
			t.Errorf("%d transactions, %v", len(b.Txs), err)
		}
	})
}

func TestMessages(t *testing.T) {
	number := func(field protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), v)
	}
	for name, tc := range map[string]struct {
		wire   []byte
		kind   protowire.Number
		height int64
		status Status
		fault  bool
	}{
		"a question":              {lengthPrefixed(1, 2, number(1, 7)...), askBlock, 7, Status{}, false},
		"no block":                {lengthPrefixed(2, 2, number(1, 7)...), noBlock, 7, Status{}, false},
		"a status":                {lengthPrefixed(5, 4, append(number(1, 7), number(2, 3)...)...), tellStatus, 7, Status{7, 3}, false},
		"an empty status":         {lengthPrefixed(5, 0), tellStatus, 0, Status{}, false},
		"a status below":          {lengthPrefixed(5, 4, append(number(1, 3), number(2, 7)...)...), tellStatus, 3, Status{}, true},
		"a negative base":         {lengthPrefixed(5, 11, number(2, 1<<64-1)...), tellStatus, 0, Status{}, true},
		"a negative height":       {lengthPrefixed(5, 11, number(1, 1<<64-1)...), tellStatus, -1, Status{}, true},
		"a status of 2^31":        {lengthPrefixed(5, 1<<31), 0, 0, Status{}, true},
		"nothing":                 {nil, 0, 0, Status{}, true},
		"only what nobody knows":  {lengthPrefixed(9, 1, 0), 0, 0, Status{}, true},
		"a number for a message":  {number(5, 1), 0, 0, Status{}, true},
		"the last of two":         {append(lengthPrefixed(1, 0), lengthPrefixed(4, 0)...), askStatus, 0, Status{}, false},
		"with what nobody knows":  {append(lengthPrefixed(4, 0), append(number(77, 5), protowire.AppendFixed64(protowire.AppendTag(nil, 78, protowire.Fixed64Type), 1)...)...), askStatus, 0, Status{}, false},
		"a status without an end": {lengthPrefixed(5, 1, 0x08), tellStatus, 0, Status{}, true},
	} {
		m, err := readMessage(tc.wire)
		if m.kind != tc.kind {
			t.Errorf("%s: kind %d", name, m.kind)
		}
		status := Status{}
		if err == nil && m.kind == tellStatus {
			if status, err = m.status(); err != nil {
				status = Status{}
			}
		}
		if tc.fault != (err != nil) || err != nil && !errors.Is(err, ErrInvalid) || status != tc.status {
			t.Errorf("%s: %+v, %v", name, status, err)
		}
		if h, err := m.height(); m.kind != 0 && name != "a status without an end" && (err != nil || h != tc.height) {
			t.Errorf("%s: height %d, %v", name, h, err)
		}
	}
}

// Whatever comes as a message is read or refused, in memory that it is worth, and
// a block that is taken is what it says.
func FuzzMessage(f *testing.F) {
	for _, b := range realBlocks {
		f.Add(realBlock(f, b.file), b.height, b.network)
	}
	for _, body := range badBlocks(f) {
		f.Add(lengthPrefixed(3, uint64(len(body)), body...), int64(2), comettest.Network)
	}
	f.Fuzz(func(t *testing.T, wire []byte, height int64, network string) {
		cost(t, "a message", len(wire)+len(network), func() {
			m, err := readMessage(wire)
			if err != nil {
				if !errors.Is(err, ErrInvalid) {
					t.Error(err)
				}
				return
			}
			if _, err := m.height(); err != nil && !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
			if s, err := m.status(); err == nil && (s.Base < 0 || s.Height < s.Base) {
				t.Errorf("%+v", s)
			}
			b, err := newBlock(m.body, height, network)
			if err != nil {
				if !errors.Is(err, ErrInvalid) {
					t.Error(err)
				}
				return
			}
			if b.Height != height || b.Network != network || len(b.Hash) != 32 || b.Time.Before(time.Time{}) {
				t.Errorf("%+v", b)
			}
			if _, err := b.Time.MarshalJSON(); err != nil {
				t.Error(err)
			}
		})
	})
}
