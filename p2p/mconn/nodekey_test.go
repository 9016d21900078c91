package mconn

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseNodeKey(t *testing.T) {
	key := seeded(t, 3)
	value := append(key.Seed(), key.Public().Bytes()...)
	file := func(kind string, value []byte) string {
		return fmt.Sprintf(`{"priv_key":{"type":%q,"value":%q}}`, kind, base64.StdEncoding.EncodeToString(value))
	}
	damaged := append([]byte{}, value...)
	damaged[0] ^= 1
	for name, c := range map[string]struct {
		in, fault string
	}{
		"a key":            {file(nodeKeyType, value), ""},
		"with an id":       {`{"id":"x",` + file(nodeKeyType, value)[1:], ""},
		"empty":            {"", "not JSON"},
		"text":             {"secret", "not JSON"},
		"not base64":       {`{"priv_key":{"type":"tendermint/PrivKeyEd25519","value":"!!"}}`, "not JSON"},
		"another document": {`{"a":1}`, `no "priv_key"`},
		"another type":     {file("tendermint/PrivKeySecp256k1", value), "its type is"},
		"a seed alone":     {file(nodeKeyType, key.Seed()), "has 32 bytes, want 64"},
		"damaged":          {file(nodeKeyType, damaged), "public half"},
		"too large":        {strings.Repeat(" ", maxNodeKey+1), "at most"},
	} {
		got, err := ParseNodeKey([]byte(c.in))
		if c.fault == "" {
			if err != nil || !got.Equal(key) || got.Public().NodeID() != "b62e867fa2f33afe62d5d6b1642e1621d5433078" {
				t.Errorf("%s: %v, %v", name, got, err)
			}
			continue
		}
		if !errors.Is(err, ErrNodeKey) || !strings.Contains(err.Error(), c.fault) || !got.IsZero() || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseNodeKey(f *testing.F) {
	f.Add([]byte(`{"priv_key":{"type":"tendermint/PrivKeyEd25519","value":"AAAA"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		bounded(t, len(in), func() { _, _ = ParseNodeKey(in) })
	})
}
