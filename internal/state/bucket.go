package state

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Bucket is a part's own table of rows. It is safe for concurrent use.
type Bucket struct {
	s    *State
	name []byte
}

// Put stores a row and returns when it is on disk. On error, a full disk for
// example, the row is as it was.
func (b *Bucket) Put(key string, value []byte) error {
	return b.update("save", func(bk *bolt.Bucket) error { return bk.Put([]byte(key), seal([]byte(key), value)) })
}

// Delete removes a row, if there is one, and returns when that is on disk.
func (b *Bucket) Delete(key string) error {
	return b.update("delete", func(bk *bolt.Bucket) error { return bk.Delete([]byte(key)) })
}

// Get returns a copy of a row, or nil when there is none. A row that fails its
// checksum is set aside and counts as missing.
func (b *Bucket) Get(key string) ([]byte, error) {
	var value []byte
	damaged := false
	err := b.s.transact(false, func(tx *bolt.Tx) error {
		bk := tx.Bucket(b.name)
		if bk == nil {
			return nil
		}
		if row := bk.Get([]byte(key)); row != nil {
			v, ok := unseal([]byte(key), row)
			value, damaged = bytes.Clone(v), !ok
		}
		return nil
	})
	if err != nil || !damaged {
		return value, err
	}
	return nil, b.setAside(key)
}

// All returns every intact row, and the number of damaged ones that were set
// aside.
func (b *Bucket) All() (rows map[string][]byte, damaged int, err error) {
	rows = map[string][]byte{}
	var bad []string
	err = b.s.transact(false, func(tx *bolt.Tx) error {
		bk := tx.Bucket(b.name)
		if bk == nil {
			return nil
		}
		return bk.ForEach(func(k, row []byte) error {
			if v, ok := unseal(k, row); ok {
				rows[string(k)] = bytes.Clone(v)
			} else {
				bad = append(bad, string(k))
			}
			return nil
		})
	})
	for _, k := range bad {
		if e := b.setAside(k); e != nil && err == nil {
			err = e
		}
	}
	return rows, len(bad), err
}

// setAside moves a damaged row, as it is, to where a person can look at it.
func (b *Bucket) setAside(key string) error {
	return b.s.transact(true, func(tx *bolt.Tx) error {
		from := tx.Bucket(b.name)
		to, err := tx.CreateBucketIfNotExists(asideBucket)
		if err != nil {
			return err
		}
		if err := to.Put(append(append(bytes.Clone(b.name), '/'), key...), bytes.Clone(from.Get([]byte(key)))); err != nil {
			return err
		}
		return from.Delete([]byte(key))
	})
}

func (b *Bucket) update(verb string, fn func(*bolt.Bucket) error) error {
	err := b.s.transact(true, func(tx *bolt.Tx) error {
		bk, err := tx.CreateBucketIfNotExists(b.name)
		if err != nil {
			return err
		}
		return fn(bk)
	})
	if err != nil {
		return fmt.Errorf("state: cannot %s in %s: %w", verb, b.s.path(fileName), err)
	}
	return nil
}
