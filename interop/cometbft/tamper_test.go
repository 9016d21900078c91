package cometbft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
)

// What is tampered with: the key that comes first, in clear, the frames with the
// proof and the node info, and ten more.
const (
	ephemeralBytes = 35
	frameBytes     = 1044
	framesTampered = 2 + 10
	tamperedBytes  = ephemeralBytes + framesTampered*frameBytes
)

// A middle is a stream on which one bit is changed, in one direction.
type middle struct {
	net.Conn
	toNode    bool
	byte, bit int // of the direction's stream; byte below 0: none
	changed   atomic.Bool
	written   int // by the one writer
	read      int // by the one reader
}

func (m *middle) flip(toNode bool, at int, b []byte) {
	if i := m.byte - at; m.toNode == toNode && m.byte >= 0 && i >= 0 && i < len(b) {
		b[i] ^= 1 << m.bit
		m.changed.Store(true)
	}
}

func (m *middle) Write(b []byte) (int, error) {
	b = append([]byte(nil), b...)
	m.flip(true, m.written, b)
	n, err := m.Conn.Write(b)
	m.written += n
	return n, err
}

func (m *middle) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.flip(false, m.read, b[:n])
	m.read += n
	return n, err
}

// exchange shakes hands with a node over a middle, sends it twenty questions,
// each a frame of its own, and reads the answers. nil: nobody noticed.
func exchange(ctx context.Context, n *node, m *middle, info p2p.NodeInfo, key p2p.PrivKey) error {
	c, err := mconn.NewConnection(m, mconn.Options{HandshakeTimeout: patience})
	if err != nil {
		return err
	}
	defer c.Close()
	watchdog := time.AfterFunc(patience, func() { c.Close() })
	if _, _, err := c.Handshake(ctx, info, key); err != nil {
		return err
	}
	c.SetChannelLimits(map[p2p.ChannelID]int{blockChannel: 1 << 20})
	const questions = 20
	for i := range uint64(questions) {
		if err := c.SendMessage(blockChannel, message(1, varint(1, 1+i%10))); err != nil {
			return err
		}
	}
	for answers := 0; answers < questions; {
		_, b, err := c.ReceiveMessage()
		if err != nil {
			if !watchdog.Stop() {
				return errors.New("nothing happened")
			}
			return err
		}
		if block, err := get(b, 3); err != nil {
			return fmt.Errorf("it believed what is no answer: %w", err)
		} else if block.bytes != nil {
			answers++
		}
	}
	return nil
}

// try is one exchange with a bit changed; byte below 0: with none.
func try(ctx context.Context, n *node, toNode bool, byte, bit int) (*middle, error) {
	key, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	nc, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(n.endpoint.Port))))
	if err != nil {
		return nil, err
	}
	m := &middle{Conn: nc, toNode: toNode, byte: byte, bit: bit}
	info := ourInfo(n, key, blockChannel)
	return m, exchange(ctx, n, m, info, key)
}

// A middle that changes any one bit of the handshake or of the first ten frames,
// in either direction, is refused, by us or by the node: no exchange with a
// changed bit ever comes to its end, and exchanges without one always do. By default
// every bit of the first message and 120 of each frame are tried, picked at random;
// KITH_INTEROP_TAMPER=all tries each of the 201,008 bits of either release, before
// the other tests: that is work, and they measure the node's patience.
func TestTampering(t *testing.T) {
	all := false
	switch s := os.Getenv("KITH_INTEROP_TAMPER"); s {
	case "":
		t.Parallel()
	case "all":
		all = true
	default:
		t.Fatalf("KITH_INTEROP_TAMPER is %q, want all or nothing", s)
	}
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, r, setup{
				config: map[string]string{"max_num_inbound_peers": "1000", "flush_throttle_timeout": `"1ms"`},
				flags:  []string{"--log_level", "error"},
			})
			n.waitHeight(t, 10)
			for _, toNode := range []bool{true, false} {
				name := "to us"
				if toNode {
					name = "to the node"
				}
				t.Run(name, func(t *testing.T) { tamper(t, n, toNode, all) })
			}
		})
	}
}

func tamper(t *testing.T, n *node, toNode, all bool) {
	whole, err := try(t.Context(), n, toNode, -1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if whole.written < tamperedBytes || whole.read < tamperedBytes {
		t.Fatalf("an exchange has %d bytes to the node and %d back, want %d", whole.written, whole.read, tamperedBytes)
	}
	bits := make([]int, 0, 8*tamperedBytes)
	for i := range 8 * ephemeralBytes {
		bits = append(bits, i)
	}
	for frame := range framesTampered {
		first := 8 * (ephemeralBytes + frame*frameBytes)
		if all {
			for i := range 8 * frameBytes {
				bits = append(bits, first+i)
			}
			continue
		}
		bits = append(bits, first, first+8*frameBytes-1)
		for range 118 {
			bits = append(bits, first+rand.IntN(8*frameBytes))
		}
	}
	var (
		next, refused, controls atomic.Int64
		workers                 sync.WaitGroup
		start                   = time.Now()
	)
	for range 6 {
		workers.Go(func() {
			for !t.Failed() {
				i := int(next.Add(1)) - 1
				if i >= len(bits) {
					return
				}
				if i%50 == 0 {
					if _, err := try(t.Context(), n, toNode, -1, 0); err != nil {
						t.Errorf("an exchange that nobody touched: %v", err)
					}
					controls.Add(1)
				}
				bit := bits[i]
				m, err := try(t.Context(), n, toNode, bit/8, bit%8)
				switch {
				case err == nil:
					t.Errorf("bit %d of byte %d changed, and believed", bit%8, bit/8)
				case m == nil || !m.changed.Load():
					t.Errorf("bit %d of byte %d was not reached: %v", bit%8, bit/8, err)
				case !noticed(err, toNode, bit/8):
					t.Errorf("bit %d of byte %d changed: %v", bit%8, bit/8, err)
				default:
					refused.Add(1)
				}
			}
		})
	}
	workers.Wait()
	if got := int(refused.Load()); got != len(bits) {
		t.Errorf("%d of %d refused", got, len(bits))
	}
	t.Logf("%d of %d changed bits refused, %d untouched exchanges went through, in %v", refused.Load(), len(bits), controls.Load(), time.Since(start).Round(time.Millisecond))
}

// noticed says whether an error is that of a changed bit. The node gives no
// reason; we do.
func noticed(err error, toNode bool, byte int) bool {
	_, shaking := errors.AsType[*mconn.HandshakeError](err)
	var ne net.Error
	closed := errors.Is(err, io.EOF) || errors.As(err, &ne) && !ne.Timeout()
	switch {
	case byte < ephemeralBytes: // the two have different keys
		return shaking
	case toNode:
		return shaking || closed
	case byte < ephemeralBytes+2*frameBytes:
		return shaking && errors.Is(err, mconn.ErrDecrypt)
	default:
		return errors.Is(err, mconn.ErrDecrypt)
	}
}
