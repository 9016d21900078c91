package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestPrivKeyIsNeverPrinted(t *testing.T) {
	key, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	type config struct {
		Key    PrivKey
		Ptr    *PrivKey
		List   []PrivKey
		hidden PrivKey
	}
	c := config{Key: key, Ptr: &key, List: []PrivKey{key}, hidden: key}
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T"} {
		for _, v := range []any{key, &key, c, &c, []PrivKey{key}, map[string]PrivKey{"k": key}, struct{ k PrivKey }{key}, c.hidden} {
			out = append(out, fmt.Sprintf(verb, v))
		}
	}
	var logged bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
		slog.New(h).Info("start", "key", key, "ptr", &key, "config", c, "list", []PrivKey{key})
	}
	out = append(out, logged.String())
	for _, v := range []any{key, c} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(b))
	}
	seed := key.Seed()
	for _, s := range out {
		for _, secret := range []string{
			string(seed), hex.EncodeToString(seed), base64.StdEncoding.EncodeToString(seed)[:40],
			strings.Trim(fmt.Sprint(seed[:8]), "[]"), strings.Trim(strings.ReplaceAll(fmt.Sprintf("%#v", seed[:8]), "[]byte{", ""), "}"),
		} {
			if strings.Contains(strings.ToLower(s), strings.ToLower(secret)) {
				t.Errorf("the secret is in %q", s)
			}
		}
	}
	want := "[private key of " + string(key.Public().NodeID()) + "]"
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, key); got != want {
			t.Errorf("%s prints %q, want %q", verb, got, want)
		}
	}
	if !strings.Contains(logged.String(), want) {
		t.Errorf("log does not say which key: %s", logged.String())
	}
	//lint:ignore SA9005 that it has nothing to fill is what is tested
	if err := json.Unmarshal([]byte(`"`+want+`"`), new(PrivKey)); err == nil {
		t.Error("a redacted key was read back as a key")
	}
}

func TestZeroPrivKey(t *testing.T) {
	var zero PrivKey
	if !zero.IsZero() || zero.Seed() != nil || zero.Libp2p() != nil || !zero.Public().IsZero() || zero.String() != "[no private key]" {
		t.Error("zero key is not recognised")
	}
	if _, err := zero.Sign(nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("Sign: %v", err)
	}
	if _, err := zero.SignContext("x", nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("SignContext: %v", err)
	}
	if _, err := zero.MarshalPEM(); !errors.Is(err, ErrNoKey) {
		t.Errorf("MarshalPEM: %v", err)
	}
	if key := seededKey(t, 1); zero.Equal(key) || key.Equal(zero) || !zero.Equal(PrivKey{}) {
		t.Error("Equal with zero key")
	}
}

func TestPrivKey(t *testing.T) {
	// RFC 8032, section 7.1, TEST 1.
	seed, _ := hex.DecodeString("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	key, err := PrivKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := key.Public().String(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"; got != want {
		t.Errorf("public key %s, want %s", got, want)
	}
	seed[0]++
	if key.Seed()[0] == seed[0] {
		t.Error("seed is shared with the caller")
	}
	lk := key.Libp2p()
	sig, err := lk.Sign([]byte("msg"))
	if err != nil || !key.Public().Verify([]byte("msg"), sig) {
		t.Errorf("libp2p's signature does not verify: %v", err)
	}
	again, err := PrivKeyFromSeed(key.Seed())
	if err != nil || !again.Equal(key) || again.Equal(seededKey(t, 1)) {
		t.Errorf("Equal: %v", err)
	}
	if _, err := PrivKeyFromSeed(make([]byte, 31)); !errors.Is(err, ErrNotEd25519) {
		t.Errorf("short seed: %v", err)
	}
}
