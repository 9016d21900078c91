package dispatch

import (
	"encoding/hex"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/internal/pb/dispatchv1"
)

// The wire as spec.md has it, byte for byte.
func TestWireGolden(t *testing.T) {
	key, err := identity.PrivKeyFromSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	const at = 1_700_000_000_000_000_000
	data := []byte("hello")
	signature, err := key.SignContext(signContext, signedBytes("chat", at, data))
	if err != nil {
		t.Fatal(err)
	}
	author := key.Public().Bytes()
	for name, c := range map[string]struct {
		e    *dispatchv1.Envelope
		want string
	}{
		"direct": {&dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_DIRECT, Type: "chat", Data: data}, goldenDirect},
		"topic": {&dispatchv1.Envelope{
			Kind: dispatchv1.Kind_KIND_TOPIC, Type: "chat", Data: data, Author: author, Time: at, Signature: signature,
		}, goldenTopic},
		"hold": {&dispatchv1.Envelope{Kind: dispatchv1.Kind_KIND_HOLD, Type: "chat"}, goldenHold},
	} {
		b, err := (proto.MarshalOptions{Deterministic: true}).Marshal(c.e)
		if got := hex.EncodeToString(b); err != nil || got != c.want {
			t.Errorf("%s: %s (%v)", name, got, err)
		}
	}
	content, id := digestOf("chat", data), topicID("chat", author, at, data)
	if got := hex.EncodeToString(content[:]); got != goldenContent {
		t.Errorf("content %s", got)
	}
	if got := hex.EncodeToString(id[:]); got != goldenID {
		t.Errorf("id %s", got)
	}
}

// Also in spec.md.
const (
	goldenDirect  = "08011204636861741a0568656c6c6f"
	goldenTopic   = "08021204636861741a0568656c6c6f32203b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29388080a8b1e39fe7cb17424019d9c2f77c5f25916e4d366c68bac43fa4890260cc893399f991d94e5374e21365b7398101516f8ecc7b277a86e6d4f8e01f322d8d27f543b213e4b8f32a3104"
	goldenHold    = "0803120463686174"
	goldenContent = "9e6a28a87a3f3b0b642124af1ee2b676"
	goldenID      = "6aa233f18594687bf343805fb6ea5325"
)

// What the documentation says a full filter takes.
func TestFilterMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newSeen(1<<17, time.Hour)
	now := time.Now()
	for i := range 1 << 18 {
		s.add(digest{byte(i), byte(i >> 8), byte(i >> 16)}, now)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int(after.HeapAlloc) - int(before.HeapAlloc); s.len() != 1<<17 || n > 15<<20 {
		t.Errorf("%d entries take %d bytes", s.len(), n)
	}
	runtime.KeepAlive(s)
}
