package rpc

import (
	"encoding/json"
	"fmt"
	"reflect"

	"google.golang.org/protobuf/proto"
)

// headerCodec names the codec of a body.
const headerCodec = "codec"

// The codecs. A body without a name is raw.
const (
	codecRaw   = "raw"   // []byte, string: as they are
	codecProto = "proto" // proto.Message
	codecJSON  = "json"  // all else
)

var protoMessage = reflect.TypeFor[proto.Message]()

// codecOf is the codec of a type.
func codecOf(t reflect.Type) string {
	switch {
	case t.Implements(protoMessage):
		return codecProto
	case t.Kind() == reflect.String, t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return codecRaw
	}
	return codecJSON
}

// headersOf names the codec of a type, but for raw.
func headersOf(codec string) Headers {
	if codec == codecRaw {
		return nil
	}
	return Headers{headerCodec: codec}
}

func encode[T any](v T, codec string) ([]byte, error) {
	switch codec {
	case codecProto:
		return proto.Marshal(any(v).(proto.Message))
	case codecRaw:
		if r := reflect.ValueOf(v); r.Kind() == reflect.String {
			return []byte(r.String()), nil
		} else {
			return r.Bytes(), nil
		}
	}
	return json.Marshal(v)
}

// decode reads a body that is named named. Raw bytes are taken for whatever T
// needs, so that people can call with bytes that they have typed.
func decode[T any](b []byte, codec, named string) (v T, err error) {
	if named != "" && named != codecRaw && named != codec && codec != codecRaw {
		return v, fmt.Errorf("%w: %q where %q is spoken", ErrUnknownCodec, cutText(named, 40), codec)
	}
	switch codec {
	case codecProto:
		// A proto.Message is a pointer to its struct.
		v = reflect.New(reflect.TypeFor[T]().Elem()).Interface().(T)
		return v, proto.Unmarshal(b, any(v).(proto.Message))
	case codecRaw:
		if r := reflect.ValueOf(&v).Elem(); r.Kind() == reflect.String {
			r.SetString(string(b))
		} else {
			r.SetBytes(b)
		}
		return v, nil
	}
	return v, json.Unmarshal(b, &v)
}
