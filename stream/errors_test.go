package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/quic-go/quic-go"
)

// temporary is a muxer's deadline error, as yamux makes it.
type timeout struct{ temporary bool }

func (timeout) Error() string     { return "i/o deadline reached" }
func (timeout) Timeout() bool     { return true }
func (t timeout) Temporary() bool { return t.temporary }

func TestMapError(t *testing.T) {
	remote := &network.StreamError{ErrorCode: 7, Remote: true}
	for name, tc := range map[string]struct {
		err     error
		is, not []error
	}{
		"end":                    {io.EOF, []error{io.EOF}, []error{syscall.ECONNRESET}},
		"quic deadline":          {os.ErrDeadlineExceeded, []error{os.ErrDeadlineExceeded}, []error{syscall.ECONNRESET}},
		"yamux deadline":         {timeout{true}, []error{os.ErrDeadlineExceeded}, []error{syscall.ECONNRESET}},
		"keep-alive":             {timeout{false}, []error{syscall.ECONNRESET}, []error{os.ErrDeadlineExceeded}},
		"quic idle":              {&quic.IdleTimeoutError{}, []error{syscall.ECONNRESET}, []error{os.ErrDeadlineExceeded, net.ErrClosed}},
		"quic closed":            {&network.ConnError{TransportError: &quic.ApplicationError{}}, []error{syscall.ECONNRESET, network.ErrReset}, []error{net.ErrClosed}},
		"remote reset":           {remote, []error{syscall.ECONNRESET, network.ErrReset, remote}, []error{net.ErrClosed}},
		"local reset":            {&network.StreamError{ErrorCode: 7}, []error{net.ErrClosed}, []error{syscall.ECONNRESET}},
		"closed":                 {net.ErrClosed, []error{net.ErrClosed}, []error{syscall.ECONNRESET}},
		"lost, EOF below":        {fmt.Errorf("%w: connection closed: %w", network.ErrReset, io.EOF), []error{syscall.ECONNRESET, network.ErrReset}, []error{io.EOF}},
		"lost, timeout below":    {fmt.Errorf("%w: %w", network.ErrReset, os.ErrDeadlineExceeded), []error{syscall.ECONNRESET}, []error{os.ErrDeadlineExceeded}},
		"connection closed":      {&network.ConnError{Remote: true, ErrorCode: 9}, []error{syscall.ECONNRESET, &network.ConnError{Remote: true, ErrorCode: 9}}, []error{io.EOF}},
		"connection closed, EOF": {&network.ConnError{TransportError: io.EOF}, []error{syscall.ECONNRESET}, []error{io.EOF}},
		"unknown":                {errors.New("the cat ate it"), []error{syscall.ECONNRESET, network.ErrReset}, []error{io.EOF}},
	} {
		got := MapError(tc.err)
		for _, e := range []error{got, MapError(got), &net.OpError{Err: got}} { // mapping twice changes nothing
			for _, want := range tc.is {
				if !errors.Is(e, want) {
					t.Errorf("%s: %v is not %v", name, e, want)
				}
			}
			for _, not := range tc.not {
				if errors.Is(e, not) {
					t.Errorf("%s: %v is %v", name, e, not)
				}
			}
		}
		var ne net.Error = &net.OpError{Err: got}
		if ne.Timeout() != errors.Is(got, os.ErrDeadlineExceeded) {
			t.Errorf("%s: timeout %v", name, ne.Timeout())
		}
	}
	if MapError(nil) != nil {
		t.Error("nil")
	}
}
