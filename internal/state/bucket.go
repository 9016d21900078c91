package state

import (
	"bytes"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Bucket is a part's own table of rows. It is safe for concurrent use.
type Bucket struct {
	s    *State
	name []byte
}

// Row is one change of a Save: Value nil deletes the row, empty is a value.
type Row struct {
	Key   string
	Value []byte
}

// Put stores a row and returns when it is on disk. On error, a full disk for
// example, the row is as it was.
func (b *Bucket) Put(key string, value []byte) error {
	return b.update("save", func(e *edit) error { return e.put([]byte(key), value) })
}

// Delete removes a row, if there is one, and returns when that is on disk.
func (b *Bucket) Delete(key string) error {
	return b.update("delete", func(e *edit) error { return e.delete([]byte(key)) })
}

// Save makes all changes in one transaction, all of them or none, and returns
// when they are on disk. Sorted by key it is several times as fast.
func (b *Bucket) Save(rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	return b.update("save", func(e *edit) error {
		for _, r := range rows {
			var err error
			if r.Value == nil {
				err = e.delete([]byte(r.Key))
			} else {
				err = e.put([]byte(r.Key), r.Value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Backup is State.Backup, for a part that has only a bucket.
func (b *Bucket) Backup() error { return b.s.Backup() }

// Report is State.Report, for a part that has only a bucket.
func (b *Bucket) Report() []string { return b.s.Report() }

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
	return nil, b.setAside([]string{key})
}

// All returns every intact row, and the number of damaged ones that were set
// aside.
func (b *Bucket) All() (rows map[string][]byte, damaged int, err error) {
	rows = map[string][]byte{}
	damaged, err = b.Each(func(key, value []byte) { rows[string(key)] = bytes.Clone(value) })
	return rows, damaged, err
}

// Each calls fn for every intact row, in the order of the keys, and returns
// the number of damaged ones that were set aside. fn must keep neither key nor
// value, and must not use the state.
func (b *Bucket) Each(fn func(key, value []byte)) (damaged int, err error) {
	var bad []string
	err = b.s.transact(false, func(tx *bolt.Tx) error {
		bk := tx.Bucket(b.name)
		if bk == nil {
			return nil
		}
		return bk.ForEach(func(k, row []byte) error {
			if v, ok := unseal(k, row); ok {
				fn(k, v)
			} else {
				bad = append(bad, string(k))
			}
			return nil
		})
	})
	if len(bad) > 0 {
		err = errors.Join(err, b.setAside(bad))
	}
	return len(bad), err
}

// setAside moves damaged rows, as they are, to where a person can look at them.
func (b *Bucket) setAside(keys []string) error {
	return b.s.transact(true, func(tx *bolt.Tx) error { return setAside(tx, b.name, keys) })
}

func setAside(tx *bolt.Tx, name []byte, keys []string) error {
	e, err := beginEdit(tx, name)
	if err != nil {
		return err
	}
	to, err := tx.CreateBucketIfNotExists(asideBucket)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := to.Put(append(append(bytes.Clone(name), '/'), key...), bytes.Clone(e.rows.Get([]byte(key)))); err != nil {
			return err
		}
		if err := e.rows.Delete([]byte(key)); err != nil {
			return err
		}
	}
	return recount(tx, name)
}

func (b *Bucket) update(verb string, fn func(*edit) error) error {
	err := b.s.transact(true, func(tx *bolt.Tx) error {
		e, err := beginEdit(tx, b.name)
		if err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
		return e.end()
	})
	if err != nil {
		return fmt.Errorf("state: cannot %s in %s: %w", verb, b.s.path(b.s.file), err)
	}
	return nil
}
