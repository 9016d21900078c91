package addrbook

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
	"github.com/libp2p/go-libp2p/core/peer"
)

// The rows of the store. A key is one letter and a name; integers are
// varints, a text is its length and its bytes, a moment is Unix nanoseconds
// (0: none). A row begins with the version of its layout, now 1, and holds
// nothing after its last field.
//
//	aURL     an address: flags (1 tried, 2 verified, 4 the peer itself said so), source (kind, peer, IP of 0, 4 or 16 bytes, protocol, name),
//	         added, heard, attempt, success, failure, retry, failures, number of new buckets, buckets
//	pID      a peer: peer ID, score (8 bytes of IEEE 754), its moment, ban, shun, last connected
//	bPREFIX  the ban of a prefix (a ban is since, until, reason; until 2^63-1: without end)
//	mNAME    secret (32 bytes), self (an ID), anchors (URLs), shape (the sizes of the tables)
//	xKEY     a row that could not be read, as it was
const (
	rowVersion = 1

	rowAddress = 'a'
	rowPeer    = 'p'
	rowPrefix  = 'b'
	rowMeta    = 'm'
	rowAside   = 'x'

	metaSecret  = "secret"
	metaSelf    = "self"
	metaAnchors = "anchors"
	metaShape   = "shape"

	flagTried    = 1
	flagVerified = 2
	flagSelf     = 4

	maxAnchors = 2
)

var errRow = errors.New("addrbook: row cannot be read")

// rowReader reads fields until one does not fit.
type rowReader struct {
	b   []byte
	bad bool
}

func (r *rowReader) uint(most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > most {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *rowReader) stamp() stamp { return stamp(r.uint(math.MaxInt64)) }

func (r *rowReader) bytes(most uint64) []byte {
	n := r.uint(most)
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *rowReader) sanction() sanction {
	return sanction{since: r.stamp(), until: r.stamp(), reason: string(r.bytes(maxReason))}
}

func (r *rowReader) version() { r.bad = r.uint(math.MaxUint64) != rowVersion || r.bad }

func (r *rowReader) end() error {
	if r.bad || len(r.b) > 0 {
		return errRow
	}
	return nil
}

type rowWriter []byte

func newRow() rowWriter { return rowWriter{rowVersion} }

func (w *rowWriter) uint(v uint64) { *w = binary.AppendUvarint(*w, v) }
func (w *rowWriter) stamps(ss ...stamp) {
	for _, s := range ss {
		w.uint(uint64(s))
	}
}
func (w *rowWriter) text(s string) { w.uint(uint64(len(s))); *w = append(*w, s...) }
func (w *rowWriter) sanction(s sanction) {
	w.stamps(s.since, s.until)
	w.text(s.reason)
}

func encodeEntry(e *entry) []byte {
	w := newRow()
	flags := uint64(0)
	if e.tried {
		flags |= flagTried
	}
	if e.verified {
		flags |= flagVerified
	}
	if e.self {
		flags |= flagSelf
	}
	w.uint(flags)
	w.text(string(e.from.Kind))
	w.text(string(e.from.Peer))
	w.text(string(e.from.IP.AsSlice()))
	w.text(string(e.from.Protocol))
	w.text(e.from.Name)
	retry := e.retry
	if retry == never {
		retry = 0 // a restart tries again
	}
	w.stamps(e.added, e.heard, e.attempt, e.success, e.failure, retry)
	w.uint(uint64(e.failures))
	if e.tried {
		w.uint(0)
		return w
	}
	w.uint(uint64(len(e.refs)))
	for _, s := range e.refs {
		w.uint(uint64(s.bucket))
	}
	return w
}

// savedEntry is an entry as read, without its place.
type savedEntry struct {
	entry
	source  Source
	buckets []uint16
}

func decodeEntry(url string, value []byte) (savedEntry, error) {
	var s savedEntry
	a, err := address.ParseNodeAddress(url)
	if err != nil {
		return s, err
	}
	if a.String() != url {
		return s, errRow
	}
	r := rowReader{b: value}
	r.version()
	flags := r.uint(flagTried | flagVerified | flagSelf)
	s.addr, s.tried, s.verified = a, flags&flagTried != 0, flags&flagVerified != 0
	s.source.Kind = Kind(r.bytes(32))
	s.source.Peer = identity.NodeID(r.bytes(identity.NodeIDLength))
	ip := r.bytes(16)
	if len(ip) > 0 {
		var ok bool
		if s.source.IP, ok = netip.AddrFromSlice(ip); !ok {
			return s, errRow
		}
	}
	s.source.Protocol = address.Protocol(r.bytes(32))
	s.source.Name = string(r.bytes(253))
	s.self = flags&flagSelf != 0 || rankOf(s.source, a) == rankSelf // older rows have no such flag
	s.added, s.heard, s.attempt, s.success, s.failure, s.retry = r.stamp(), r.stamp(), r.stamp(), r.stamp(), r.stamp(), r.stamp()
	s.failures = uint16(r.uint(math.MaxUint16))
	for range r.uint(maxReferences) {
		s.buckets = append(s.buckets, uint16(r.uint(math.MaxUint16)))
	}
	if s.tried && !s.verified {
		return s, errRow
	}
	return s, r.end()
}

// encodeRecord returns nil when there is nothing to remember.
func encodeRecord(r *record) []byte {
	if r.peerID == "" && r.score.value == 0 && r.ban.since == 0 && r.shun.since == 0 && r.lastConnected == 0 {
		return nil
	}
	w := newRow()
	w.text(string(r.peerID))
	w = binary.BigEndian.AppendUint64(w, math.Float64bits(r.score.value))
	w.stamps(r.score.at)
	w.sanction(r.ban)
	w.sanction(r.shun)
	w.stamps(r.lastConnected)
	return w
}

func decodeRecord(id string, value []byte) (record, error) {
	rec := record{id: identity.NodeID(id)}
	if err := rec.id.Validate(); err != nil {
		return rec, err
	}
	r := rowReader{b: value}
	r.version()
	rec.peerID = peer.ID(r.bytes(64))
	if len(r.b) < 8 {
		return rec, errRow
	}
	rec.score.value = math.Float64frombits(binary.BigEndian.Uint64(r.b))
	r.b = r.b[8:]
	rec.score.at = r.stamp()
	rec.ban, rec.shun = r.sanction(), r.sanction()
	rec.lastConnected = r.stamp()
	if v := rec.score.value; !(v >= float64(MinScore) && v <= float64(MaxScore)) {
		return rec, errRow
	}
	if rec.peerID != "" {
		if of, err := identity.NodeIDFromPeerID(rec.peerID); err != nil || of != rec.id {
			return rec, errRow
		}
	}
	return rec, r.end()
}

func encodeBan(s sanction) []byte {
	w := newRow()
	w.sanction(s)
	return w
}

func decodeBan(prefix string, value []byte) (netip.Prefix, sanction, error) {
	if len(prefix) > len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128") {
		return netip.Prefix{}, sanction{}, errRow
	}
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return p, sanction{}, err
	}
	if q, err := normalPrefix(p); err != nil || q.String() != prefix {
		return p, sanction{}, errRow
	}
	r := rowReader{b: value}
	r.version()
	s := r.sanction()
	if s.since == 0 {
		return p, s, errRow
	}
	return p, s, r.end()
}

// meta is the rows that are there once.
type meta struct {
	secret  []byte
	self    identity.NodeID
	anchors []address.NodeAddress
	shape   [3]int
}

func (m *meta) decode(name string, value []byte) error {
	next := *m
	if err := next.read(name, value); err != nil {
		return err
	}
	*m = next
	return nil
}

func (m *meta) read(name string, value []byte) error {
	r := rowReader{b: value}
	r.version()
	switch name {
	case metaSecret:
		if m.secret = append([]byte(nil), r.bytes(32)...); len(m.secret) != 32 {
			return errRow
		}
	case metaSelf:
		m.self = identity.NodeID(r.bytes(identity.NodeIDLength))
		if err := m.self.Validate(); err != nil {
			return err
		}
	case metaAnchors:
		for url := range strings.FieldsSeq(string(r.bytes(maxAnchors * address.MaxLength))) {
			a, err := address.ParseNodeAddress(url)
			if err != nil || len(m.anchors) == maxAnchors {
				return errRow
			}
			m.anchors = append(m.anchors, a)
		}
	case metaShape:
		for i := range m.shape {
			m.shape[i] = int(r.uint(1 << 16))
		}
	default:
		return fmt.Errorf("%w: unknown name %q", errRow, name[:min(len(name), 64)])
	}
	return r.end()
}

func (c *core) encodeMeta(name string) []byte {
	w := newRow()
	switch name {
	case metaSecret:
		w.text(string(c.hash.secret[:]))
	case metaSelf:
		if c.o.Self == "" {
			return nil
		}
		w.text(string(c.o.Self))
	case metaAnchors:
		var urls []string
		for _, a := range c.anchors {
			urls = append(urls, a.String())
		}
		w.text(strings.Join(urls, " "))
	case metaShape:
		w.uint(uint64(c.o.NewBuckets))
		w.uint(uint64(c.o.TriedBuckets))
		w.uint(uint64(c.o.BucketSize))
	}
	return w
}
