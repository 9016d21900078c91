package mconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

// Sizes of the reader's buffers. A connection starts with the first, takes the
// next when that was filled by what has come, and goes back to the first after
// so many reads in a row that would have fitted there.
var sealedSizes = [...]int{4 * frameSealed, 32 << 10, 128 << 10}

const (
	smallPlain = 8 << 10
	quietReads = 8
)

// A reader turns the bytes of a connection into delimited messages. It reads
// blocks as large as they come. Common frames are opened one behind the other
// into one stretch of plaintext, so that what they cut is whole again without
// another copy; kith's are opened in place, since they cut nothing, or like the
// others if they do. It belongs to the goroutine that receives.
type reader struct {
	conn   net.Conn
	cipher frameCipher
	noise  func() error // for a frame that holds nothing

	clock func() int64              // of the connection
	limit bucket                    // of bytes read; its zero value does not limit
	debt  time.Duration             // until the next read of the socket, not of what was read
	pause func(time.Duration) error // waits; set with a limit

	sealed []byte // sealed[r:w] has been read and not opened
	r, w   int
	size   int  // the index of its size
	filled bool // the last read filled all there was
	quiet  int  // small reads in a row

	// Opened and not consumed: either over, which lies in sealed before r, or
	// plain[pr:pw] with pr >= frameHead.
	over   []byte
	plain  []byte
	pr, pw int

	// Counted here, published before each read.
	bytes, frames, packets, messages int64

	stats *readStats
	err   error // after the end
}

// readStats are the counters of a reader, readable by anyone.
type readStats struct {
	bytes, frames, reads, packets, messages atomic.Int64
	pings, pongs                            atomic.Int64
	heard                                   atomic.Int64 // when something came last, by the connection's clock
}

func newReader(conn net.Conn, stats *readStats) *reader {
	return &reader{conn: conn, stats: stats, sealed: make([]byte, sealedSizes[0])}
}

// end gives the buffers back, for a connection that ended with err.
func (r *reader) end(err error) {
	r.err = err
	r.publish()
	p2p.Recycle(r.sealed)
	p2p.Recycle(r.plain)
	r.sealed, r.plain, r.over = nil, nil, nil
	r.r, r.w, r.pr, r.pw = 0, 0, 0, 0
}

// want reads until n sealed bytes are there.
func (r *reader) want(n int) error {
	for r.w-r.r < n {
		if err := r.fill(n); err != nil {
			if err == io.EOF && r.w > r.r {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// fill reads one block, with room for n bytes from r on.
func (r *reader) fill(n int) error {
	if r.r == r.w {
		r.r, r.w = 0, 0
		r.rest()
	}
	switch left := r.w - r.r; {
	case r.filled && r.size+1 < len(sealedSizes):
		r.resize(r.size + 1)
	case r.r > 0 && (left < frameSealed || r.r+n > len(r.sealed) || r.w > len(r.sealed)/4*3):
		copy(r.sealed, r.sealed[r.r:r.w])
		r.r, r.w = 0, left
	}
	r.publish()
	into := r.sealed[r.w:]
	if r.debt > 0 {
		if err := r.pause(r.debt); err != nil {
			return err
		}
	}
	if r.limit.rate > 0 {
		into = into[:min(len(into), max(frameSealed, int(r.limit.burst)))]
	}
	k, err := r.conn.Read(into)
	if r.limit.rate > 0 {
		r.debt = r.limit.take(float64(k), time.Now())
	}
	r.w += k
	r.bytes += int64(k)
	r.stats.reads.Add(1)
	if k > 0 && r.clock != nil {
		r.stats.heard.Store(r.clock())
	}
	r.filled = r.w == len(r.sealed)
	if k < sealedSizes[0] {
		r.quiet++
	} else {
		r.quiet = 0
	}
	if k > 0 {
		return nil // an error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// publish makes the counters known.
func (r *reader) publish() {
	r.stats.bytes.Store(r.bytes)
	r.stats.frames.Store(r.frames)
	r.stats.packets.Store(r.packets)
	r.stats.messages.Store(r.messages)
}

// rest gives large buffers back after a while without need for them. Nothing
// sealed is left.
func (r *reader) rest() {
	if r.quiet < quietReads || r.size == 0 {
		return
	}
	r.resize(0)
	if r.pr == r.pw {
		p2p.Recycle(r.plain)
		r.plain, r.pr, r.pw = nil, 0, 0
	}
}

// resize moves what is sealed to a buffer of another size.
func (r *reader) resize(size int) {
	into := p2p.Buffer(sealedSizes[size])[:sealedSizes[size]]
	r.w = copy(into, r.sealed[r.r:r.w])
	p2p.Recycle(r.sealed)
	r.sealed, r.r, r.size = into, 0, size
}

// frame opens the next frame behind the plaintext that is there.
func (r *reader) frame() error {
	if r.err != nil {
		return r.err
	}
	if len(r.over) > 0 { // a frame cut a packet
		rest := r.over
		r.over = nil
		r.makeRoom(len(rest))
		r.pw += copy(r.plain[r.pw:], rest)
	}
	size, err := r.cipher.size(r.sealed[r.r:r.w])
	if err == nil && size == 0 {
		if err = r.want(wideHead); err == nil {
			size, err = r.cipher.size(r.sealed[r.r:r.w])
		}
	}
	if err == nil {
		err = r.want(size)
	}
	if err != nil {
		return err
	}
	sealed := r.sealed[r.r : r.r+size]
	had := r.pw
	if r.cipher.wide && r.pr == r.pw {
		r.over, err = r.cipher.openInPlace(sealed)
	} else {
		r.makeRoom(r.cipher.room(size))
		had = r.pw
		r.pw, err = r.cipher.open(r.plain, r.pw, sealed)
	}
	if err != nil {
		return err
	}
	r.r += size
	r.frames++
	if r.pw == had && len(r.over) == 0 {
		return r.noise()
	}
	return nil
}

// makeRoom makes room for n bytes after the plaintext.
func (r *reader) makeRoom(n int) {
	if r.pr == r.pw && len(r.plain) > 0 {
		r.pr, r.pw = frameHead, frameHead
	}
	if len(r.plain)-r.pw >= n && len(r.plain) > 0 {
		return
	}
	have := r.plain[r.pr:r.pw]
	if need := frameHead + len(have) + n; need > len(r.plain) {
		size := smallPlain
		for size < need {
			size *= 2
		}
		into := p2p.Buffer(size)[:size]
		copy(into[frameHead:], have)
		p2p.Recycle(r.plain)
		r.plain = into
	} else {
		copy(r.plain[frameHead:], have)
	}
	r.pr, r.pw = frameHead, frameHead+len(have)
}

// have is what was opened and not consumed.
func (r *reader) have() []byte {
	if len(r.over) > 0 {
		return r.over
	}
	return r.plain[r.pr:r.pw]
}

// consume takes n bytes of have.
func (r *reader) consume(n int) {
	if len(r.over) > 0 {
		r.over = r.over[n:]
	} else {
		r.pr += n
	}
}

// next returns the next delimited message, of at most limit bytes, which must be
// at most what a packet may have. It is valid until the next call.
func (r *reader) next(limit int) ([]byte, error) {
	for {
		have := r.have()
		n, k, err := delimiter(have, limit)
		if err != nil {
			return nil, err
		}
		if k > 0 && len(have)-k >= n {
			r.consume(k + n)
			return have[k : k+n], nil
		}
		if err := r.frame(); err != nil {
			return nil, r.cut(err)
		}
	}
}

// collect returns the next delimited message in memory of its own, which grows
// with what has come.
func (r *reader) collect(limit int) ([]byte, error) {
	var body []byte
	want := -1
	for {
		if want < 0 {
			n, k, err := delimiter(r.have(), limit)
			if err != nil {
				return nil, err
			}
			if k > 0 {
				r.consume(k)
				want = n
			}
		}
		if want >= 0 {
			have := r.have()
			k := min(want-len(body), len(have))
			body = append(body, have[:k]...)
			r.consume(k)
			if len(body) == want {
				return body, nil
			}
		}
		if err := r.frame(); err != nil {
			return nil, r.cut(err)
		}
	}
}

// cut tells an end between messages from one inside a message.
func (r *reader) cut(err error) error {
	if err == io.EOF && len(r.have()) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

var errDelimiter = errors.New("the length is not a varint")

// delimiter reads the length in front of a message: the length, and how many
// bytes it takes, 0 if they are not all there.
func delimiter(b []byte, limit int) (n, size int, err error) {
	v, k := binary.Uvarint(b[:min(len(b), binary.MaxVarintLen64)])
	switch {
	case k < 0 || k == 0 && len(b) >= binary.MaxVarintLen64:
		return 0, 0, fmt.Errorf("%w: %w", ErrMalformed, errDelimiter)
	case k > 0 && v > uint64(limit):
		return 0, 0, fmt.Errorf("%w: %d bytes, at most %d", ErrPacketTooLarge, v, limit)
	}
	return int(v), k, nil
}
