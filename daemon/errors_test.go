package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/tunnel"
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
