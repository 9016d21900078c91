package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
)

// The file is checked before bbolt maps it: bbolt trusts what it reads and
// answers damage with a panic or a memory fault, some of them on goroutines of
// its own, where nobody can catch them. A file that passes has every page in
// the place it claims, used once, with all its rows inside it and in order.
//
// Layout (bbolt's version 2; integers in the machine's byte order):
//
//	page      id u64, flags u16, count u16, overflow u32, then the content; overflow is how many pages follow as part of it
//	head      pages 0 and 1: magic u32, version u32, page size u32, flags u32, root u64, sequence u64, freelist u64,
//	          pages u64, transaction u64, FNV-1a of all that u64; the intact one with the higher transaction counts
//	leaf      count x (flags u32, offset u32, key size u32, value size u32), then keys and values; flags 1: a bucket
//	branch    count x (offset u32, key size u32, page u64), then keys
//	bucket    root u64, sequence u64; root 0: a leaf page follows right there
//	freelist  count x page u64; count 0xffff: the true count is the first u64
const (
	boltMagic     = 0xED0CDAED
	boltVersion   = 2
	pageHeader    = 16
	headSize      = 64
	element       = 16
	branchPage    = 1
	leafPage      = 2
	freelistPage  = 16
	bucketElement = 1
	maxDepth      = 32 // of a tree; bbolt needs 5 for a million rows
	maxKey        = 32768
	noFreelist    = ^uint64(0)
)

// errStructure is matched by what check finds.
var errStructure = errors.New("broken structure")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errStructure, fmt.Sprintf(format, args...))
}

// findings is what check says of a file that can be opened.
type findings struct {
	tables   map[string]*table
	badHead  bool // one of the two heads is damaged, so the other was used
	undated  bool // written before tables had digests
	badCheck bool // a digest is damaged
}

// table is what was counted of one bucket.
type table struct {
	rows    digest
	damaged []string // keys of rows that fail their checksum
}

type head struct {
	pageSize, root, freelist, pages, tx uint64
}

func readHead(data []byte, at uint64) (head, bool) {
	if at > uint64(len(data)) || uint64(len(data))-at < pageHeader+headSize {
		return head{}, false
	}
	b := data[at+pageHeader:][:headSize]
	u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
	sum := fnv.New64a()
	sum.Write(b[:headSize-8])
	h := head{uint64(u32(b[8:])), u64(b[16:]), u64(b[32:]), u64(b[40:]), u64(b[48:])}
	return h, u32(b) == boltMagic && u32(b[4:]) == boltVersion && u64(b[56:]) == sum.Sum64() && h.pageSize >= 512
}

// check reads a whole file and returns an error that matches errStructure when
// it must not be opened.
func check(data []byte) (*findings, error) {
	var h head
	found, other := false, false
	if h, found = readHead(data, 0); found {
		var second head
		if second, other = readHead(data, h.pageSize); other && second.tx > h.tx {
			h = second
		}
	} else {
		for size := uint64(512); !found && size <= 1<<16; size *= 2 {
			h, found = readHead(data, size)
		}
	}
	if !found {
		return nil, broken("neither head can be read")
	}
	if h.pages < 3 || h.pages > uint64(len(data))/h.pageSize {
		return nil, broken("cut off: %d bytes of %d pages of %d", len(data), h.pages, h.pageSize)
	}
	f := &findings{tables: map[string]*table{}, badHead: !other}
	c := &checker{data: data, head: h, used: make([]bool, h.pages)}
	digests := map[string]digest{}
	hasDigests := false
	err := c.tree(h.root, 0, nil, nil, func(name, value []byte, bucket bool) error {
		if !bucket {
			return broken("a row outside the tables")
		}
		if len(value) < element {
			return broken("table %q is cut off", name)
		}
		t := &table{}
		row := func(key, value []byte, bucket bool) error {
			if bucket {
				return broken("a table within table %q", name)
			}
			switch {
			case string(name) == string(asideBucket):
			case string(name) == string(digestBucket):
				d, ok := openDigest(key, value)
				if ok {
					digests[string(key)] = d
				} else {
					f.badCheck = true
				}
			default:
				t.rows.add(value)
				if _, ok := unseal(key, value); !ok {
					t.damaged = append(t.damaged, string(key))
				}
			}
			return nil
		}
		switch string(name) {
		case string(digestBucket):
			hasDigests = true
		case string(asideBucket), string(metaBucket):
		default:
			f.tables[string(name)] = t
		}
		if root := binary.NativeEndian.Uint64(value); root != 0 {
			return c.tree(root, 0, nil, nil, row)
		}
		inline := value[element:]
		if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != leafPage {
			return broken("table %q has no page", name)
		}
		return c.leaf(inline, nil, nil, row)
	})
	if err == nil {
		err = c.freelist()
	}
	if err != nil {
		return nil, err
	}
	if f.undated = !hasDigests; f.undated {
		return f, nil
	}
	return f, f.compare(digests)
}

// compare finds rows that the file no longer says that it has.
func (f *findings) compare(digests map[string]digest) error {
	for name, t := range f.tables {
		d, ok := digests[name]
		switch {
		case !ok && f.badCheck:
		case !ok && t.rows == (digest{}):
		case !ok:
			return broken("table %q was never counted", name)
		case d.count != t.rows.count:
			return broken("table %q has %d rows and should have %d", name, t.rows.count, d.count)
		case d.sum != t.rows.sum && len(t.damaged) == 0:
			return broken("table %q holds rows of another time", name)
		}
	}
	for name, d := range digests {
		if f.tables[name] == nil && d.count > 0 {
			return broken("table %q is missing with its %d rows", name, d.count)
		}
	}
	return nil
}

type checker struct {
	data []byte
	head head
	used []bool
}

// page returns one page with its overflow, marked as used.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.head.pages {
		return nil, broken("page %d of %d", id, c.head.pages)
	}
	p := c.data[id*c.head.pageSize:]
	more := uint64(binary.NativeEndian.Uint32(p[12:]))
	if binary.NativeEndian.Uint64(p) != id || more >= c.head.pages-id {
		return nil, broken("page %d is not what it says", id)
	}
	for i := id; i <= id+more; i++ {
		if c.used[i] {
			return nil, broken("page %d is used twice", i)
		}
		c.used[i] = true
	}
	return p[:(more+1)*c.head.pageSize], nil
}

// inside returns the key and value that element i of a page points at.
func inside(p []byte, i, count int, offset, ksize, vsize uint32) (key, value []byte, err error) {
	at := pageHeader + element*uint64(i) + uint64(offset)
	end := at + uint64(ksize) + uint64(vsize)
	if at < pageHeader+element*uint64(count) || end > uint64(len(p)) || ksize == 0 || ksize > maxKey {
		return nil, nil, broken("a row outside its page")
	}
	return p[at : at+uint64(ksize)], p[at+uint64(ksize) : end], nil
}

// elements checks that the list of a page's elements lies inside it.
func elements(p []byte) (int, error) {
	count := int(binary.NativeEndian.Uint16(p[10:]))
	if pageHeader+element*count > len(p) {
		return 0, broken("a page with %d rows and no room for them", count)
	}
	return count, nil
}

// tree walks the page id and what is under it, whose keys begin with low (nil:
// anything) and lie below high. When a page is written, bbolt looks for its
// first key in the page above, and frees pages twice if it is not there.
func (c *checker) tree(id uint64, depth int, low, high []byte, row func(key, value []byte, bucket bool) error) error {
	if depth > maxDepth {
		return broken("a tree of more than %d levels", maxDepth)
	}
	p, err := c.page(id)
	if err != nil {
		return err
	}
	switch flags := binary.NativeEndian.Uint16(p[8:]); flags {
	case leafPage:
		return c.leaf(p, low, high, row)
	case branchPage:
	default:
		return broken("page %d of kind %d in a tree", id, flags)
	}
	count, err := elements(p)
	if err != nil {
		return err
	}
	if count == 0 {
		return broken("page %d is an empty branch", id)
	}
	key := func(i int) ([]byte, error) {
		e := p[pageHeader+element*i:]
		k, _, err := inside(p, i, count, binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:]), 0)
		return k, err
	}
	for i := range count {
		from, err := key(i)
		if err != nil {
			return err
		}
		to := high
		if i+1 < count {
			if to, err = key(i + 1); err != nil {
				return err
			}
		}
		if i == 0 && low != nil && !bytes.Equal(from, low) || to != nil && bytes.Compare(from, to) >= 0 {
			return broken("page %d is out of order", id)
		}
		if err := c.tree(binary.NativeEndian.Uint64(p[pageHeader+element*i+8:]), depth+1, from, to, row); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) leaf(p, low, high []byte, row func(key, value []byte, bucket bool) error) error {
	count, err := elements(p)
	if err != nil {
		return err
	}
	if count == 0 && low != nil {
		return broken("an empty page")
	}
	var last []byte
	for i := range count {
		e := p[pageHeader+element*i:]
		u32 := binary.NativeEndian.Uint32
		key, value, err := inside(p, i, count, u32(e[4:]), u32(e[8:]), u32(e[12:]))
		if err != nil {
			return err
		}
		if i > 0 && bytes.Compare(last, key) >= 0 || i == 0 && low != nil && !bytes.Equal(key, low) || high != nil && bytes.Compare(key, high) >= 0 {
			return broken("keys out of order")
		}
		last = key
		flags := u32(e)
		if flags > bucketElement {
			return broken("a row of kind %d", flags)
		}
		if err := row(key, value, flags == bucketElement); err != nil {
			return err
		}
	}
	return nil
}

// freelist checks that no page is both free and in use.
func (c *checker) freelist() error {
	if c.head.freelist == noFreelist {
		return broken("no list of free pages")
	}
	p, err := c.page(c.head.freelist)
	if err != nil {
		return err
	}
	if binary.NativeEndian.Uint16(p[8:]) != freelistPage {
		return broken("the list of free pages is something else")
	}
	count, list := uint64(binary.NativeEndian.Uint16(p[10:])), p[pageHeader:]
	if count == 0xffff {
		count, list = binary.NativeEndian.Uint64(list), list[8:]
	}
	if count > uint64(len(list))/8 {
		return broken("the list of free pages is cut off")
	}
	for i := range count {
		id := binary.NativeEndian.Uint64(list[8*i:])
		if id < 2 || id >= c.head.pages || c.used[id] {
			return broken("page %d is both free and in use", id)
		}
		c.used[id] = true
	}
	if i := slices.Index(c.used[2:], false); i >= 0 {
		return broken("page %d is neither free nor in use", i+2)
	}
	return nil
}
