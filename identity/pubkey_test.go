package identity

import (
	"encoding/json"
	"testing"
)

func TestPubKey(t *testing.T) {
	key := seededKey(t, 3)
	pub := key.Public()
	sig, err := key.Sign([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if !pub.Verify([]byte("hello"), sig) {
		t.Error("own signature refused")
	}
	for name, ok := range map[string]bool{
		"other message":   pub.Verify([]byte("hellO"), sig),
		"other key":       seededKey(t, 4).Public().Verify([]byte("hello"), sig),
		"short signature": pub.Verify([]byte("hello"), sig[:63]),
		"no signature":    pub.Verify([]byte("hello"), nil),
		"zero key":        PubKey{}.Verify([]byte("hello"), sig),
	} {
		if ok {
			t.Errorf("%s: accepted", name)
		}
	}
	b := pub.Bytes()
	b[0]++
	if pub.Bytes()[0] == b[0] {
		t.Error("Bytes shares memory")
	}
	back, err := PubKeyFromBytes(pub.Bytes())
	if err != nil || back != pub {
		t.Errorf("PubKeyFromBytes = %v, %v", back, err)
	}
	if text, err := json.Marshal(pub); err != nil || string(text) != `"`+pub.String()+`"` {
		t.Errorf("JSON %s, %v", text, err)
	}
}

// All zeros decodes to a point of small order, for which anybody can forge signatures: it must verify nothing.
func TestZeroPubKey(t *testing.T) {
	var zero PubKey
	forged := make([]byte, 64)
	forged[0] = 1
	for i := range 256 {
		if zero.Verify([]byte{byte(i)}, forged) {
			t.Fatalf("forgery accepted for message %d", i)
		}
	}
	if !zero.IsZero() || zero.NodeID() != "" || zero.PeerID() != "" {
		t.Errorf("zero key has names %q %q", zero.NodeID(), zero.PeerID())
	}
	for _, n := range []int{0, 31, 32, 33} {
		if _, err := PubKeyFromBytes(make([]byte, n)); err == nil {
			t.Errorf("%d zero bytes taken", n)
		}
	}
}
