package daemon

import (
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// strictJSON is Connect's JSON codec, but that it refuses fields the schema
// does not have: a limit with a typing error in a curl command must not be
// dropped in silence. Programs that want to talk to older nodes use Protobuf.
type strictJSON struct{ name string }

var _ connect.Codec = strictJSON{}

// Name implements connect.Codec.
func (c strictJSON) Name() string { return c.name }

// Marshal implements connect.Codec.
func (strictJSON) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("daemon: %T is no Protobuf message", v)
	}
	return protojson.Marshal(m)
}

// Unmarshal implements connect.Codec.
func (strictJSON) Unmarshal(b []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("daemon: %T is no Protobuf message", v)
	}
	if len(b) == 0 {
		return fmt.Errorf("no JSON object was sent; send at least {}")
	}
	return protojson.Unmarshal(b, m)
}
