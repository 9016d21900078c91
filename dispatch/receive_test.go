package dispatch

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
)

// FuzzEnvelope throws envelopes at a Service: it neither panics nor keeps more
// than it may, and what it takes is within the limits.
func FuzzEnvelope(f *testing.F) {
	const most = 4096
	key, err := identity.PrivKeyFromSeed(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	squeeze, err := newSqueezer(true, most)
	if err != nil {
		f.Fatal(err)
	}
	seed := func(e *dispatchv1.Envelope) {
		b, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	e := &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_DIRECT, Type: "t"}
	squeeze.pack(e, bytes.Repeat([]byte("fuzz"), 1000))
	seed(e)
	bomb := &dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_DIRECT, Type: "t", Encoding: dispatchv1.Encoding_ENCODING_ZSTD, Size: most}
	bomb.Data = squeeze.enc.EncodeAll(make([]byte, 8<<20), nil)
	seed(bomb)
	at := time.Now().UnixNano()
	sig, err := key.SignContext(signContext, signedBytes("t", at, []byte("x")))
	if err != nil {
		f.Fatal(err)
	}
	seed(&dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_TOPIC, Type: "t", Data: []byte("x"), Time: at, Author: key.Public().Bytes(), Signature: sig})
	seed(&dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_HOLD, Type: "t"})
	seed(&dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_RELEASE, Type: "t"})
	f.Fuzz(func(t *testing.T, b []byte) {
		var e dispatchv1.Envelope
		if proto.Unmarshal(b, &e) != nil {
			return
		}
		s, err := NewService(nil, Options{Dispatcher: DispatcherOptions{MaxMessage: most}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		sub, err := s.SubscribeBytes("t", Policy{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		taken := s.arrived(t.Context(), "peer", &e, 1)
		s.d.Stop()
		sub.Close()
		for m, err := range sub.Messages(t.Context()) {
			if err != nil {
				break
			}
			if taken != nil || len(m.Message) > most {
				t.Errorf("%d bytes delivered, %v", len(m.Message), taken)
			}
		}
	})
}
