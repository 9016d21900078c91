package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// busyRouter has a value of its own in every counter.
var busyRouter = &controlv1.RouterResponse{
	Network: "kith", Moniker: "kith-me", Inbound: 1, Outbound: 2, Dialling: 3, Refused: map[string]uint64{"full": 4, "banned": 5},
	Peers: []*controlv1.RouterPeer{{
		NodeId: "n1", Moniker: "evil\x1b[2J", Direction: "outbound", Endpoint: "libp2p://127.0.0.1:1", Score: -6,
		Sent: 7, SentBytes: 8 << 10, Received: 9, ReceivedBytes: 10 << 10, Queued: 11, QueuedBytes: 12 << 10,
		Dropped: map[string]uint64{"queue-full": 13, "peer-gone": 14},
	}, {NodeId: "n2", Moniker: "quiet", Direction: "inbound", Endpoint: "libp2p://127.0.0.1:2"}},
	Channels: []*controlv1.Channel{{
		Id: 0x10, Name: "chat", Accepted: 15, Written: 16, Received: 17, Queued: 18, Unread: 19,
		Dropped: map[string]uint64{"queue-full": 20}, DroppedReceived: map[string]uint64{"slow-reader": 21},
	}},
	Topics: []*controlv1.Topic{{Name: "news", Peers: 22, Received: 23, Bytes: 24 << 10, Duplicates: 25, Dropped: 26}},
	Sources: []*controlv1.AddressSource{{
		Name: "pex", State: "running", Offered: 27, Added: 28, Known: 29, Refused: map[string]uint64{"scope": 30}, Dials: 31, FailedDials: 32,
		LastError: "two\nlines",
	}},
}

// TestRouterShowsQueuesAndDrops: what waits and what was dropped, for each peer and
// each channel, stands in the column that says so.
func TestRouterShowsQueuesAndDrops(t *testing.T) {
	var b bytes.Buffer
	if err := printRouter(&b, busyRouter); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	if got := strings.Join(lines, "\n"); got != strings.TrimPrefix(routerGolden, "\n") {
		t.Errorf("printed\n%s\nwant%s", got, routerGolden)
	}
}

const routerGolden = `
network kith, as kith-me; 1 inbound, 2 outbound, 3 being dialled; refused: banned=5 full=4

PEER  NAME      DIRECTION  ENDPOINT              AGE  SCORE  SENT         RECEIVED      QUEUED         DROPPED
n1    evil?[2J  outbound   libp2p://127.0.0.1:1  -    -6     7 / 8.0 KiB  9 / 10.0 KiB  11 / 12.0 KiB  peer-gone=14 queue-full=13
n2    quiet     inbound    libp2p://127.0.0.1:2  -    0      0 / 0 B      0 / 0 B       0 / 0 B        none

CHANNEL  NAME  SENT  RECEIVED  QUEUED  UNREAD  DROPPED        DROPPED HERE
0x10     chat  16    17        18      19      queue-full=20  slow-reader=21

TOPIC  PEERS  RECEIVED       DUPLICATES  DROPPED
news   22     23 / 24.0 KiB  25          26

ADDRESSES FROM  STATE    OFFERED  NEW  KNOWN  REFUSED   DIALLED  FAILED  LAST ERROR
pex             running  27       28   29     scope=30  31       32      two lines
`

// A router without peers and topics has no empty tables of topics, and says none
// where nothing was dropped.
func TestRouterWithNothing(t *testing.T) {
	var b bytes.Buffer
	res := &controlv1.RouterResponse{Network: "kith", Moniker: "m", Channels: []*controlv1.Channel{{Name: "idle"}}}
	if err := printRouter(&b, res); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.Contains(got, "TOPIC") || !strings.Contains(got, "refused: none") || strings.Count(got, "none") != 3 {
		t.Errorf("%s", got)
	}
}

// An output that fails is told, whichever table it was.
func TestRouterOutputFails(t *testing.T) {
	var whole bytes.Buffer
	if err := printRouter(&whole, busyRouter); err != nil {
		t.Fatal(err)
	}
	if err := printRouter(&shortWriter{left: whole.Len() - 1}, busyRouter); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%v", err)
	}
}

// shortWriter fails once it has taken left bytes.
type shortWriter struct{ left int }

func (w *shortWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}
