package libp2p

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kith-p2p/kith/p2p"
)

const testID = p2p.NodeID("abababababababababababababababababababab")

func fullInfo() p2p.NodeInfo {
	i := p2p.NodeInfo{
		ProtocolVersion: p2p.ProtocolVersion{P2P: 9, Block: 1 << 40, App: 1}, NodeID: testID, ListenAddr: "tcp://127.0.0.1:26656",
		Network: "chain", Version: "1.0.1", Moniker: "node one", Channels: []p2p.ChannelID{0, 0x20, 0xffff},
		Other: p2p.NodeInfoOther{TxIndex: "on", RPCAddress: "tcp://127.0.0.1:26657"},
		Extensions: p2p.Extensions{
			Kith: true, RequestChannels: []p2p.ChannelID{0x20}, Observed: "2001:db8::1", Feeler: true,
			ListenAddrs: []string{"mconn://" + string(testID) + "@1.2.3.4:5", "memory:" + string(testID)},
		},
	}
	return i
}

func TestHelloRoundTrip(t *testing.T) {
	longest := fullInfo()
	for _, s := range []*string{&longest.Network, &longest.Version, &longest.Moniker, &longest.Other.RPCAddress} {
		*s = strings.Repeat("x", p2p.MaxNodeInfoString)
	}
	longest.ListenAddr = strings.Repeat("x", p2p.MaxNodeInfoString-2) + ":1"
	longest.Channels, longest.Extensions.RequestChannels, longest.Extensions.ListenAddrs = nil, nil, nil
	for i := range p2p.MaxNodeInfoChannels {
		longest.Channels = append(longest.Channels, p2p.ChannelID(0xffff-i))
		longest.Extensions.RequestChannels = append(longest.Extensions.RequestChannels, p2p.ChannelID(0xffff-i))
	}
	for range p2p.MaxNodeInfoAddresses {
		longest.Extensions.ListenAddrs = append(longest.Extensions.ListenAddrs, strings.Repeat("x", p2p.MaxNodeInfoString))
	}
	small := p2p.NodeInfo{NodeID: testID, ListenAddr: "0.0.0.0:0", Moniker: "n", Extensions: p2p.Extensions{Kith: true}}
	for _, want := range []p2p.NodeInfo{small, fullInfo(), longest} {
		b, err := appendHello(nil, sessionID{1, 2}, want)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > maxControl {
			t.Errorf("a hello of %d bytes, which is more than a frame holds", len(b))
		}
		// What later editions add is passed over.
		b = append(b, bytesField(900, []byte("unknown"))...)
		b = protowire.AppendFixed64(protowire.AppendTag(b, 5, protowire.Fixed64Type), 7) // of another kind
		session, got, err := parseHello(b[1:], testID)
		if err != nil || session != (sessionID{1, 2}) || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v\nwant %+v", got, err, want)
		}
	}
	bad := fullInfo()
	bad.Moniker = ""
	if _, err := appendHello(nil, sessionID{}, bad); !errors.Is(err, ErrNodeInfo) {
		t.Errorf("an invalid node info of our own: %v", err)
	}
}

func TestGoodbyeRoundTrip(t *testing.T) {
	for _, c := range []struct{ in, want goodbye }{
		{goodbye{}, goodbye{}},
		{goodbye{3, "why", []string{"a", "b"}}, goodbye{3, "why", []string{"a", "b"}}},
		{goodbye{reason: strings.Repeat("r", 2000)}, goodbye{reason: strings.Repeat("r", maxReason)}},
		{goodbye{peers: []string{strings.Repeat("p", maxPeerURL+1), "q"}}, goodbye{peers: []string{"q"}}},
	} {
		got, err := parseGoodbye(c.in.append(nil)[1:])
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v, %v, want %+v", got, err, c.want)
		}
	}
	var many goodbye
	for range 100 {
		many.peers = append(many.peers, strings.Repeat("p", maxPeerURL))
	}
	many.reason = strings.Repeat("r", maxReason)
	b := many.append(nil)
	if got, err := parseGoodbye(b[1:]); err != nil || len(got.peers) != maxPeers || len(b) > maxControl {
		t.Errorf("%d peers in %d bytes, %v", len(got.peers), len(b), err)
	}
}

func TestParseLength(t *testing.T) {
	for _, c := range []struct {
		in    []byte
		limit int
		n     int
		head  int
		err   error
	}{
		{nil, 10, 0, 0, nil},
		{[]byte{0}, 10, 0, 1, nil},
		{[]byte{10, 1}, 10, 10, 1, nil},
		{[]byte{11}, 10, 0, 0, ErrMessageTooLarge},
		{[]byte{0x80}, 10, 0, 0, nil},
		{[]byte{0x80, 0}, 10, 0, 0, ErrMalformed},
		{[]byte{0x80, 1}, 128, 128, 2, nil},
		{[]byte{0x80, 1}, 127, 0, 0, ErrMessageTooLarge},
		{binary.AppendUvarint(nil, maxMessage), maxMessage, maxMessage, 5, nil},
		{binary.AppendUvarint(nil, maxMessage+1), maxMessage, 0, 0, ErrMessageTooLarge},
		{[]byte{0xff, 0xff, 0xff, 0xff}, maxMessage, 0, 0, nil},
		{[]byte{0xff, 0xff, 0xff, 0xff, 0xff}, maxMessage, 0, 0, ErrMalformed},
		{[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 1}, maxMessage, 0, 0, ErrMalformed},
	} {
		n, head, err := parseLength(c.in, c.limit)
		if n != c.n || head != c.head || !errors.Is(err, c.err) {
			t.Errorf("%x up to %d: %d, %d, %v", c.in, c.limit, n, head, err)
		}
	}
}

// readAll reads messages to the end.
func readAll(src io.Reader, limit int) (messages [][]byte, err error) {
	r := reader{src: src, limit: limit}
	for {
		whole := r.whole()
		m, err := r.next()
		if err != nil {
			return messages, err
		}
		if whole && len(m) > len(r.buf) {
			return messages, errors.New("a message is whole in a buffer that does not hold it")
		}
		messages = append(messages, m)
	}
}

// However a stream is cut by reads, the messages are the same.
func TestReaderCuts(t *testing.T) {
	var (
		wire []byte
		want [][]byte
	)
	for i, n := range []int{0, 1, 126, 127, 128, 511, 512, 513, 0, 4000, readMost - 3, readMost - 2, readMost, readMost + 1, 100_000, 7, 300_000, 300_000, 1} {
		m := bytes.Repeat([]byte{byte(i)}, n)
		wire = append(binary.AppendUvarint(wire, uint64(n)), m...)
		want = append(want, m)
	}
	for name, cut := range map[string]func(io.Reader) io.Reader{
		"as it comes": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "half": iotest.HalfReader, "error with data": iotest.DataErrReader,
	} {
		got, err := readAll(cut(bytes.NewReader(wire)), 1<<20)
		if err != io.EOF || len(got) != len(want) {
			t.Fatalf("%s: %d messages, %v", name, len(got), err)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("%s: message %d has %d bytes, want %d", name, i, len(got[i]), len(want[i]))
			}
		}
	}
	for n := range len(wire) - 1 {
		if n > 2000 && n%991 > 0 {
			continue
		}
		if _, err := readAll(bytes.NewReader(wire[:n]), 1<<20); err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Fatalf("cut after %d bytes: %v", n, err)
		}
	}
}

// bounded fails if f allocates much more than its input is long.
func bounded(t *testing.T, in int, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(8*in+128<<10); got > most {
		t.Fatalf("%d bytes allocated for an input of %d", got, in)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 1, 65, 2, 66, 67})
	f.Add(binary.AppendUvarint(nil, 32<<20))
	f.Add([]byte{0x81, 0x00})
	f.Fuzz(func(t *testing.T, in []byte) {
		var got [][]byte
		var err error
		bounded(t, len(in), func() { got, err = readAll(bytes.NewReader(in), 32<<20) })
		slowly, slowErr := readAll(iotest.OneByteReader(bytes.NewReader(in)), 32<<20)
		if len(got) != len(slowly) || (err == io.EOF) != (slowErr == io.EOF) {
			t.Fatalf("%d messages, %v; byte by byte %d, %v", len(got), err, len(slowly), slowErr)
		}
		var again []byte
		for i, m := range got {
			if !bytes.Equal(m, slowly[i]) {
				t.Fatalf("message %d differs", i)
			}
			again = append(binary.AppendUvarint(again, uint64(len(m))), m...)
		}
		if !bytes.HasPrefix(in, again) || err == io.EOF && len(again) != len(in) {
			t.Fatalf("%x has two spellings", in)
		}
	})
}

func FuzzHello(f *testing.F) {
	b, _ := appendHello(nil, sessionID{1}, fullInfo())
	f.Add(b[1:])
	f.Add(append(make([]byte, sessionSize), bytesField(1, []byte(testID))...))
	f.Add(appendWindow(slices.Clone(b[1:])))
	f.Fuzz(func(t *testing.T, in []byte) {
		var (
			session sessionID
			info    p2p.NodeInfo
			err     error
		)
		bounded(t, len(in), func() { session, info, err = parseHello(in, testID) })
		if err != nil {
			if !errors.Is(err, ErrNodeInfo) || len(err.Error()) > 600 {
				t.Fatalf("%v", err)
			}
			return
		}
		if info.NodeID != testID {
			t.Fatalf("it is %q", info.NodeID)
		}
		b, err := appendHello(nil, session, info)
		if err != nil {
			t.Fatalf("taken, but not sent on: %v", err)
		}
		if _, again, err := parseHello(b[1:], testID); err != nil || !reflect.DeepEqual(again, info) {
			t.Fatalf("%+v becomes %+v, %v", info, again, err)
		}
		window, err := parseWindow(in)
		if err == nil && window != 0 && (window < leastWindow || window > mostCredit) || err != nil && !errors.Is(err, ErrNodeInfo) {
			t.Fatalf("a window of %d, %v", window, err)
		}
		if window, err := parseWindow(appendWindow(slices.Clone(in))); err == nil && window != firstWindow {
			t.Fatalf("our own window is read as %d", window)
		}
	})
}

func FuzzGoodbye(f *testing.F) {
	f.Add(goodbye{3, "why", []string{"a"}}.append(nil)[1:])
	f.Fuzz(func(t *testing.T, in []byte) {
		var (
			g   goodbye
			err error
		)
		bounded(t, len(in), func() { g, err = parseGoodbye(in) })
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again, err := parseGoodbye(g.append(nil)[1:]); err != nil || !reflect.DeepEqual(again, g) {
			t.Fatalf("%+v becomes %+v, %v", g, again, err)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(header{sessionID{1}, 2, 3}.append(nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < headerSize {
			return
		}
		b := [headerSize]byte(in)
		if h := parseHeader(&b); !bytes.Equal(h.append(nil), b[:]) {
			t.Fatalf("%+v", h)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(controlGreeting)
	f.Add([]byte("\x13/multistream/1.0.0\n\x03na\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		err := readAnswer(iotest.HalfReader(r), controlGreeting)
		if (err == nil) != bytes.HasPrefix(in, controlGreeting) {
			t.Fatal(err)
		}
		if err == nil && r.Len() != len(in)-len(controlGreeting) {
			t.Fatal("more was read than the answer")
		}
		if err != nil && !errors.Is(err, ErrNotSpoken) {
			t.Fatal(err)
		}
	})
}
