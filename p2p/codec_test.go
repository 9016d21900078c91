package p2p

import (
	"errors"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoiface"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// testWrapper is a Wrapper with the fields of an Any; how often anything was
// wrapped tells how often it was encoded.
type testWrapper struct {
	anypb.Any
}

var testWraps int

// testUnwrap, if set, is what Unwrap does first.
var testUnwrap atomic.Pointer[func()]

// NewWrapperForTest is a testWrapper for tests outside the package.
func NewWrapperForTest() Wrapper { return new(testWrapper) }

// DuringUnwrapForTest makes every testWrapper call f before it unwraps, until the
// returned function is called.
func DuringUnwrapForTest(f func()) (end func()) {
	testUnwrap.Store(&f)
	return func() { testUnwrap.Store(nil) }
}

type testWrapperReflection struct {
	protoreflect.Message
	w *testWrapper
}

type testWrapperType struct{ protoreflect.MessageType }

func (w *testWrapper) ProtoReflect() protoreflect.Message {
	return testWrapperReflection{w.Any.ProtoReflect(), w}
}
func (r testWrapperReflection) Interface() protoreflect.ProtoMessage { return r.w }
func (r testWrapperReflection) New() protoreflect.Message            { return new(testWrapper).ProtoReflect() }
func (r testWrapperReflection) Type() protoreflect.MessageType {
	return testWrapperType{r.Message.Type()}
}
func (t testWrapperType) New() protoreflect.Message { return new(testWrapper).ProtoReflect() }

// ProtoMethods is none, so that the fields are read one by one.
func (testWrapperReflection) ProtoMethods() *protoiface.Methods { return nil }

func (w *testWrapper) Wrap(m proto.Message) error {
	testWraps++
	if _, ok := m.(*wrapperspb.Int64Value); ok {
		return errors.New("no numbers")
	}
	return w.MarshalFrom(m)
}

func (w *testWrapper) Unwrap() (proto.Message, error) {
	if during := testUnwrap.Load(); during != nil {
		(*during)()
	}
	if w.TypeUrl == "" {
		return nil, nil
	}
	return w.UnmarshalNew()
}

func TestWrapperCodec(t *testing.T) {
	c, err := newCodec(new(testWrapper))
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.encode([]byte{7}, wrapperspb.String("hello"), 1000)
	if err != nil || b[0] != 7 || cap(b) > len(b)+16 {
		t.Fatal(b, err)
	}
	if m, err := c.decode(b[1:]); err != nil || m.(*wrapperspb.StringValue).Value != "hello" {
		t.Error(m, err)
	}
	if _, err := c.encode(nil, wrapperspb.Int64(1), 1000); err == nil {
		t.Error("Wrap's error is lost")
	}
	if _, err := c.encode(nil, wrapperspb.String("hello"), 5); !errors.Is(err, ErrMessageTooLarge) {
		t.Error(err)
	}
	for _, data := range [][]byte{nil, {0xff}, {0x0a, 1, 'x'}} {
		if m, err := c.decode(data); err == nil {
			t.Errorf("%x is %v", data, m)
		}
	}
}

// On a typed channel of a Wrapper the messages are the wrappers. Unwrapped ones
// would have made any peer able to end the process: they have another type.
func TestRegressionTypedWrapperIsNotUnwrapped(t *testing.T) {
	c, err := newCodec(new(testWrapper))
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.encode(nil, wrapperspb.String("hello"), 1000)
	if err != nil {
		t.Fatal(err)
	}
	c.wrapper = false // as openCore does for OpenTyped
	m, err := c.decode(b)
	if _, ok := m.(*testWrapper); !ok || err != nil {
		t.Errorf("%T, %v", m, err)
	}
	if _, err := c.encode(nil, wrapperspb.String("hello"), 1000); err == nil {
		t.Error("wrapped on a typed channel")
	}
}

// The bytes of a hand-written message are not given back: it may keep them.
func TestCodecRecyclesOnlyGeneratedMessages(t *testing.T) {
	for m, want := range map[proto.Message]bool{new(wrapperspb.BytesValue): true, new(testWrapper): false, new(pexMessage): false} {
		if c, err := newCodec(m); err != nil || c.copies != want {
			t.Errorf("%T: %v, %v", m, c.copies, err)
		}
	}
}
