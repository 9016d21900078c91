package rpc

import (
	"context"
	"errors"
	"io"
	"iter"
	"reflect"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Handle serves a method with typed messages: proto.Message is Protobuf, []byte
// and string travel as they are ("raw"), everything else is JSON. The name of the
// codec goes with the request. Protobuf where JSON is expected, JSON where Protobuf
// is, and any codec of another name are refused with CodeUnimplemented. Two things
// are not: a raw body, or one without a name (as every body on the plain wire), is
// taken for what Req needs, and a Req that is []byte or string takes every body as
// it is, whatever it is in. What does not decode is answered with
// CodeInvalidArgument. Errors are those of StartHandler.
func Handle[Req, Resp any](s *Server, id protocol.ID, fn func(context.Context, Req) (Resp, error), opts ...HandleOption) error {
	in, out := codecOf(reflect.TypeFor[Req]()), codecOf(reflect.TypeFor[Resp]())
	headers := headersOf(out)
	return s.StartHandler(id, func(ctx context.Context, r *Request) (*Response, error) {
		req, err := decodeRequest[Req](s, r.Body, in, r.Headers)
		if err != nil {
			return nil, err
		}
		resp, err := fn(ctx, req)
		if err != nil {
			return nil, err
		}
		b, err := encode(resp, out)
		return &Response{Headers: headers, Body: b}, err
	}, opts...)
}

func decodeRequest[Req any](s *Server, b []byte, codec string, h Headers) (Req, error) {
	req, err := decode[Req](b, codec, h[headerCodec])
	switch {
	case errors.Is(err, ErrUnknownCodec):
		return req, Errorf(CodeUnimplemented, "%w", s.faults.count(err))
	case err != nil:
		return req, Errorf(CodeInvalidArgument, "the request is not %s as the method expects it: %w", codec, err)
	}
	return req, nil
}

func decodeResponse[Resp any](c *Client, p peer.ID, b []byte, codec string, h Headers) (Resp, error) {
	resp, err := decode[Resp](b, codec, h[headerCodec])
	if errors.Is(err, ErrUnknownCodec) {
		_ = c.faults.count(err)
	}
	if err != nil {
		return resp, &Error{Code: CodeInternal, Message: "the answer of peer " + p.String() + " is not " + codec + ": " + err.Error(), cause: err, inner: true}
	}
	return resp, nil
}

// Call calls a method with typed messages, as Handle serves them. Errors are
// those of Client.Send, CodeInvalidArgument if req cannot be encoded, and
// CodeInternal if the answer is in another codec than that of Resp (by the rules of
// Handle) or does not decode.
func Call[Resp, Req any](ctx context.Context, c *Client, p peer.ID, id protocol.ID, req Req, opts ...CallOption) (Resp, error) {
	var none Resp
	codec := codecOf(reflect.TypeFor[Req]())
	b, err := encode(req, codec)
	if err != nil {
		return none, callErrorf(CodeInvalidArgument, "the request cannot be encoded: %w", err)
	}
	resp, err := c.Do(ctx, &Request{Peer: p, Method: id, Headers: headersOf(codec), Body: b}, opts...)
	if err != nil {
		return none, err
	}
	return decodeResponse[Resp](c, p, resp.Body, codecOf(reflect.TypeFor[Resp]()), resp.Headers)
}

// HandleServerStream serves one request with a stream of answers. The first
// error that fn yields ends the call with it.
func HandleServerStream[Req, Resp any](s *Server, id protocol.ID, fn func(context.Context, Req) iter.Seq2[Resp, error], opts ...HandleOption) error {
	return HandleBidi(s, id, func(ctx context.Context, in iter.Seq2[Req, error]) iter.Seq2[Resp, error] {
		return func(yield func(Resp, error) bool) {
			var none Resp
			for req, err := range in {
				if err != nil {
					yield(none, err)
					return
				}
				for resp, err := range fn(ctx, req) {
					if !yield(resp, err) {
						return
					}
				}
				return
			}
			yield(none, Errorf(CodeInvalidArgument, "no request came"))
		}
	}, opts...)
}

// HandleClientStream serves a stream of requests with one answer. The iterator
// ends with the caller's last message, or with an error as its last element.
func HandleClientStream[Req, Resp any](s *Server, id protocol.ID, fn func(context.Context, iter.Seq2[Req, error]) (Resp, error), opts ...HandleOption) error {
	return HandleBidi(s, id, func(ctx context.Context, in iter.Seq2[Req, error]) iter.Seq2[Resp, error] {
		return func(yield func(Resp, error) bool) { yield(fn(ctx, in)) }
	}, opts...)
}

// HandleBidi serves a stream of requests with a stream of answers, each at its
// own pace. The first error that fn yields ends the call with it; so does the
// end of what fn yields.
func HandleBidi[Req, Resp any](s *Server, id protocol.ID, fn func(context.Context, iter.Seq2[Req, error]) iter.Seq2[Resp, error], opts ...HandleOption) error {
	in, out := codecOf(reflect.TypeFor[Req]()), codecOf(reflect.TypeFor[Resp]())
	return s.HandleStream(id, func(ctx context.Context, st *ServerStream) error {
		if h := headersOf(out); h != nil {
			if err := st.SendHeaders(h); err != nil {
				return err
			}
		}
		requests := func(yield func(Req, error) bool) {
			for b, err := range st.Messages() {
				var req Req
				if err == nil {
					req, err = decodeRequest[Req](s, b, in, st.req.Headers)
				}
				if !yield(req, err) || err != nil {
					return
				}
			}
		}
		for resp, err := range fn(ctx, requests) {
			if err != nil {
				return err
			}
			b, err := encode(resp, out)
			if err != nil {
				return err
			}
			if err := st.Send(b); err != nil {
				return err
			}
		}
		return nil
	}, opts...)
}

// CallServerStream sends one request and iterates over the answers. An error is
// the last element. To stop early ends the call.
func CallServerStream[Resp, Req any](ctx context.Context, c *Client, p peer.ID, id protocol.ID, req Req, opts ...CallOption) iter.Seq2[Resp, error] {
	return CallBidi[Resp](ctx, c, p, id, func(yield func(Req) bool) { yield(req) }, opts...)
}

// CallClientStream sends requests and returns the one answer. The sequence is
// read in another goroutine, which ends before CallClientStream returns, as
// soon as the sequence yields or ends.
func CallClientStream[Resp, Req any](ctx context.Context, c *Client, p peer.ID, id protocol.ID, reqs iter.Seq[Req], opts ...CallOption) (Resp, error) {
	var last Resp
	n := 0
	for resp, err := range CallBidi[Resp](ctx, c, p, id, reqs, opts...) {
		if err != nil {
			return last, err
		}
		last = resp
		n++
	}
	if n != 1 {
		return last, callErrorf(CodeInternal, "peer %s answered with %d messages where one is expected", p, n)
	}
	return last, nil
}

// CallBidi sends requests while it iterates over the answers. An error is the
// last element. To stop early ends the call. The sequence is read in another
// goroutine, which ends before the iteration does, as soon as the sequence
// yields or ends.
func CallBidi[Resp, Req any](ctx context.Context, c *Client, p peer.ID, id protocol.ID, reqs iter.Seq[Req], opts ...CallOption) iter.Seq2[Resp, error] {
	in, out := codecOf(reflect.TypeFor[Req]()), codecOf(reflect.TypeFor[Resp]())
	return func(yield func(Resp, error) bool) {
		var none Resp
		st, err := c.Open(ctx, &Request{Peer: p, Method: id, Headers: headersOf(in)}, opts...)
		if err != nil {
			yield(none, err)
			return
		}
		sent := make(chan error, 1)
		go func() { sent <- sendAll(st, reqs, in) }()
		defer func() {
			_ = st.Close()
			<-sent
		}()
		headers, _ := st.Headers()
		for {
			b, err := st.Recv()
			if err == io.EOF {
				return
			}
			resp := none
			if err == nil {
				resp, err = decodeResponse[Resp](c, p, b, out, headers)
			} else if local := bad(sent); local != nil {
				err = local
			}
			if !yield(resp, err) || err != nil {
				return
			}
		}
	}
}

// bad is why the requests could not be sent, if it was on our side.
func bad(sent chan error) error {
	select {
	case err := <-sent:
		sent <- nil
		if e, ok := errors.AsType[*Error](err); ok && e.Code == CodeInvalidArgument {
			return e
		}
	default:
	}
	return nil
}

func sendAll[Req any](st *ClientStream, reqs iter.Seq[Req], codec string) error {
	for req := range reqs {
		b, err := encode(req, codec)
		if err == nil {
			err = st.Send(b)
		} else {
			err = callErrorf(CodeInvalidArgument, "the request cannot be encoded: %w", err)
		}
		if err != nil {
			if err != io.EOF {
				_ = st.Close()
			}
			return err
		}
	}
	return st.CloseSend()
}
