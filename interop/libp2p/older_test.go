package libp2p

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/rpc"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

// libp2p programs of older and other make, PointSub's and JavaScript's among them,
// refuse a protocol with a word, take what follows for the name of another, and
// reset the stream when it is none, without a reason; the word may be lost with
// that. Still they are found out to speak the plain wire only.
func TestRegressionRefusalLostInReset(t *testing.T) {
	each(t, func(t *testing.T, over string) {
		n := newKith(t, kith.Config{})
		for range 10 { // it takes some luck to read the word in time
			h := newStock(t)
			mux := multistream.NewMultistreamMuxer[protocol.ID]()
			for _, p := range h.Mux().Protocols() {
				mux.AddHandler(p, nil)
			}
			mux.AddHandler("/theirs/reverse/1", nil)
			h.Network().SetStreamHandler(func(s network.Stream) {
				p, _, err := mux.Negotiate(s)
				if err == nil && p == "/theirs/reverse/1" {
					body, err := readBody(s)
					if err = errors.Join(err, writeBody(s, reversed(body))); err == nil {
						_ = s.Close()
						return
					}
				}
				_ = s.Reset() // identify and the rest, too: we know nothing of it
			})
			if _, err := n.Connect(ctxOf(t), stockAddress(t, h, over)); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				want := fmt.Sprint("call ", i)
				if got, err := n.Call(ctxOf(t), h.ID().String(), "/theirs/reverse/1", []byte(want)); err != nil || string(got) != string(reversed([]byte(want))) {
					t.Fatalf("%q, %v", got, err)
				}
			}
			if got, err := n.Call(ctxOf(t), h.ID().String(), "/theirs/unknown/1", []byte("hello")); rpc.CodeOf(err) != rpc.CodeUnimplemented {
				t.Fatalf("a method that it does not have: %q, %v", got, err)
			}
		}
	})
}
