package mconn

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
)

// ErrNodeKey is matched by every error of ParseNodeKey.
var ErrNodeKey = errors.New("mconn: not a CometBFT node key")

const (
	nodeKeyType = "tendermint/PrivKeyEd25519"
	maxNodeKey  = 16 << 10
)

// ParseNodeKey reads the node_key.json of Tendermint or CometBFT,
//
//	{"priv_key":{"type":"tendermint/PrivKeyEd25519","value":"<base64 of seed and public key>"}}
//
// so that a node keeps its ID when it moves to kith. Other fields are ignored.
// The public half must be that of the seed. Errors match ErrNodeKey and never
// hold any of the key.
func ParseNodeKey(data []byte) (p2p.PrivKey, error) {
	bad := func(format string, args ...any) (p2p.PrivKey, error) {
		return p2p.PrivKey{}, fmt.Errorf("%w: "+format, append([]any{ErrNodeKey}, args...)...)
	}
	if len(data) > maxNodeKey {
		return bad("%d bytes, at most %d are read", len(data), maxNodeKey)
	}
	var file struct {
		PrivKey struct {
			Type  string `json:"type"`
			Value []byte `json:"value"`
		} `json:"priv_key"`
	}
	// What the decoder says of a fault may quote the file.
	if err := json.Unmarshal(data, &file); err != nil {
		return bad("it is not JSON of that form")
	}
	value := file.PrivKey.Value
	switch {
	case file.PrivKey.Type == "" && len(value) == 0:
		return bad(`it has no "priv_key"`)
	case file.PrivKey.Type != nodeKeyType:
		return bad("its type is %.40q, want %q", file.PrivKey.Type, nodeKeyType)
	case len(value) != identity.SeedSize+identity.PubKeySize:
		return bad("its value has %d bytes, want %d", len(value), identity.SeedSize+identity.PubKeySize)
	}
	key, err := identity.PrivKeyFromSeed(value[:identity.SeedSize])
	if err != nil {
		return bad("%w", err)
	}
	if !bytes.Equal(key.Public().Bytes(), value[identity.SeedSize:]) {
		return bad("its public half is not that of its seed: it is damaged")
	}
	return key, nil
}
