package rpc

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"
)

// Headers go with a request or an answer: names and values, both UTF-8, sorted
// by name on the wire. A name is at most 256 bytes; all together take at most
// 32 KiB. Names that start with "kith-" are this package's; "codec" says how a
// typed body is encoded.
type Headers map[string]string

const (
	headersMax    = 32 << 10 // bytes of all names and values
	headerCount   = 128
	headerNameMax = 256
	methodMax     = 1 << 10
	messageMax    = 8 << 10 // text of an error
	detailsMax    = 16
	detailBytes   = 16 << 10 // all details

	// maxTimeout is the longest timeout that travels; longer ones are cut.
	maxTimeout = 365 * 24 * time.Hour
)

// check says what is wrong with headers.
func (h Headers) check() error {
	if len(h) > headerCount {
		return Errorf(CodeInvalidArgument, "%d headers, at most %d", len(h), headerCount)
	}
	n := 0
	for k, v := range h {
		n += len(k) + len(v)
		if k == "" || len(k) > headerNameMax || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return Errorf(CodeInvalidArgument, "header %.40q: names and values must be UTF-8, names 1 to %d bytes", k, headerNameMax)
		}
	}
	if n > headersMax {
		return Errorf(CodeInvalidArgument, "%d bytes of headers, at most %d", n, headersMax)
	}
	return nil
}

// invoke opens a call.
type invoke struct {
	method  []byte
	timeout time.Duration // 0: none
	headers Headers
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendHeaders(b []byte, h Headers) []byte {
	b = binary.AppendUvarint(b, uint64(len(h)))
	if len(h) == 0 {
		return b
	}
	for _, k := range slices.Sorted(maps.Keys(h)) {
		b = appendString(appendString(b, k), h[k])
	}
	return b
}

// appendInvoke appends the payload of an invoke frame.
func appendInvoke(b []byte, method string, timeout time.Duration, h Headers) []byte {
	b = appendString(b, method)
	b = binary.AppendUvarint(b, micros(timeout))
	return appendHeaders(b, h)
}

// micros rounds up, so that what is left of a deadline is never 0, which would
// mean none.
func micros(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((min(d, maxTimeout) + time.Microsecond - 1) / time.Microsecond)
}

func fromMicros(v uint64) time.Duration {
	return time.Duration(min(v, uint64(maxTimeout/time.Microsecond))) * time.Microsecond
}

// parser takes a payload apart. After the first fault it returns zero values.
type parser struct {
	b   []byte
	err error
}

func (p *parser) fail(what string) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	p.b = nil
}

func (p *parser) uvarint(what string) uint64 {
	v, n := uvarint(p.b)
	if n <= 0 {
		p.fail(what)
		return 0
	}
	p.b = p.b[n:]
	return v
}

// bytes returns a part of the payload itself.
func (p *parser) bytes(limit int, what string) []byte {
	n := p.uvarint(what)
	if p.err != nil {
		return nil
	}
	if n > uint64(len(p.b)) || n > uint64(limit) {
		p.fail(what)
		return nil
	}
	s := p.b[:n]
	p.b = p.b[n:]
	return s
}

// text returns a copy that is UTF-8.
func (p *parser) text(limit int, what string) string {
	b := p.bytes(limit, what)
	if !utf8.Valid(b) {
		p.fail(what + " is not UTF-8")
		return ""
	}
	return string(b)
}

// headers wants names in rising order: sorted, each once.
func (p *parser) headers() Headers {
	n := p.uvarint("number of headers")
	if n == 0 || p.err != nil {
		return nil
	}
	if n > headerCount || n > uint64(len(p.b)) {
		p.fail("too many headers")
		return nil
	}
	h := make(Headers, n)
	last, total := "", 0
	for range n {
		k := p.text(headerNameMax, "name of a header")
		v := p.text(headersMax, "value of a header")
		if p.err != nil {
			return nil
		}
		if k <= last {
			p.fail("headers are not sorted by name")
			return nil
		}
		if total += len(k) + len(v); total > headersMax {
			p.fail("headers too long")
			return nil
		}
		h[k], last = v, k
	}
	return h
}

// end returns the fault, or that something is left.
func (p *parser) end() error {
	if p.err == nil && len(p.b) > 0 {
		p.fail("bytes after the end of the payload")
	}
	return p.err
}

// parseInvoke reads the payload of an invoke frame. The method is part of b.
func parseInvoke(b []byte) (v invoke, err error) {
	p := parser{b: b}
	v.method = p.bytes(methodMax, "method")
	if p.err == nil && (len(v.method) == 0 || !utf8.Valid(v.method)) {
		p.fail("method is empty or not UTF-8")
	}
	v.timeout = fromMicros(p.uvarint("timeout"))
	v.headers = p.headers()
	return v, p.end()
}

func parseHeaders(b []byte) (Headers, error) {
	p := parser{b: b}
	h := p.headers()
	return h, p.end()
}

// appendError appends the payload of an error frame. What does not fit is cut.
func appendError(b []byte, e *Error) []byte {
	b = binary.AppendUvarint(b, uint64(e.Code))
	b = binary.AppendUvarint(b, micros(e.RetryAfter))
	b = appendString(b, cutText(e.Message, messageMax))
	n, size := 0, 0
	for _, d := range e.Details {
		if size += len(d.Type) + len(d.Value); n == detailsMax || size > detailBytes || len(d.Type) > headerNameMax || !utf8.ValidString(d.Type) {
			break
		}
		n++
	}
	b = binary.AppendUvarint(b, uint64(n))
	for _, d := range e.Details[:n] {
		b = appendString(appendString(b, d.Type), d.Value)
	}
	return b
}

func parseError(b []byte) (*Error, error) {
	p := parser{b: b}
	e := new(Error)
	code := p.uvarint("code")
	if p.err == nil && (code == 0 || code > 1<<16) {
		p.fail("code of an error")
	}
	e.Code = Code(code)
	e.RetryAfter = fromMicros(p.uvarint("retry-after"))
	e.Message = p.text(messageMax, "message")
	n := p.uvarint("number of details")
	if n > detailsMax {
		p.fail("too many details")
		n = 0
	}
	for range n {
		d := Detail{Type: p.text(headerNameMax, "type of a detail")}
		d.Value = slices.Clone(p.bytes(detailBytes, "value of a detail"))
		if p.err != nil {
			break
		}
		e.Details = append(e.Details, d)
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	return e, nil
}

// goaway says that calls above last have not been and will not be served on
// this stream.
type goaway struct {
	last       uint64
	code       Code // CodeOK: this stream only
	retryAfter time.Duration
	message    string
}

func appendGoaway(b []byte, g goaway) []byte {
	b = binary.AppendUvarint(b, g.last)
	b = binary.AppendUvarint(b, uint64(g.code))
	b = binary.AppendUvarint(b, micros(g.retryAfter))
	return appendString(b, cutText(g.message, messageMax))
}

func parseGoaway(b []byte) (g goaway, err error) {
	p := parser{b: b}
	g.last = p.uvarint("last call")
	code := p.uvarint("code")
	if code > 1<<16 {
		p.fail("code of a goaway")
	}
	g.code = Code(code)
	g.retryAfter = fromMicros(p.uvarint("retry-after"))
	g.message = p.text(messageMax, "message")
	return g, p.end()
}

// parseCancel returns what the context of a call is to end with.
func parseCancel(b []byte) (cause error, err error) {
	code, err := parseNumber(b)
	if err != nil {
		return nil, err
	}
	switch Code(code) {
	case CodeCanceled:
		return context.Canceled, nil
	case CodeDeadlineExceeded:
		return context.DeadlineExceeded, nil
	}
	return nil, fmt.Errorf("%w: a cancel of code %d", ErrMalformed, code)
}

// parseNumber reads a payload that is one number: of cancel and of window.
func parseNumber(b []byte) (uint64, error) {
	p := parser{b: b}
	v := p.uvarint("number")
	return v, p.end()
}

// cutText is s as UTF-8 of at most n bytes.
func cutText(s string, n int) string {
	for i, r := range s {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError || i+size > n {
			return s[:i]
		}
	}
	return s
}
