package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/dispatch"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/kith-p2p/kith/rpc"
	"github.com/kith-p2p/kith/tunnel"
	"github.com/libp2p/go-libp2p/core/protocol"
)

func TestCodes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want connect.Code
	}{
		{kith.ErrUsage, connect.CodeInvalidArgument},
		{&usageError{"x"}, connect.CodeInvalidArgument},
		{&ConfigError{}, connect.CodeInvalidArgument},
		{kith.ErrNoSuchMount, connect.CodeNotFound},
		{kith.ErrNoSuchStream, connect.CodeNotFound},
		{kith.ErrUnknownPeer, connect.CodeNotFound},
		{tunnel.ErrExists, connect.CodeAlreadyExists},
		{&os.SyscallError{Err: syscall.EADDRINUSE}, connect.CodeAlreadyExists},
		{&tunnel.Error{Reason: tunnel.ReasonNoService}, connect.CodeNotFound},
		{&tunnel.Error{Reason: tunnel.ReasonNotAllowed}, connect.CodePermissionDenied},
		{&tunnel.Error{Reason: tunnel.ReasonTarget}, connect.CodeUnavailable},
		{&tunnel.Error{Reason: tunnel.ReasonLimit}, connect.CodeResourceExhausted},
		{&tunnel.Error{Reason: tunnel.ReasonUnreachable}, connect.CodeUnavailable},
		{&tunnel.Error{Reason: tunnel.ReasonRelayedOnly}, connect.CodeUnavailable},
		{&tunnel.Error{Reason: tunnel.ReasonShutdown}, connect.CodeUnavailable},
		{&tunnel.Error{Reason: tunnel.ReasonReset}, connect.CodeAborted},
		{&tunnel.Error{Reason: tunnel.ReasonClosed}, connect.CodeAborted},
		{&tunnel.Error{Reason: tunnel.ReasonIdle}, connect.CodeDeadlineExceeded},
		{&tunnel.Error{Reason: tunnel.ReasonTimeout}, connect.CodeDeadlineExceeded},
		{&tunnel.Error{Reason: tunnel.ReasonProtocol}, connect.CodeInternal},
		{&tunnel.Error{Reason: tunnel.ReasonLost}, connect.CodeUnavailable},
		{errStopping, connect.CodeUnavailable},
		{kith.ErrClosed, connect.CodeUnavailable},
		{dispatch.ErrTooLarge, connect.CodeResourceExhausted},
		{rpc.ErrTooLarge, connect.CodeResourceExhausted},
		{rpc.Errorf(rpc.CodeNotFound, "x"), connect.CodeNotFound},
		{rpc.Errorf(rpc.CodeUnimplemented, "x"), connect.CodeUnimplemented},
		{rpc.Errorf(rpc.CodeDeadlineExceeded, "x"), connect.CodeDeadlineExceeded},
		{rpc.Errorf(rpc.CodeUnauthenticated, "x"), connect.CodeUnauthenticated},
		{rpc.Errorf(rpc.CodeOK, "x"), connect.CodeUnknown},
		{rpc.Errorf(17, "x"), connect.CodeUnknown},
		{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
		{context.Canceled, connect.CodeCanceled},
		{syscall.ENOSPC, connect.CodeResourceExhausted},
		{syscall.EMFILE, connect.CodeResourceExhausted},
		{os.ErrPermission, connect.CodePermissionDenied},
		{errors.New("else"), connect.CodeUnknown},
	} {
		wrapped := fmt.Errorf("around: %w", tc.err)
		got := toConnect(wrapped)
		if got.Code() != tc.want || got.Message() != wrapped.Error() {
			t.Errorf("%v: %v %q, want %v", wrapped, got.Code(), got.Message(), tc.want)
		}
		if again := toConnect(got); again != got {
			t.Errorf("%v was wrapped twice", wrapped)
		}
	}
}

// The codes that count alike in gRPC, Connect and rpc do so here, too.
func TestAnswersKeepTheirCodes(t *testing.T) {
	for c := rpc.CodeCanceled; c <= rpc.CodeUnauthenticated; c++ {
		if got, want := codeOf(rpc.Errorf(c, "x")).String(), strings.ReplaceAll(c.String(), " ", "_"); got != want {
			t.Errorf("%v is %s", c, got)
		}
	}
}

// What a peer said of a request was reported as "unknown"; and when it is that the
// request makes no sense, the command line was right all the same.
func TestRegressionAnswerHasItsCode(t *testing.T) {
	node := start(t, newHome(t))
	other, err := kith.New(kith.Config{Home: newHome(t), LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for code, name := range map[rpc.Code]string{rpc.CodeNotFound: "not_found", rpc.CodeInvalidArgument: "invalid_argument"} {
		err := other.Server().Start(protocol.ID(name), func([]byte) ([]byte, error) { return nil, rpc.Errorf(code, "so it is") })
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Allow(name, "*"); err != nil {
			t.Fatal(err)
		}
		_, err = node.client.Call(t.Context(), &controlv1.CallRequest{Peer: other.Addrs()[0], Service: name})
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != name || e.Peer != other.ID().String() || errors.Is(err, kith.ErrUsage) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	_, err = node.client.Call(t.Context(), &controlv1.CallRequest{Peer: "nobody", Service: "x"})
	if e, ok := errors.AsType[*Error](err); !ok || e.Peer != "" || !errors.Is(err, kith.ErrUsage) {
		t.Errorf("our own: %v", err)
	}
}
