package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/kith-p2p/kith/internal/pb/controlv1/controlv1connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Client controls the node of one home. It is safe for concurrent use. Every
// call blocks until the node has answered or the context ends, and its error is
// an [*Error], or the context's own when that ended first.
type Client struct {
	home      string
	transport *http.Transport
	api       controlv1connect.ControlServiceClient
}

// Dial returns a client for the node that runs in home. The error matches
// [ErrNotRunning] when no node does, and fs.ErrPermission when it belongs to
// another user; its text says what to do.
func Dial(home string) (*Client, error) {
	home, err := filepath.Abs(home)
	if err != nil {
		return nil, fmt.Errorf("cannot tell where the home is: %w; say --home with a full path", err)
	}
	path, err := socketPath(home)
	if err != nil {
		return nil, err
	}
	// One connection now tells what is wrong in words; the calls would only
	// report that they failed.
	conn, err := net.DialTimeout("unix", path, 5*time.Second)
	switch {
	case err == nil:
		conn.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, &dialError{ErrNotRunning, fmt.Sprintf("no kith node is running in %s: start one with `kith up%s`", home, homeFlag(home))}
	case errors.Is(err, syscall.ENOTDIR):
		return nil, &dialError{err, fmt.Sprintf("%s is not in a directory, and a home is one: say another --home", path)}
	case errors.Is(err, fs.ErrPermission):
		return nil, &dialError{err, fmt.Sprintf("the node in %s belongs to another user: its control socket is closed to you; run this as its owner, or say --home", home)}
	default:
		return nil, &dialError{err, fmt.Sprintf("cannot reach the node in %s: %v; stop it, then start it with `kith up%s`", home, err, homeFlag(home))}
	}
	c := &Client{home: home}
	c.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		Protocols: new(http.Protocols),
	}
	c.transport.Protocols.SetUnencryptedHTTP2(true)
	c.api = controlv1connect.NewControlServiceClient(&http.Client{Transport: c.transport}, "http://kith")
	return c, nil
}

// dialError is a fault in reaching a node.
type dialError struct {
	err  error
	text string
}

func (e *dialError) Error() string { return e.text }
func (e *dialError) Unwrap() error { return e.err }

// Close gives the connections back. Calls under way are not ended.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Home returns the full path of the home whose node this controls.
func (c *Client) Home() string { return c.home }

// Status asks who the node is, where it listens and what it carries.
func (c *Client) Status(ctx context.Context) (*controlv1.StatusResponse, error) {
	return call(ctx, c, c.api.Status, &controlv1.StatusRequest{})
}

// Expose binds a service name to a local target.
func (c *Client) Expose(ctx context.Context, req *controlv1.ExposeRequest) (*controlv1.ExposeResponse, error) {
	return call(ctx, c, c.api.Expose, req)
}

// Connect binds a local socket to a service of another peer.
func (c *Client) Connect(ctx context.Context, req *controlv1.ConnectRequest) (*controlv1.ConnectResponse, error) {
	return call(ctx, c, c.api.Connect, req)
}

// ListMounts lists what is exposed and connected.
func (c *Client) ListMounts(ctx context.Context) (*controlv1.ListMountsResponse, error) {
	return call(ctx, c, c.api.ListMounts, &controlv1.ListMountsRequest{})
}

// CloseMounts closes every mount that matches all the fields given.
func (c *Client) CloseMounts(ctx context.Context, req *controlv1.CloseMountsRequest) (*controlv1.CloseMountsResponse, error) {
	return call(ctx, c, c.api.CloseMounts, req)
}

// ListStreams lists the live connections through mounts.
func (c *Client) ListStreams(ctx context.Context) (*controlv1.ListStreamsResponse, error) {
	return call(ctx, c, c.api.ListStreams, &controlv1.ListStreamsRequest{})
}

// CloseStreams resets one live connection, or all.
func (c *Client) CloseStreams(ctx context.Context, req *controlv1.CloseStreamsRequest) (*controlv1.CloseStreamsResponse, error) {
	return call(ctx, c, c.api.CloseStreams, req)
}

// ListPeers lists the peers that are connected or known.
func (c *Client) ListPeers(ctx context.Context) (*controlv1.ListPeersResponse, error) {
	return call(ctx, c, c.api.ListPeers, &controlv1.ListPeersRequest{})
}

// DialPeer connects to a peer and has its addresses remembered.
func (c *Client) DialPeer(ctx context.Context, req *controlv1.DialPeerRequest) (*controlv1.DialPeerResponse, error) {
	return call(ctx, c, c.api.DialPeer, req)
}

// Shutdown ends the node; it returns when the home is free again.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := call(ctx, c, c.api.Shutdown, &controlv1.ShutdownRequest{})
	return err
}

// Hold keeps a mount for as long as the sequence is read and has it removed
// afterwards. It yields once when the mount is held, and then blocks until
// someone else closes the mount (the sequence ends), the node stops or ctx ends
// (one last error).
func (c *Client) Hold(ctx context.Context, mount uint64) iter.Seq2[*controlv1.HoldResponse, error] {
	return follow(ctx, c, c.api.Hold, &controlv1.HoldRequest{MountId: mount})
}

// Ping yields one response a round trip, until the count of the request is
// reached, the sequence is left, or ctx ends. An error is the last thing it
// yields.
func (c *Client) Ping(ctx context.Context, req *controlv1.PingRequest) iter.Seq2[*controlv1.PingResponse, error] {
	return follow(ctx, c, c.api.Ping, req)
}

func call[Req, Res any](ctx context.Context, c *Client, do func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req) (*Res, error) {
	if err := checkText(req); err != nil {
		return nil, err
	}
	res, err := do(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	return res.Msg, nil
}

func follow[Req, Res any](ctx context.Context, c *Client, do func(context.Context, *connect.Request[Req]) (*connect.ServerStreamForClient[Res], error), req *Req) iter.Seq2[*Res, error] {
	return func(yield func(*Res, error) bool) {
		if err := checkText(req); err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := do(ctx, connect.NewRequest(req))
		if err != nil {
			yield(nil, c.explain(ctx, err))
			return
		}
		defer func() {
			cancel() // before Close, which waits for the stream's end
			stream.Close()
		}()
		for stream.Receive() {
			if !yield(stream.Msg(), nil) {
				return
			}
		}
		if err := stream.Err(); err != nil {
			yield(nil, c.explain(ctx, err))
		}
	}
}

// checkText refuses a request with a text that is not UTF-8, which the wire could
// not carry. Bytes may be any.
func checkText(req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	bad := ""
	var look func(protoreflect.Message)
	look = func(m protoreflect.Message) {
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			one := func(v protoreflect.Value) {
				switch s, isText := v.Interface().(string); {
				case isText && !utf8.ValidString(s):
					bad = s
				case f.Kind() == protoreflect.MessageKind:
					look(v.Message())
				}
			}
			if f.IsList() {
				for i := range v.List().Len() {
					one(v.List().Get(i))
				}
			} else if !f.IsMap() { // no request has one
				one(v)
			}
			return bad == ""
		})
	}
	if look(m.ProtoReflect()); bad == "" {
		return nil
	}
	return &Error{Code: connect.CodeInvalidArgument.String(),
		Text: fmt.Sprintf("%q is not UTF-8 text, which every name, address and path has to be; write it anew", bad[:min(len(bad), 120)])}
}

// explain turns an error of the wire into one for a person.
func (c *Client) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var ce *connect.Error
	if errors.As(err, &ce) && connect.IsWireError(err) {
		return &Error{Code: ce.Code().String(), Text: ce.Message(), Peer: ce.Meta().Get(answeredBy)}
	}
	return &Error{
		Code: connect.CodeUnavailable.String(),
		Text: fmt.Sprintf("the node in %s went away before it answered (%v); look at its log and start it again with `kith up%s`", c.home, err, homeFlag(c.home)),
	}
}
